# SPDX-License-Identifier: Apache-2.0
"""Measures workloads in turns with the machine's own limits, and keeps the results of a folder up to date."""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from medrecon.bench.speed.alternating import alternate
from medrecon.bench.speed.field_rows import field_workloads
from medrecon.bench.speed.ops_rows import op_workloads
from medrecon.bench.speed.workload import Workload
from medrecon.errors import ConfigError
from medrecon.ops import backend

# A turn repeats a short call for so long, and before that as long untimed: the first calls of a turn find other data in
# the cache and the threads asleep, which a loop that trains does not.
TURN_SECONDS = 0.005
MOST_CALLS = 50
RESULTS = "results.json"


def run(
    out: Path | None,
    device: str = "cpu",
    quick: bool = False,
    only: str = "",
    threads: int = 0,
    compile: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures all rows, or those whose name contains ``only``; rows of earlier runs in the same folder are kept.

    Args:
        out: folder whose results.json is made or brought up to date; None: nothing is written.
        threads: of torch; 0 leaves what it has, which is all cores.

    Returns:
        what results.json holds: machine, settings and one entry per row.

    Raises:
        ConfigError: no such device; no row of that name; the folder holds results of another machine or version.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("this torch sees no CUDA device", "leave out --device, or see `medrecon doctor`")
    if threads:
        torch.set_num_threads(threads)
    rounds = 3 if quick else 9
    results = _begin(device, quick)
    file = out / RESULTS if out else None
    if file and file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        differs = [key for key in results if key != "ops" and kept.get(key) != results[key]]
        if differs:
            raise ConfigError(
                f"{file} comes from another machine, version or setting ({', '.join(differs)})",
                "give another --out, or remove that file",
            )
        results = kept
    ceilings = _ceilings(device, quick)
    measured = 0
    for workload in workloads(device, quick, compile, only):
        if only not in workload.name:
            continue
        row = measure(workload, ceilings, rounds, device)
        results["ops"] = [r for r in results["ops"] if not _same_row(r, row)] + [row]
        measured += 1
        say(line(row))
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            partial.replace(file)
    if not measured:
        raise ConfigError(f"no row is called {only!r}", "for example --only composite, or --only 'training step'")
    return results


def workloads(device: str, quick: bool, compile: bool, only: str) -> Iterator[Workload]:
    """All rows, made one at a time: the inputs of one are gone before the next are made."""
    wanted = (device, quick, compile, only)
    return itertools.chain(field_workloads(*wanted), op_workloads(*wanted))


def measure(workload: Workload, ceilings: dict[str, Callable], rounds: int, device: str) -> dict[str, Any]:
    """One row: median times of every implementation and the ceilings, which took turns."""
    calls: dict[str, Callable[[], Any]] = {}
    left_out: dict[str, str] = {}
    for name, maker in workload.makers.items():
        if isinstance(maker, str):
            left_out[name] = maker
            continue
        try:
            calls[name] = maker()
        except Exception as error:  # of a compiler or another library: the row says so
            if name in ("medrecon", "eager"):
                raise
            left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    turns, counts = {}, {}
    for name, call in {**calls, **ceilings}.items():
        turns[name], counts[name] = _turn(call, device)
    timings, _ = alternate(turns, [None], rounds)
    ms = {name: timing.ms / counts[name] for name, timing in timings.items()}
    best = {name: timing.best_ms / counts[name] for name, timing in timings.items()}
    speed = {name: 1e3 * ceiling.amount / ms[name] for name, ceiling in ceilings.items()}
    arithmetic = max(speed[name] for name in speed if name != "copy")
    limits = {"arithmetic": 1e3 * workload.flops / arithmetic, "copy": 1e3 * workload.bytes / speed["copy"]}
    limit = max(limits, key=limits.get)
    return {
        "op": workload.op,
        "what": workload.what,
        "size": workload.size,
        "ms": ms["medrecon"],
        "spread": timings["medrecon"].spread,
        "best_ms": best["medrecon"],
        "others": {
            name: {
                "ms": ms[name],
                "spread": timings[name].spread,
                "ratio": ms[name] / ms["medrecon"],
                "best_ratio": best[name] / best["medrecon"],
            }
            for name in calls
            if name != "medrecon"
        },
        "left_out": left_out,
        "flops": workload.flops,
        "bytes": workload.bytes,
        "ceilings": speed,
        "limit": limit,
        "fraction": limits[limit] / ms["medrecon"],
        "of_sgemm": 1e3 * workload.flops / speed["sgemm"] / ms["medrecon"],
        "difference": workload.same(),
    }


def line(row: dict[str, Any]) -> str:
    """A row in one line, for whoever waits."""
    others = ", ".join(f"{o['ratio']:.1f}x {name}" for name, o in row["others"].items())
    return (
        f"{row['op']} {row['what']}, {row['size']}: {row['ms']:.3g} ms (±{row['spread']:.0%}), {others}; "
        f"{row['fraction']:.0%} of the {row['limit']} limit, {row['of_sgemm']:.0%} of sgemm"
        + "".join(f"; without {name}: {reason}" for name, reason in row["left_out"].items())
    )


class _Ceiling:
    """A call, and how much it computes or moves."""

    def __init__(self, call: Callable[[], Any], amount: float):
        self.call, self.amount = call, amount

    def __call__(self) -> None:
        self.call()


def _ceilings(device: str, quick: bool) -> dict[str, _Ceiling]:
    """Of torch in float32: product of large matrices, the same product as a convolution, and copy of a large tensor.

    The convolution goes to oneDNN, whose kernels for AVX-512 are on some processors twice as fast as the BLAS that
    torch calls for matrices. The faster of the two is the limit of arithmetic.
    """
    n, count = (1024, 1 << 23) if quick else (2048, 1 << 24)
    if device != "cpu":
        n, count = 8192, 1 << 28
    a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
    source = torch.ones(count, device=device)
    product, target = torch.empty_like(a), torch.empty_like(source)
    found = {
        "sgemm": _Ceiling(lambda: torch.mm(a, b, out=product), 2 * n**3),
        "copy": _Ceiling(lambda: target.copy_(source), 2 * source.nbytes),
    }
    if device == "cpu":
        pixels = a.view(1, n, n // 32, 32).to(memory_format=torch.channels_last)
        kernel = b.view(n, n, 1, 1).to(memory_format=torch.channels_last)
        found["onednn"] = _Ceiling(lambda: torch.conv2d(pixels, kernel), 2 * n**3)
    return found


def _turn(call: Callable[[], Any], device: str) -> tuple[Callable[[Any], None], int]:
    """A function that makes so many calls that a turn is worth timing, and how many those are."""

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    call()
    wait()
    begun = time.perf_counter()
    call()
    wait()
    count = max(1, min(MOST_CALLS, round(TURN_SECONDS / max(time.perf_counter() - begun, 1e-6))))

    def turn(_: Any) -> None:
        for _ in range(count):
            call()
        wait()

    def prepare() -> None:
        if count > 1:
            turn(None)

    turn.prepare = prepare
    return turn, count


def _begin(device: str, quick: bool) -> dict[str, Any]:
    info = asdict(backend())
    info["build_info"].pop("file", None)  # a path of this machine
    return {
        "schema": 1,
        "machine": torch.cuda.get_device_name() if device.startswith("cuda") else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device,
        "quick": quick,
        "backend": info,
        "ops": [],
    }


def processor() -> str:
    """The processor's model, as Linux and macOS name it; no name of the machine."""
    try:
        for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _same_row(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[key] == b[key] for key in ("op", "what", "size"))
