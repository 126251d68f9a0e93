# SPDX-License-Identifier: Apache-2.0
"""Every op and its reference on random inputs: what the selftest checks and `medrecon bench speed` times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import functions, reference


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
    target, share = uniform(rays, 3), uniform(rays) / 2**8  # a power of two: exact in float32 too

    def taught(like: Tensor) -> dict[str, Tensor]:
        return {"target": target.to(like), "ray_weight": share.to(like)}

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

    def fused_grid(*inputs, loss: bool = False) -> tuple[Tensor, ...]:
        names = ("resolution", "step", "cone", "max_samples", "stop", *grid, "width", "layers", "colour_width")
        numbers = dict(zip((*names, "density_shift"), inputs[11:]))
        op = partial(functions.fused_grid_loss, **taught(inputs[0])) if loss else functions.fused_grid
        return op(*inputs[:8], background=inputs[10], **numbers)

    def grid_loss(plain: bool) -> Callable:
        def call(*inputs) -> tuple[Tensor, ...]:
            if plain:
                return reference.fused_grid_loss(*inputs, **taught(inputs[0]))
            return fused_grid(*inputs, loss=True)

        # What comes beside the loss carries no gradient.
        return lambda *tensors: through_grid(call)(*tensors)[0]

    field = {"width": 64, "layers": 2, "colour_width": 32, "density_shift": -1.0, "density_gain": 2.0}

    def through_field(plain: bool, loss: bool = False) -> Callable:
        def call(parameters: Tensor, ray_bias: Tensor, background: Tensor) -> tuple[Tensor, ...] | Tensor:
            fixed = [x.to(parameters) for x in (t, origins, directions, radii)]
            aim = taught(parameters) if loss else {}
            if plain:
                op = reference.fused_field_loss if loss else reference.fused_field
                made = op(*fixed, parameters, ray_bias, background, None, *aim.values(), 0, 16, *field.values())
            else:
                op = functions.fused_field_loss if loss else functions.fused_field
                made = op(*fixed, parameters, ray_bias, background=background, max_deg=16, **aim, **field)
            return made[0] if loss else made

        return call

    n_parameters = 9 * 32 + 33 + 24 * 35 + 3
    grid_inputs = (table, uniform(n_parameters, low=-0.5, high=0.5), uniform(rays, 24, low=-1))
    n_field_parameters = 97 * 64 + 65 * 64 + 65 + 32 * 67 + 3
    field_inputs = (
        uniform(n_field_parameters, low=-0.2, high=0.2),
        uniform(rays, 32, low=-1),
        uniform(rays, 3),
    )
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
            field_inputs,
        ),
        Case("fused_field_loss", through_field(False, True), through_field(True, True), field_inputs),
        Case(
            "fused_grid",
            through_grid(fused_grid),
            through_grid(reference.fused_grid),
            grid_inputs,
        ),
        Case("fused_grid_loss", grid_loss(False), grid_loss(True), grid_inputs),
    ]


def _floats(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.to(tensors[-1].dtype) for x in tensors)
