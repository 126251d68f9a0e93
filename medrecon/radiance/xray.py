# SPDX-License-Identifier: Apache-2.0
"""Attenuation alone, for radiographs, fluoroscopy and cone-beam projections."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from medrecon import ops
from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError
from medrecon.radiance.cube_occupancy import CubeOccupancy
from medrecon.radiance.packed import render_out
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.types import RayBatch, RenderOut

STEP_8_BIT = 1 / 255
MOST_COLOUR = 0.02  # mean spread of the channels that compression may leave in a grey picture
MOST_SATURATED = 0.5  # share of the pixels
LOOK_STEPS = 8  # over which the pictures are judged


class XrayRendererConfig(ComponentConfig):
    """Options of ``xray``."""

    intensity: Literal["attenuation", "transmission"] = Field(
        "attenuation",
        description="what brightness means; attenuation: it grows evenly with the line integral, bone white and air "
        "black, as radiographs are shown; transmission: the light that is left, air white",
    )
    white: float = Field(
        10.0, gt=0, le=100, description="attenuation: the line integral that white stands for; where that is unknown, "
        "values come out in proportion only"
    )  # fmt: skip
    air: float | None = Field(
        None, ge=0, le=1, description="brightness of the beam with nothing in its way, black 0 to white 1; null: 0 for "
        "attenuation, 1 for transmission"
    )  # fmt: skip
    levels: int = Field(5, ge=1, le=16, description="resolutions of the grid, in geometric steps")
    coarsest: int = Field(16, ge=2, le=4096, description="cells along the scene's longest side at the first level")
    finest: int = Field(256, ge=2, le=4096, description="and at the last")
    log2_size: int = Field(
        19, ge=8, le=26, description="a level has at most 2 to this power entries, then it is hashed"
    )
    samples: int = Field(192, ge=8, le=8192, description="steps of a ray along the scene's longest side")
    samples_per_batch: int = Field(
        65536, ge=64, le=10**8, description="a batch has as many rays as have about this many samples"
    )
    grid_rate: float = Field(5.0, gt=0, description="the grid's learning rate, as a multiple of the trainer's")
    smoothness: float = Field(
        0.002,
        ge=0,
        le=1e3,
        description="weight of the total variation, which keeps edges and takes away streaks and noise",
    )
    smooth_points: int = Field(4096, ge=1, le=10**7, description="places at which it is taken in a step")

    @model_validator(mode="after")
    def _air(self) -> "XrayRendererConfig":
        if self.intensity == "attenuation" and self.air is not None and self.air > 0.9:
            raise ValueError(
                "air is almost white: nothing is left for attenuation; did you mean intensity: transmission?"
            )
        if self.intensity == "transmission" and self.air is not None and self.air < 0.1:
            raise ValueError("air is almost black: nothing is left for the light; did you mean intensity: attenuation?")
        return self

    @property
    def air_level(self) -> float:
        """``air``, with its default filled in."""
        return (0.0 if self.intensity == "attenuation" else 1.0) if self.air is None else self.air

    @property
    def typical_integral(self) -> float:
        """A large line integral that the pictures can show: what numbers of the field are measured by."""
        return self.white if self.intensity == "attenuation" else -math.log(STEP_8_BIT)


class XrayRenderer(Renderer):
    """The law of Beer and Lambert: of light I0, I0 exp(-p) is left behind a line integral p of the attenuation mu.

    mu >= 0 is the softplus of a sum of trilinear grids from coarse to fine (the multi-resolution grid of instant-ngp,
    Mueller et al. 2022, with one number per node and no network). There is no colour, no direction, no appearance.
    What is known to be empty has mu = 0; nothing else is ever taken for empty.

    Pictures are compared in p, not in brightness, so that a millimetre behind much bone counts as one in air. For
    transmission each pixel counts with its brightness: that is the inverse variance of the logarithm of a photon count
    (Sauer and Bouman 1993, eq. 20). A pixel at its darkest or brightest value is a bound: more attenuation than it can
    show is no error. The total variation of mu is added.

    Nothing is opaque to X-rays, and no depth is a surface. ``opacity`` is the share 1 - exp(-p) of the light that is
    absorbed; ``depth`` where on average it is, seen from the source, ``depth_median`` where half of the light is gone.
    ``density`` is mu per field unit: with a metric scale, times field units per millimetre it is mu in 1/mm.
    """

    name = "xray"
    iterations = 4000
    translucent = True

    def setup(self, scene: Scene, frame_ids: list[int], seed: int) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(seed)
        growth = (c.finest / c.coarsest) ** (1 / max(c.levels - 1, 1))
        self.resolutions = tuple(round(c.coarsest * growth**i) for i in range(c.levels))
        entries = ops.grid_levels(self.resolutions, c.log2_size)[-1]
        self.table = torch.nn.Parameter((torch.rand(entries, 1, generator=generator) * 2 - 1) * 1e-4)
        # A step of Adam is as long on every level; fine ones, of which each sees few rays, learn their noise by it.
        self.register_buffer("level_weights", torch.tensor([(c.coarsest / n) ** 0.5 for n in self.resolutions]))
        self.occupancy = CubeOccupancy(scene, 128, 0.5)
        self.register_buffer("samples_per_ray", torch.tensor(float(c.samples)))
        self.looked: list[tuple[float, float, bool]] = []

    def optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        return ops.LazyAdam([{"params": [self.table], "rate": self.config.grid_rate}], lr=learning_rate)

    def batch_size(self, asked: int) -> int:
        return max(64, min(16 * asked, round(self.config.samples_per_batch / float(self.samples_per_ray))))

    def _attenuation(self, xyz: Tensor) -> Tensor:
        """[M, 3] points of the field frame -> [M], per field unit; whether there may be matter is not asked."""
        features = ops.grid_encode((xyz + 1) / 2, None, self.table, self.resolutions, self.config.log2_size)
        # From the start a ray along a whole side loses about a fourth of what the pictures can show.
        return 0.4 * self.config.typical_integral * F.softplus(features @ self.level_weights - 1)

    def density(self, xyz: Tensor) -> Tensor:
        inside = self.occupancy.contains(xyz).nonzero().squeeze(1)
        return xyz.new_zeros(len(xyz)).index_copy(0, inside, self._attenuation(xyz[inside]))

    def _march(self, rays: RayBatch, jitter: Tensor | None = None) -> tuple[ops.Packed, Tensor]:
        """Intervals of the rays, and mu in their middles."""
        c = self.config
        packed = ops.march_rays(
            (rays.origins + 1) / 2, rays.directions / 2, rays.near.squeeze(-1), rays.far.squeeze(-1),
            self.occupancy.bits, self.occupancy.cells, 2 / c.samples, jitter=jitter, max_samples=2 * c.samples,
        )  # fmt: skip
        ray = packed.ray.long()
        middle = (packed.t0 + packed.t1)[:, None] / 2
        return packed, self._attenuation(rays.origins[ray] + middle * rays.directions[ray])

    @staticmethod
    def _line_integral(rays: RayBatch, packed: ops.Packed, mu: Tensor) -> Tensor:
        """[N]: mu summed along each ray."""
        along = mu.new_zeros(len(rays)).index_add(0, packed.ray.long(), mu * (packed.t1 - packed.t0))
        return along * rays.directions.norm(dim=-1)

    def line_integrals(self, rays: RayBatch) -> Tensor:
        """[N]: the attenuation integrated along each ray, without unit."""
        return self._line_integral(rays, *self._march(rays))

    def level(self, line_integral: Tensor) -> Tensor:
        """Brightness in the pictures, not limited to 0..1."""
        air = self.config.air_level
        if self.config.intensity == "transmission":
            return air * torch.exp(-line_integral)
        return air + (1 - air) * line_integral / self.config.white

    def render(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        packed, mu = self._march(rays)
        grey = self.level(self._line_integral(rays, packed, mu))[:, None].expand(-1, 3)
        weights = ops.composite_packed(
            mu.new_zeros(len(mu), 3), mu, packed.t0, packed.t1, packed.offsets, rays.directions
        )[3]
        return render_out(grey, weights, packed)

    def loss(
        self, rays: RayBatch, rgb: Tensor, weight: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        c = self.config
        true_level = rgb.mean(1)
        bound = self._saturated(true_level)
        self._look(rgb, true_level, bound)
        jitter = torch.rand(len(rays), generator=generator, device=generator.device, dtype=rays.origins.dtype)
        packed, mu = self._march(rays, jitter)
        self.samples_per_ray.mul_(0.8).add_(0.2 * max(len(mu) / max(len(rays), 1), 1))

        found = self._line_integral(rays, packed, mu)
        air = c.air_level
        if c.intensity == "transmission":
            true = -torch.log(true_level.clamp_min(STEP_8_BIT / 2) / air)
            weight = weight * true_level
        else:
            true = (true_level - air) * (c.white / (1 - air))
        error = found - true
        error = torch.where(bound, error.clamp(max=0), error)
        share = weight / weight.sum().clamp_min(1e-12)
        # Both terms in units of a large line integral: a thin object is smoothed no more than a thick one.
        loss = (share * (error / c.typical_integral).square()).sum()
        if c.smoothness:
            loss = loss + c.smoothness * self._variation(generator) / c.typical_integral
        gap = self.level(found.detach()).clamp(0, 1) - true_level
        mse = float(gap.square().mean())
        return loss, {"psnr_db": -10 * math.log10(max(mse, 1e-10)), "mse": mse}

    def _variation(self, generator: torch.Generator) -> Tensor:
        """Mean change of mu over one cell of the finest level, at random places and along a random axis."""
        draw = {"generator": generator, "device": generator.device}
        cells, n = self.occupancy.cells, self.config.smooth_points
        chosen = self.occupancy.candidates
        chosen = chosen[torch.randint(max(len(chosen), 1), (n if len(chosen) else 0,), **draw)].long()
        corner = torch.stack([chosen % cells, chosen // cells % cells, chosen // cells**2], -1)
        xyz = (corner + torch.rand(len(corner), 3, **draw, dtype=self.table.dtype)) * (2 / cells) - 1
        beside = xyz + (2 / self.config.finest) * F.one_hot(torch.randint(3, (len(xyz),), **draw), 3)
        mu = self._attenuation(torch.cat([xyz, beside]))
        inside = self.occupancy.contains(beside)
        return (mu[: len(xyz)] - mu[len(xyz) :] * inside).abs().sum() / max(len(xyz), 1)

    def _saturated(self, level: Tensor) -> Tensor:
        """bool [N]: pixels that can show no more attenuation."""
        if self.config.intensity == "transmission":
            return level <= STEP_8_BIT / 2
        return level >= 1 - STEP_8_BIT / 2

    def _look(self, rgb: Tensor, level: Tensor, bound: Tensor) -> None:
        """Raises InputError when the first steps show that the pictures are no radiographs, or not of this kind."""
        c = self.config
        if len(self.looked) >= LOOK_STEPS or not len(rgb):
            return
        colour = float((rgb.amax(1) - rgb.amin(1)).mean())
        nothing = float((level - c.air_level).abs().max()) <= 1.5 * STEP_8_BIT
        self.looked.append((colour, float(bound.float().mean()), nothing))
        if len(self.looked) < LOOK_STEPS:
            return
        colours, saturated, empty = zip(*self.looked)
        if sum(colours) / LOOK_STEPS > MOST_COLOUR:
            raise InputError(
                "the pictures are in colour: the renderer xray knows attenuation only", "use radiance: {name: mipgrid}"
            )
        dark = c.intensity == "transmission"
        if sum(saturated) / LOOK_STEPS > MOST_SATURATED:
            raise InputError(
                f"more than half of the pixels are {'black' if dark else 'white'}, where they can show no more "
                f"attenuation (radiance.intensity is {c.intensity})",
                f"if air is {'black' if dark else 'white'} in these pictures, set radiance.intensity: "
                f"{'attenuation' if dark else 'transmission'}; else they are badly exposed, or masks are missing",
            )
        if all(empty):
            raise InputError(
                "nothing in the pictures differs from air: there is no attenuation to reconstruct",
                f"look at them, and check radiance.air ({c.air_level:g}) and radiance.intensity ({c.intensity})",
            )
