# SPDX-License-Identifier: Apache-2.0
"""``python -m medrecon.ops.selftest``: every op, forward and backward, against the float64 reference on fresh inputs.

Needs only torch and numpy. Prints errors and timings; exit code 1 when an error is beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import backend
from .selftest_cases import Case, cases

SMALLEST_COSINE = 0.99999


@dataclass(frozen=True)
class Outcome:
    """Errors and median times of one case; cosine is 1 where no gradient is checked."""

    name: str
    dtype: str
    error: float
    bound: float
    cosine: float
    ms: float
    reference_ms: float
    ok: bool


def check(case: Case, device: str, dtype: torch.dtype, generator: torch.Generator, repeats: int = 5) -> Outcome:
    """Runs one case and measures it."""
    expected = _tuple(case.plain(*case.inputs))
    cotangents = [torch.rand(x.shape, generator=generator, dtype=torch.float32).double() - 0.5 for x in expected]
    here = [x.to(device, dtype) for x in case.inputs]
    cotangents_here = [x.to(device, dtype) for x in cotangents]

    actual = _tuple(case.op(*here))
    error = max(_error(a, e) for a, e in zip(actual, expected))
    cosine = 1.0
    if case.grads:
        truth = _gradients(case.plain, case.inputs, cotangents)
        found = _gradients(case.op, here, cotangents_here)
        cosine = min(_cosine(f, g) for f, g in zip(found, truth))
    ms, reference_ms = (_median_ms(f, here, cotangents_here, case.grads, repeats) for f in (case.op, case.plain))
    bound = case.bound if dtype == torch.float32 else 1e-9
    ok = error <= bound and cosine >= SMALLEST_COSINE  # NaN compares false
    return Outcome(case.name, str(dtype).removeprefix("torch."), error, bound, cosine, ms, reference_ms, ok)


def run(device: str = "cpu", seed: int | None = None, scale: int = 1) -> list[Outcome]:
    """All ops in float32 and float64 on one device."""
    generator = torch.Generator().manual_seed(secrets.randbits(32) if seed is None else seed)
    return [
        check(case, device, dtype, generator)
        for case in cases(generator, scale)
        for dtype in (torch.float32, torch.float64)
    ]


def _tuple(value) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def _error(actual: Tensor, expected: Tensor) -> float:
    size = max(1.0, expected.abs().max().item())
    return (actual.detach().cpu().double() - expected).abs().max().item() / size


def _gradients(function: Callable, inputs, cotangents) -> tuple[Tensor, ...]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(_tuple(function(*leaves)), leaves, cotangents)


def _cosine(found: Tensor, truth: Tensor) -> float:
    found, truth = found.cpu().double().flatten(), truth.flatten()
    return (found @ truth / (found.norm() * truth.norm()).clamp(min=1e-300)).item()


def _median_ms(function: Callable, inputs, cotangents, grads: bool, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        _gradients(function, inputs, cotangents) if grads else function(*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m medrecon.ops.selftest", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--seed", type=int, help="repeat the inputs of an earlier run")
    parser.add_argument("--scale", type=int, default=1, help="multiplies the number of rays (257)")
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("this torch sees no CUDA device")
        return 1

    seed = secrets.randbits(32) if options.seed is None else options.seed
    info = backend()
    print(f"ops backend: {info.name} ({info.reason}); torch {torch.__version__}, {options.device}, seed {seed}")
    if options.device.startswith("cuda") and not info.cuda:
        print("no CUDA kernels in this backend: what runs on the GPU is the plain-torch reference")
    outcomes = run(options.device, seed, options.scale)
    print(f"{'op':<32}{'dtype':<9}{'error':>10}{'bound':>9}{'1-cosine':>10}{'ms':>10}{'plain ms':>10}")
    for o in outcomes:
        print(
            f"{o.name:<32}{o.dtype:<9}{o.error:>10.1e}{o.bound:>9.0e}{1 - o.cosine:>10.1e}{o.ms:>10.2f}"
            f"{o.reference_ms:>10.2f}{'' if o.ok else '  FAILED'}"
        )
    failed = [o for o in outcomes if not o.ok]
    print(f"{len(failed)} of {len(outcomes)} failed" if failed else f"all {len(outcomes)} passed")
    if options.json:
        result = {
            "schema": 1,
            "backend": asdict(info),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
            "threads": torch.get_num_threads(),
            "seed": seed,
            "passed": not failed,
            "ops": [asdict(o) for o in outcomes],
        }
        options.json.write_text(json.dumps(result, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
