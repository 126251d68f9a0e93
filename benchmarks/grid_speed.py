# SPDX-License-Identifier: Apache-2.0
"""Speed of the hash grid, of ray marching and of a training step in float32, beside plain torch in the same run.

grid_encode: 8 levels x 2 features, 2^18 entries, resolutions 16 to 256, forward and gradient of the table; at points
drawn anywhere, and at points along rays as marching gives them. march_rays: rays across 128^3 cells, a hollow ball.
The step: the same grid, rays and ball, a network 32 wide with a hidden layer of 32 for the colour, to which 16 numbers
of the view direction come; marching, encoding, network, compositing, squared error, all gradients, Adam. Beside it the
same step in plain torch with torch.optim.Adam, once as a whole and once with samples that the kernel has marched."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from medrecon import ops
from medrecon.ops import reference
from medrecon.ops.reference.fused_grid import PLAIN

RESOLUTIONS, LOG2_SIZE, FEATURES = (16, 24, 35, 53, 78, 116, 172, 256), 18, 2
CELLS, STEP = 128, 1 / 256


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1 << 18)
    parser.add_argument("--rays", type=int, default=1 << 14)
    parser.add_argument("--step-rays", type=int, default=6144, help="of a training step; each has about 24 samples")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    info = ops.backend()
    print(f"backend {info.name}, {info.build_info.get('simd')}, {options.threads} threads")

    bits = hollow_ball()
    origins, directions = rays(options.rays)
    near, far = torch.zeros(len(origins)), torch.full((len(origins),), 4.0)
    packed = ops.march_rays(origins, directions, near, far, bits, CELLS, STEP)
    index = packed.ray.long()
    along = origins[index] + ((packed.t0 + packed.t1) / 2)[:, None] * directions[index]
    points = {"anywhere": torch.rand(options.samples, 3), "along rays": along[: options.samples]}
    table = torch.randn(ops.grid_levels(RESOLUTIONS, LOG2_SIZE)[-1], FEATURES).requires_grad_()
    print(f"{'ns per sample':<40}{'op':>10}{'plain':>10}{'ratio':>8}")
    for place, x in points.items():
        for sigma in (None, torch.full((len(x),), 2e-3)):
            calls = [grid_step(f, x, sigma, table) for f in (ops.grid_encode, reference.grid_encode)]
            fast, plain = (1e9 * s / len(x) for s in medians(calls, options.repeats))
            name = f"grid_encode {place}{'' if sigma is None else ', with sigma'}"
            print(f"{name:<40}{fast:>10.1f}{plain:>10.1f}{plain / fast:>8.1f}")
    scene = (origins, directions, near, far, bits, CELLS, STEP)
    calls = [lambda: ops.march_rays(*scene), lambda: reference.march_rays(*scene)]
    fast, plain = medians(calls, options.repeats)
    print(f"march_rays: {len(origins) / fast:,.0f} rays/s, {len(index) / fast:,.0f} intervals/s of {len(index)},")
    print(f"plain torch {len(origins) / plain:,.0f} rays/s, ratio {plain / fast:.1f}")
    training_steps(bits, options.step_rays, options.repeats)


def training_steps(bits: Tensor, n: int, repeats: int) -> None:
    """Prints the speed of whole steps."""
    origins, directions = rays(n)
    near, far, view = torch.zeros(n), torch.full((n,), 4.0), torch.randn(n, 16)
    packed = ops.march_rays(origins, directions, near, far, bits, CELLS, STEP)
    target, weight = torch.rand(n, 3), torch.full((n,), 1 / n)
    shape = {"resolutions": RESOLUTIONS, "log2_size": LOG2_SIZE, "width": 32, "colour_width": 32}

    def step(forward: Callable, optimiser: Callable) -> Callable[[], object]:
        entries, n_in = ops.grid_levels(RESOLUTIONS, LOG2_SIZE)[-1], len(RESOLUTIONS) * FEATURES
        table = torch.nn.Parameter((torch.rand(entries, FEATURES) - 0.5) * 2e-4)
        parameters = torch.nn.Parameter(torch.randn((n_in + 1) * 32 + 33 + 35 * 32 + 3) * 0.2)
        from_view = torch.nn.Linear(16, 32)
        adam = optimiser([table, parameters, *from_view.parameters()], lr=1e-3, betas=(0.9, 0.99), eps=1e-15)

        def run() -> None:
            adam.zero_grad()
            forward(table, parameters, from_view(view)).backward()
            adam.step()

        return run

    def fused(table: Tensor, parameters: Tensor, ray_bias: Tensor) -> Tensor:
        field = (origins, directions, near, far, bits, table, parameters, ray_bias)
        return ops.fused_grid_loss(*field, target, weight, resolution=CELLS, step=STEP, **shape)[0]

    def plain(march: Callable) -> Callable:
        def forward(table: Tensor, parameters: Tensor, ray_bias: Tensor) -> Tensor:
            field = (origins, directions, near, far, bits, table, parameters, ray_bias, None, None, None)
            numbers = (CELLS, STEP, 0.0, 1024, 0.0, RESOLUTIONS, LOG2_SIZE, 32, 1, 32, 0.0)
            steps = PLAIN._replace(march=march)
            return reference.fused_grid_loss(*field, *numbers, target=target, ray_weight=weight, steps=steps)[0]

        return forward

    names = ("fused_grid_loss, LazyAdam", "plain torch, marched before", "plain torch, whole")
    forwards = (fused, plain(lambda *_: packed), plain(reference.march_rays))
    optimisers = (ops.LazyAdam, torch.optim.Adam, torch.optim.Adam)
    seconds = medians([step(*pair) for pair in zip(forwards, optimisers)], repeats)
    samples = len(packed.ray)
    print(f"training step of {n} rays, {samples} samples:{'ms':>14}{'M samples/s':>14}{'ratio':>8}")
    for name, s in zip(names, seconds):
        print(f"{name:<40}{1e3 * s:>14.1f}{samples / s / 1e6:>14.2f}{s / seconds[0]:>8.1f}")


def grid_step(encode: Callable, x: Tensor, sigma: Tensor | None, table: Tensor) -> Callable[[], object]:
    """Forward and the gradient of the table."""
    grad = torch.randn(len(x), len(RESOLUTIONS) * FEATURES)
    return lambda: torch.autograd.grad(encode(x, sigma, table, RESOLUTIONS, LOG2_SIZE), table, grad)


def medians(calls: list[Callable], repeats: int) -> list[float]:
    """Seconds of each, called in turns so that other work on the machine meets all."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, into in zip(calls, times):
            begun = time.perf_counter()
            call()
            into.append(time.perf_counter() - begun)
    return [statistics.median(t[1:]) for t in times]


def hollow_ball() -> Tensor:
    """Occupied cells between two radii around the centre, as bits with x fastest."""
    axis = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().flatten()
    filled = ((radius > 0.3) & (radius < 0.36)).reshape(-1, 8)
    return (filled << torch.arange(8)).sum(-1).to(torch.uint8)


def rays(n: int) -> tuple[Tensor, Tensor]:
    """From a sphere around the cube to points in it, of unit length."""
    origins = 0.5 + 1.2 * torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)
    return origins, torch.nn.functional.normalize(torch.rand(n, 3) - origins, dim=-1)


if __name__ == "__main__":
    main()
