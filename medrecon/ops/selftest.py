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
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import backend, functions, reference

SMALLEST_COSINE = 0.99999


@dataclass(frozen=True)
class Case:
    """One op on one set of inputs.

    Attributes:
        op, plain: the public function and its reference, called with the same tensors.
        inputs: float64 tensors, exactly representable in float32.
        bound: largest forward error, relative to the largest value of the reference (at least 1).
        grads: whether gradients are checked.
    """

    name: str
    op: Callable
    plain: Callable
    inputs: tuple[Tensor, ...]
    bound: float = 1e-5
    grads: bool = True


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


def cases(generator: torch.Generator, scale: int = 1, samples: int = 33) -> list[Case]:
    """Random inputs for every op; ``scale`` multiplies the number of rays, which have so many intervals."""

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        values = torch.rand(*shape, generator=generator, dtype=torch.float32) * (high - low) + low
        return values.double()

    rays = 257 * scale
    t = uniform(rays, samples + 1, low=0.5, high=4.0).sort(-1).values
    origins, directions = uniform(rays, 3, low=-1), uniform(rays, 3, low=-1)
    radii = uniform(rays, 1, low=1e-3, high=1e-2)
    points, spread = uniform(rays * samples, 3, low=-2, high=2), uniform(rays * samples, 3, low=-18, high=0).exp()
    spread = spread.float().double()
    rgb, density = uniform(rays, samples, 3), uniform(rays, samples, high=4.0)
    weights = uniform(rays, samples) ** 4
    scores = uniform(2, 61, 47, low=-4, high=4)

    def composite_on(background: Tensor, function: Callable) -> Callable:
        return lambda *tensors: function(*tensors, background.to(tensors[0]))

    # the samples of `rays` equal rays, dealt out anew: some rays have none, some have many
    cuts = torch.randint(0, rays * samples + 1, (rays - 1,), generator=generator).sort().values
    offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([rays * samples])])

    def packed_by(function: Callable) -> Callable:
        return lambda *tensors: function(*tensors[:4], offsets.to(tensors[0].device), tensors[4], stop=1e-3)

    white = torch.ones(3)
    degrees = {"min_deg": 0, "max_deg": 16}
    encode, encode_plain = functions.positional_encoding, reference.positional_encoding
    integrate, integrate_plain = functions.integrated_positional_encoding, reference.integrated_positional_encoding
    resampled = {"n": samples + 1, "padding": 0.01}
    grid = {"resolutions": (4, 9, 20, 43), "log2_size": 12}
    table = uniform(reference.grid_levels(**grid)[-1], 2, low=-1)
    bits = torch.randint(256, (16**3 // 8,), generator=generator, dtype=torch.uint8)
    # Multiples of 1/64: no rounding in float32, so that no interval changes its cell.
    dyadic = [x.mul(64).round() / 64 for x in (origins, directions)]
    dyadic += [t[:, 0].mul(64).floor() / 64, t[:, -1].ceil()]

    def through_grid(function: Callable) -> Callable:
        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            like = tensors[0]
            fixed = [x.to(like) for x in dyadic], bits.to(like.device)
            numbers = (16, 1 / 64, 0.0, 1024, 0.0, *grid.values(), 32, 1, 24, 1.0)
            return function(*fixed[0], fixed[1], *tensors, None, None, white.to(like), *numbers)[:3]

        return call

    def fused_grid(*inputs) -> tuple[Tensor, ...]:
        names = ("resolution", "step", "cone", "max_samples", "stop", *grid, "width", "layers", "colour_width")
        numbers = dict(zip((*names, "density_shift"), inputs[11:]))
        return functions.fused_grid(*inputs[:8], background=inputs[10], **numbers)

    field = {"width": 64, "layers": 2, "colour_width": 32, "density_shift": -1.0, "density_gain": 2.0}

    def through_field(plain: bool) -> Callable:
        def call(parameters: Tensor, ray_bias: Tensor, background: Tensor) -> tuple[Tensor, ...]:
            fixed = [x.to(parameters) for x in (t, origins, directions, radii)]
            if plain:
                return reference.fused_field(*fixed, parameters, ray_bias, background, None, 0, 16, *field.values())
            return functions.fused_field(*fixed, parameters, ray_bias, background=background, max_deg=16, **field)

        return call

    n_parameters = 9 * 32 + 33 + 24 * 35 + 3
    n_field_parameters = 97 * 64 + 65 * 64 + 65 + 32 * 67 + 3
    return [
        Case("cast_rays", functions.cast_rays, reference.cast_rays, (t, origins, directions, radii)),
        Case("positional_encoding", partial(encode, **degrees), partial(encode_plain, **degrees), (points,), 1e-6),
        Case(
            "integrated_positional_encoding",
            partial(integrate, **degrees),
            partial(integrate_plain, **degrees),
            (points, spread),
            1e-6,
        ),
        Case(
            "composite",
            composite_on(white, functions.composite),
            composite_on(white, reference.composite),
            (rgb, density, t, directions),
        ),
        Case(
            "composite_packed",
            packed_by(functions.composite_packed),
            packed_by(reference.composite_packed),
            (rgb.flatten(0, 1), density.flatten(), t[:, :-1].flatten(), t[:, 1:].flatten(), directions),
        ),
        Case(
            "resample",
            partial(functions.resample, **resampled),
            partial(reference.resample, **resampled),
            (t, weights.float().double()),
            1e-4,  # inverting a nearly flat distribution magnifies rounding
            grads=False,
        ),
        Case(
            "log_sinkhorn",
            partial(functions.log_sinkhorn, iterations=50),
            lambda s, b: reference.log_sinkhorn(s, b.reshape(1, 1, 1), 50),
            (scores, torch.tensor([1.0], dtype=torch.float64)),
        ),
        Case(
            "grid_encode",
            partial(functions.grid_encode, **grid),
            partial(reference.grid_encode, **grid),
            # Odd multiples of 1/2048, never on the border of a cell: in float32 too each point keeps its cell.
            (
                uniform(rays * samples, 3).mul(1024).floor().add(0.5) / 1024,
                uniform(rays * samples, low=1e-3, high=0.1),
                table,
            ),
        ),
        Case(
            "march_rays",
            lambda *tensors: _floats(functions.march_rays(*tensors, bits.to(tensors[0].device), 16, 1 / 64)),
            lambda *tensors: _floats(reference.march_rays(*tensors, bits.to(tensors[0].device), 16, 1 / 64)),
            tuple(dyadic),
            grads=False,
        ),
        Case(
            "fused_field",
            through_field(False),
            through_field(True),
            (
                uniform(n_field_parameters, low=-0.2, high=0.2),
                uniform(rays, 32, low=-1),
                uniform(rays, 3),
            ),
        ),
        Case(
            "fused_grid",
            through_grid(fused_grid),
            through_grid(reference.fused_grid),
            (table, uniform(n_parameters, low=-0.5, high=0.5), uniform(rays, 24, low=-1)),
        ),
    ]


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


def _floats(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.to(tensors[-1].dtype) for x in tensors)


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
