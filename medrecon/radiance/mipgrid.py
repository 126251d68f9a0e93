# SPDX-License-Identifier: Apache-2.0
"""A multi-resolution hash grid that knows how large a pixel is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from medrecon import ops
from medrecon.config.base import ComponentConfig
from medrecon.radiance.appearance import AppearanceCodes
from medrecon.radiance.contraction import contract
from medrecon.radiance.cube_occupancy import CubeOccupancy
from medrecon.radiance.encoding import direction_size, encode_direction
from medrecon.radiance.light import CameraLight, surface_cosine
from medrecon.radiance.mlp import FieldMlp
from medrecon.radiance.packed import render_out
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.types import RayBatch, RenderOut

NORMAL_STEPS = 2.0  # of the ray's: how far round a surface its normal is looked for


class MipGridRendererConfig(ComponentConfig):
    """Options of ``mipgrid``."""

    levels: int = Field(8, ge=1, le=32, description="resolutions of the grid, in geometric steps")
    coarsest: int = Field(16, ge=2, le=4096, description="cells along the scene's longest side at the first level")
    finest: int = Field(256, ge=2, le=65536, description="and at the last")
    log2_size: int = Field(
        18, ge=8, le=24, description="a level has at most 2 to this power entries, then it is hashed"
    )
    features: int = Field(2, ge=1, le=8, description="numbers per entry")
    width: int = Field(32, ge=4, le=256, description="units of the hidden layers")
    depth: int = Field(1, ge=1, le=8, description="hidden layers before density")
    direction_degree: int = Field(2, ge=0, le=8, description="octaves of the direction's encoding")
    appearance_size: int = Field(48, ge=0, le=512, description="numbers per picture's appearance code; 0 = none")
    light: Literal["none", "camera", "camera-cosine"] = Field(
        "none",
        description="camera: the light moves with it, as an endoscope's does, and fades with the distance; "
        "camera-cosine: and with the angle at which it meets a surface (Lambert)",
    )
    density_shift: float = Field(
        3.0, ge=-10, le=10, description="logarithm of the density at the start, per unit of the normalised scene"
    )
    samples: int = Field(256, ge=8, le=8192, description="steps of a ray along the scene's longest side")
    samples_per_batch: int = Field(
        65536, ge=64, le=10**8, description="a batch has as many rays as have about this many samples in matter"
    )
    stop: float = Field(1e-3, ge=0, lt=1, description="share of light below which a ray ends")
    grid_rate: float = Field(5.0, gt=0, description="the grid's learning rate, as a multiple of the network's")
    occupancy_cells: int = Field(128, ge=8, le=1024, description="cells of the occupancy grid along each axis")
    occupancy_threshold: float = Field(
        0.1, gt=0, lt=1, description="share of light lost in a cell below which it is empty"
    )
    occupancy_every: int = Field(16, ge=1, description="steps between refreshes of the occupancy grid")


class MipGridRenderer(Renderer):
    """Multi-resolution hash grid (instant-ngp, Mueller et al. 2022), each level damped by the pixel's footprint as in
    Zip-NeRF (Barron et al. 2023), a small network, samples only where there is matter. Appearance codes touch colour
    alone, as everywhere.
    """

    name = "mipgrid"
    iterations = 2500
    meets_surfaces = True
    sees_far = True

    @property
    def appearance_size(self) -> int:
        return self.config.appearance_size

    def setup(self, scene: Scene, frame_ids: list[int], seed: int) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(seed)
        self.appearance = AppearanceCodes(frame_ids, c.appearance_size, generator)
        growth = (c.finest / c.coarsest) ** (1 / max(c.levels - 1, 1))
        self.occupancy = CubeOccupancy(scene, c.occupancy_cells, c.occupancy_threshold)
        # Cells are as large as in a box, and as many more as the cube is larger.
        self.resolutions = tuple(round(self._half * c.coarsest * growth**i) for i in range(c.levels))
        entries = ops.grid_levels(self.resolutions, c.log2_size)[-1]
        self.table = torch.nn.Parameter((torch.rand(entries, c.features, generator=generator) * 2 - 1) * 1e-4)
        n_view = direction_size(c.direction_degree) + c.appearance_size
        self.network = FieldMlp(
            c.levels * c.features, n_view, c.width, c.depth, c.density_shift + math.log(2), 1.0, generator,
            c.width, "exp",
        )  # fmt: skip
        self.light = None if c.light == "none" else CameraLight(scene, c.light == "camera-cosine")
        # Of rays lately, for the size of the next batch.
        self.register_buffer("samples_per_ray", torch.tensor(64.0))

    def optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        rest = [p for p in self.parameters() if p is not self.table]
        groups = [{"params": rest}, {"params": [self.table], "rate": self.config.grid_rate}]
        return ops.LazyAdam(groups, lr=learning_rate)

    def batch_size(self, asked: int) -> int:
        return max(64, min(16 * asked, round(self.config.samples_per_batch / float(self.samples_per_ray))))

    # The grid's cube is [0, 1]^3, the field frame's [-1, 1]^3: lengths halve, densities double. Where the scene is
    # unbounded, the cube is twice as large and holds the contracted space.

    @property
    def _half(self) -> float:
        return self.occupancy.half

    def _in_cube(self, xyz: Tensor) -> Tensor:
        return (xyz / self._half + 1) / 2

    @property
    def _per_length(self) -> float:
        """Lengths of the cube in one of the field frame."""
        return 1 / (2 * self._half)

    @property
    def _step(self) -> float:
        return 2 / self.config.samples

    @property
    def _most_samples(self) -> int:
        """No ray can have more: the cube's diagonal is sqrt(3) sides long, a bent ray pi / 2, and t is no longer."""
        return round(2 * self._half * self.config.samples)

    def _encode(self, places: Tensor, sigma: Tensor) -> Tensor:
        """Places of the cube and deviations there, both in field units -> [M, levels * features]."""
        scaled = sigma * self._per_length
        return ops.grid_encode(self._in_cube(places), scaled, self.table, self.resolutions, self.config.log2_size)

    def _look(self, xyz: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Features [M, width] and density [M] per length of the cube, at points and deviations of the field frame."""
        if not self.occupancy.contracted:
            features = self.network.features(self._encode(xyz, sigma))
            return features, self.network.density(features)
        places, across, radial = contract(xyz)
        mean = (across * across * radial) ** (1 / 3)  # Zip-NeRF's, of the Jacobian
        features = self.network.features(self._encode(places, sigma * mean))
        return features, self.network.density(features) * radial

    def _view(self, rays: RayBatch, appearance: "str | Tensor | None") -> Tensor:
        codes = self.appearance(rays.frame_ids, appearance)
        return torch.cat([encode_direction(rays.directions, self.config.direction_degree), codes], -1)

    def _fused(self, op: Callable, rays: RayBatch, appearance: "str | Tensor | None", *more: Tensor, **options):
        c = self.config
        return op(
            *self._rays_in_cube(rays), self.occupancy.bits, self.table, self.network.flat_parameters(),
            self.network.ray_bias(self._view(rays, appearance)), *more, resolution=self.occupancy.cells,
            step=self._step, max_samples=self._most_samples, resolutions=self.resolutions, log2_size=c.log2_size,
            width=c.width, layers=c.depth,
            colour_width=self.network.colour_width, density_shift=self.network.density_shift,
            radii=rays.radii.squeeze(-1) * self._per_length, stop=c.stop, contract=self.occupancy.contracted, **options,
        )  # fmt: skip

    def _rays_in_cube(self, rays: RayBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        directions = rays.directions * self._per_length
        return self._in_cube(rays.origins), directions, rays.near.squeeze(-1), rays.far.squeeze(-1)

    def render_basic(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        rgb, depth, opacity, _ = self._fused(ops.fused_grid, rays, appearance)
        return self._lit(rays, RenderOut(rgb.clamp(0, 1), depth, opacity.clamp(0, 1)))

    def _lit(self, rays: RayBatch, out: RenderOut) -> RenderOut:
        if self.light is None:
            return out
        depth = out.depth.detach()
        factor = self.light(rays, depth, self._cosine(rays, depth))
        return replace(out, rgb=(out.rgb * factor[:, None]).clamp(0, 1))

    def _cosine(self, rays: RayBatch, depth: Tensor) -> Tensor | None:
        """Of the surface at ``depth`` [N], where the light wants it."""
        if not self.light.wants_cosine:
            return None
        return surface_cosine(self.density, rays, depth, NORMAL_STEPS * self._step)

    def render(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        packed, features, density = self._samples(rays)
        rgb = self.network.colour(features, self._view(rays, appearance), packed.ray.long())
        return self._lit(rays, self._composed(rays, packed, density, rgb))

    def render_depth(self, rays: RayBatch) -> RenderOut:
        packed, _, density = self._samples(rays)
        return self._composed(rays, packed, density, density.new_zeros(len(density), 3))

    def _samples(self, rays: RayBatch) -> tuple[ops.Packed, Tensor, Tensor]:
        """The samples of rays in matter, the network's features there [M, width] and the density [M]."""
        packed = ops.march_rays(
            *self._rays_in_cube(rays), self.occupancy.bits, self.occupancy.cells, self._step,
            max_samples=self._most_samples, contract=self.occupancy.contracted,
        )  # fmt: skip
        ray = packed.ray.long()
        middle = (packed.t0 + packed.t1)[:, None] / 2
        xyz = rays.origins[ray] + middle * rays.directions[ray]
        # The standard deviation across the cone (mip-NeRF eq. 8) is half its radius.
        return packed, *self._look(xyz, (middle * rays.radii[ray]).squeeze(1) / 2)

    def _composed(self, rays: RayBatch, packed: ops.Packed, density: Tensor, rgb: Tensor) -> RenderOut:
        rgb, _, _, weights = ops.composite_packed(
            rgb, density, packed.t0, packed.t1, packed.offsets, rays.directions * self._per_length,
            stop=self.config.stop,
        )  # fmt: skip
        return render_out(rgb, weights, packed)

    def loss(
        self, rays: RayBatch, rgb: Tensor, weight: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        if step % self.config.occupancy_every == 0 and step > 0:
            self.occupancy.refresh(self._cube_density, 1 if step < 256 else 8, generator)
        jitter = torch.rand(len(rays), generator=generator, device=generator.device)
        share = weight / weight.sum().clamp_min(1e-12)
        if self.light is None:
            error, _, seen = self._fused(ops.fused_grid_loss, rays, None, rgb, share, jitter=jitter)
        else:
            error, seen = self._lit_loss(rays, rgb, share, jitter)
        self.samples_per_ray.mul_(0.8).add_(0.2 * (seen.sum() / max(len(rays), 1)).clamp(min=1))
        mse = float(error.detach())
        return error, {"psnr_db": -10 * math.log10(max(mse, 1e-10)), "mse": mse}

    def _lit_loss(self, rays: RayBatch, rgb: Tensor, share: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
        """Squared error of (factor * colour), and samples seen; the factor takes depth as it is, and never moves it."""
        with torch.no_grad():
            depth = self._fused(ops.fused_grid, rays, None)[1]
            cosine = self._cosine(rays, depth)
            factor = self.light(rays, depth, cosine)
        # (f c - y)^2 = f^2 (c - y/f)^2: the kernel's own loss serves.
        error, colour, seen = self._fused(
            ops.fused_grid_loss, rays, None, rgb / factor[:, None], share * factor**2, jitter=jitter
        )
        lit = self.light(rays, depth, cosine)[:, None] * colour
        of_light = (share * ((lit - rgb) ** 2).mean(-1)).sum()
        return error + of_light - of_light.detach(), seen

    def _cube_density(self, places: Tensor) -> Tensor:
        """[M], per field unit of the cube, at its places [M, 3]."""
        features = self.network.features(self._encode(places, self._point(places)))
        return self.network.density(features) * self._per_length

    def _point(self, xyz: Tensor) -> Tensor:
        """Deviation of what stands for a point: detail finer than a step was never taught."""
        return torch.full((len(xyz),), self._step / math.sqrt(12)).to(xyz)

    def density(self, xyz: Tensor) -> Tensor:
        inside = self.occupancy.contains(xyz).nonzero().squeeze(1)
        found = self._look(xyz[inside], self._point(xyz[inside]))[1] * self._per_length
        return xyz.new_zeros(len(xyz)).index_copy(0, inside, found)
