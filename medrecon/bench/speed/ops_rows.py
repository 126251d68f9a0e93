# SPDX-License-Identifier: Apache-2.0
"""Every op on the inputs of the selftest, forward and with gradients, and the assignment of images' keypoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medrecon.bench.speed import peers
from medrecon.bench.speed.workload import FUNCTION, Workload, compiled, largest_difference, name_of
from medrecon.ops import functions, reference
from medrecon.ops.selftest_cases import Case, cases

# Why torch.compile is not tried: loops of Python whose length the data decide, or thousands of nodes and many minutes.
NOT_COMPILED = {
    "march_rays": "its loop ends where the rays end",
    "fused_grid": "its loop ends where the rays end",
    "fused_grid_loss": "its loop ends where the rays end",
    "log_sinkhorn": "its iterations become one graph of many minutes",
}


def op_workloads(device: str, quick: bool, compile: bool, only: str = "") -> Iterator[Workload]:
    """Few and many rays of 33 intervals, and as many of 64 as in the training step; then log_sinkhorn for 256 to 1024
    keypoints a picture.
    """
    sizes = [(1, 33)] if quick else [(1, 33), (4, 64), (8, 33)] if device == "cpu" else [(1, 33), (8, 33), (64, 33)]
    for scale, samples in sizes:
        generator = torch.Generator().manual_seed(0)
        for case in cases(generator, scale, samples):
            if case.name != "log_sinkhorn":
                last = (scale, samples) == sizes[-1]
                yield from _rows(case, f"{257 * scale} x {samples}", device, compile and last, only, samples)
    for items in (128,) if quick else (256, 512, 1024):
        case, size = _assignment(items), f"{items + 1} x {items + 1} x 100"
        # What plain torch keeps for the way back of the largest are gigabytes.
        yield from _rows(replace(case, grads=items < 1024), size, device, compile, only)


def _assignment(items: int) -> Case:
    """SuperGlue's last layer: scores of as many keypoints in both pictures, 100 iterations."""
    scores = 4 * torch.randn(1, items, items, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return Case(
        "log_sinkhorn",
        partial(functions.log_sinkhorn, iterations=100),
        lambda s, b: reference.log_sinkhorn(s, b.reshape(1, 1, 1), 100),
        (scores.double(), torch.ones(1, dtype=torch.float64)),
    )


def _rows(case: Case, size: str, device: str, compile: bool, only: str, samples: int = 0) -> Iterator[Workload]:
    kinds = ("forward", "forward + backward") if case.grads else ("forward",)
    if case.name.endswith("_loss"):  # the gradients come with the value
        kinds = kinds[1:]
    kinds = [what for what in kinds if only in name_of(case.name, what, size)]
    if not kinds:
        return
    inputs = tuple(x.to(device, torch.float32) for x in case.inputs)
    with torch.no_grad():
        made = _tuple(case.op(*inputs))
    forward = flops(case.name, inputs, made, samples)
    moved_in, moved_out = sum(x.nbytes for x in inputs), sum(x.nbytes for x in made)

    def difference() -> float:
        with torch.no_grad():
            return largest_difference(_tuple(case.op(*inputs)), _tuple(case.plain(*inputs)))

    for what in kinds:
        backward = what != "forward"
        call = partial(_call, inputs=inputs, backward=backward)
        makers: dict[str, Any] = {"medrecon": partial(call, case.op), "eager": partial(call, case.plain)}
        if compile:
            makers["compiled"] = NOT_COMPILED.get(case.name) or compiled(case.plain, call)
        makers |= peers.makers(case.name, inputs, backward)
        yield Workload(
            case.name,
            what,
            size,
            3 * forward if backward else forward,
            # The way back reads the inputs and the results' gradients and writes those of the inputs.
            3 * moved_in + 2 * moved_out if backward else moved_in + moved_out,
            makers,
            difference,
        )


def _call(function: Callable, inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], Any]:
    if not backward:

        def forward() -> None:
            with torch.no_grad():
                function(*inputs)

        return forward
    leaves = [x.clone().requires_grad_() for x in inputs]

    def both() -> None:
        outputs = _tuple(function(*leaves))
        torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])

    return both


def flops(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], samples: int = 0) -> float:
    """Arithmetic of a forward pass; with gradients three times as much, as for a network. 0: not counted.

    Counted is the arithmetic of the definition, not of our way to it: no rebate for angles doubled, levels left out or
    Gaussians that are shared.

    Args:
        samples: of a ray, for ops whose results do not tell.
    """
    made = outputs[0].numel()
    intervals = inputs[0].shape[0] * (inputs[0].shape[-1] - 1) if inputs[0].dim() == 2 else inputs[0].numel()
    if name == "cast_rays":  # mip-NeRF eq. 7 (20), then 4 for each of 3 means and 3 variances
        return 44 * intervals
    if name == "positional_encoding":  # an angle and its sine or cosine
        return (1 + FUNCTION) * made
    if name == "integrated_positional_encoding":  # the same, damped; a damping serves a sine and a cosine
        return (2 + 1.5 * FUNCTION) * made
    if name in ("composite", "composite_packed"):  # an exponential, the weight, and sums of colour, depth and opacity
        return (FUNCTION + 14) * outputs[3].numel()
    if name == "resample":  # blurring, normalising, summing and inverting the histogram
        return 10 * (inputs[1].numel() + made)
    if name == "log_sinkhorn":  # per iteration two products of the matrix exp(scores) and a vector (Cuturi 2013)
        return 100 * 4 * made
    if name == "grid_encode":  # per level: place and weights 30, then 8 corners; 4 levels of 2 features in the selftest
        return made / 2 * (30 + 8 * 2 * 2)
    if name == "fused_field":  # the network's matrices, 2 per weight and interval
        return 2 * inputs[0].numel() * outputs[3].numel()
    if name == "fused_field_loss":
        return 2 * inputs[0].numel() * inputs[1].shape[0] * samples
    return 0


def _tuple(value) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
