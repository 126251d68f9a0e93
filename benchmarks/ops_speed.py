# SPDX-License-Identifier: Apache-2.0
"""Speed of each op in float32 beside the plain-torch reference in the same run, and how far their results are apart.

Forward + backward, and the integrated encoding forward only; the last row is an assignment of 1024 to 1024 items, as in
matching, forward only. `copy` is the share of the time that copying the row's tensors would take, at the speed at which
torch copies 64 MiB in the same run: the limit of an op that only reads its inputs and writes its results once."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from medrecon import ops
from medrecon.ops import reference
from medrecon.ops.selftest import Case, cases


@dataclass(frozen=True)
class Row:
    """Median milliseconds of one op, and how many times faster it is than the reference.

    copy_share: time in which torch copies as many bytes as inputs, results and gradients have, over the op's.
    difference: largest difference of their results, relative to the largest result of the reference (at least 1).
    """

    op: str
    ms: float
    reference_ms: float
    ratio: float
    spread: float
    copy_share: float
    difference: float


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", type=int, help="times 257 rays of 33 intervals; default 4 on a CPU, 64 on a GPU")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scale = options.scale or (4 if options.device == "cpu" else 64)

    info = ops.backend()
    generator = torch.Generator().manual_seed(0)
    speed = copy_speed(options.device)
    rows = []
    for case in cases(generator, scale):
        rows.append(measure(case, options.device, options.repeats, speed))
        if case.name == "integrated_positional_encoding":
            alone = replace(case, name=f"{case.name}_forward", grads=False)
            rows.append(measure(alone, options.device, options.repeats, speed))
    rows.append(measure(assignment(generator), options.device, min(5, options.repeats), speed))
    print(
        f"backend {info.name}, {options.device}, {torch.get_num_threads()} threads, {257 * scale} rays x 33 intervals"
    )
    print(f"copying 64 MiB: {speed / 1e9:.1f} GB/s read and written")
    print(f"{'op':<40}{'ms':>10}{'plain ms':>10}{'ratio':>8}{'spread':>8}{'copy':>7}{'difference':>12}")
    for row in rows:
        times = f"{row.ms:>10.3f}{row.reference_ms:>10.3f}{row.ratio:>8.2f}{row.spread:>8.0%}"
        print(f"{row.op:<40}{times}{row.copy_share:>7.0%}{row.difference:>12.1e}")
    if options.json:
        machine = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
        result = {"schema": 1, "device": machine, "threads": torch.get_num_threads(), "torch": torch.__version__}
        backend = asdict(info)
        backend["build_info"].pop("file", None)  # a path of this machine
        result |= {"scale": scale, "copy_bytes_per_s": speed, "backend": backend, "ops": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1))


def assignment(generator: torch.Generator) -> Case:
    """SuperGlue's last layer: scores of 1024 x 1024 keypoints, 100 iterations."""
    scores = 4 * torch.randn(1, 1024, 1024, generator=generator, dtype=torch.float64)
    return Case(
        "log_sinkhorn_1024x1024_x100",
        lambda s, b: ops.log_sinkhorn(s, b, 100),
        lambda s, b: reference.log_sinkhorn(s, b, 100),
        (scores, torch.ones(1, 1, 1, dtype=torch.float64)),
        grads=False,
    )


def copy_speed(device: str) -> float:
    """Bytes read and written per second while torch copies 64 MiB."""
    source = torch.ones(1 << 24, device=device)
    target, times = torch.empty_like(source), []
    for _ in range(12):
        begun = time.perf_counter()
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return 2 * source.nbytes / statistics.median(times[2:])


def measure(case: Case, device: str, repeats: int, speed: float) -> Row:
    """Alternates op and reference, so that other work on the machine meets both."""
    inputs = [x.to(device, torch.float32).requires_grad_(case.grads) for x in case.inputs]
    times: dict[str, list[float]] = {"op": [], "plain": []}
    results: dict[str, tuple[torch.Tensor, ...]] = {}
    for _ in range(repeats + 2):
        for name, function in (("op", case.op), ("plain", case.plain)):
            begun = time.perf_counter()
            output = function(*inputs)
            outputs = output if isinstance(output, tuple) else (output,)
            results[name] = outputs
            if case.grads:
                torch.autograd.grad(outputs, inputs, [torch.ones_like(x) for x in outputs])
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - begun))
    ms, plain = (statistics.median(times[name][2:]) for name in ("op", "plain"))
    quarters = statistics.quantiles(times["op"][2:], n=4)
    difference = max(
        (a - b).abs().max().item() / max(1.0, b.abs().max().item()) for a, b in zip(results["op"], results["plain"])
    )
    given, made = sum(x.nbytes for x in inputs), sum(x.nbytes for x in results["op"])
    moved = 2 * (given + made) + given if case.grads else given + made  # backward: inputs, cotangents, gradients
    copy_share = 1e3 * moved / speed / ms
    return Row(case.name, ms, plain, plain / ms, (quarters[2] - quarters[0]) / ms, copy_share, difference)


if __name__ == "__main__":
    main()
