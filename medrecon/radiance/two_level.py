# SPDX-License-Identifier: Apache-2.0
"""Volume rendering at two levels: a first look along the ray decides where the second one looks closely."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from medrecon import ops
from medrecon.config.base import ComponentConfig
from medrecon.radiance.appearance import AppearanceCodes
from medrecon.radiance.contraction import contract, spread_edges
from medrecon.radiance.encoding import direction_size, encode_direction
from medrecon.radiance.mlp import FieldMlp
from medrecon.radiance.occupancy import OccupancyGrid
from medrecon.radiance.packed import median_within
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.types import RayBatch, RenderOut


class TwoLevelConfig(ComponentConfig):
    """Options shared by the renderers that sample a ray twice."""

    width: int = Field(128, ge=4, le=1024, description="units per hidden layer")
    depth: int = Field(2, ge=1, le=8, description="hidden layers before density")
    coarse_samples: int = Field(16, ge=2, le=1024, description="intervals of the first look along a ray")
    fine_samples: int = Field(24, ge=2, le=1024, description="intervals of the second look")
    max_degree: int = Field(9, ge=1, le=20, description="octaves of the position's encoding")
    direction_degree: int = Field(4, ge=0, le=8, description="octaves of the direction's encoding")
    appearance_size: int = Field(48, ge=0, le=512, description="numbers per picture's appearance code; 0 = none")
    coarse_loss: float = Field(0.1, ge=0, le=1, description="weight of the first look's error in the loss")
    resample_padding: float = Field(0.01, ge=0, le=1, description="floor of the histogram the second look draws from")
    density_shift: float = Field(-1.0, description="added before softplus; above: the field starts denser")
    density_gain: float = Field(25.0, gt=0, description="factor after softplus, per unit of the normalised scene")
    probes: int = Field(96, ge=8, le=1024, description="points at which a ray asks the occupancy grid")
    occupancy_cells: int = Field(96, ge=8, le=512, description="cells of the occupancy grid along the longest side")
    occupancy_threshold: float = Field(
        0.02, gt=0, lt=1, description="share of light lost in a cell below which it is empty"
    )
    occupancy_warmup: int = Field(300, ge=0, description="steps before the grid follows the field")
    occupancy_every: int = Field(16, ge=1, description="steps between refreshes of the grid")


@dataclass(frozen=True, slots=True)
class _Level:
    """What one look along the rays gave: edges t [N, S+1] and the results of compositing."""

    t: Tensor
    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor


class TwoLevelRenderer(Renderer):
    """Common part of ``nerf`` and ``mipnerf``; they differ in the encodings and the number of networks."""

    n_networks = 1
    meets_surfaces = True
    sees_far = True

    @property
    def appearance_size(self) -> int:
        return self.config.appearance_size

    def setup(self, scene: Scene, frame_ids: list[int], seed: int) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(seed)
        self.appearance = AppearanceCodes(frame_ids, c.appearance_size, generator)
        n_view = direction_size(c.direction_degree) + c.appearance_size
        self.networks = torch.nn.ModuleList(
            FieldMlp(6 * c.max_degree, n_view, c.width, c.depth, c.density_shift, c.density_gain, generator)
            for _ in range(self.n_networks)
        )
        self.grid = OccupancyGrid(scene, c.occupancy_cells, c.occupancy_threshold)
        self.register_buffer("point_sigma", torch.tensor(_footprint(scene), dtype=torch.float32))

    # What the two renderers do differently.

    def composite(
        self, network: FieldMlp, rays: RayBatch, t: Tensor, inside: Tensor, view: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The field along rays of edges t [N, S+1], nothing where ``inside`` bool [N, S] is False.

        Returns:
            rgb [N, 3] (of no meaning where ``view`` is None), depth [N], opacity [N], weights [N, S].
        """
        raise NotImplementedError

    def encode_points(self, xyz: Tensor) -> Tensor:
        """Encoded points [M, 3] -> [M, 6 * max_degree]."""
        raise NotImplementedError

    def footprint(self, rays: RayBatch, t: Tensor) -> Tensor | None:
        """How far around its middle a sample at t [N, S] sees matter: [N, S]. None: it is a point."""
        return None

    def fine_edges(self, coarse: Tensor, resampled: Tensor) -> Tensor:
        """Edges of the second look, from those of the first and those drawn from its weights."""
        return resampled

    # The same for both.

    def _by_steps(
        self, network: FieldMlp, rays: RayBatch, t: Tensor, inside: Tensor, view: Tensor | None, encode: Callable
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`composite`, network and compositing one after the other.

        Args:
            encode: (indices int64 [K] of samples, counted ray after ray, ray of each) -> their encoding [K, E] and by
                what their densities are multiplied, [K] or 1.
        """
        n, s = inside.shape
        keep = inside.flatten().nonzero().squeeze(1)
        ray = torch.div(keep, s, rounding_mode="floor")
        encoded, factor = encode(keep, ray)
        features = network.features(encoded)
        density = t.new_zeros(n * s).index_copy(0, keep, network.density(features) * factor).view(n, s)
        if view is None:
            rgb = t.new_zeros(n, s, 3)
        else:
            rgb = t.new_zeros(n * s, 3).index_copy(0, keep, network.colour(features, view, ray)).view(n, s, 3)
        return ops.composite(rgb, density, t, rays.directions)

    def _first_edges(self, rays: RayBatch, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(int64 [A] rays that may meet matter, their edges [A, S+1]), spread over occupied stretches only."""
        n = self.config.probes
        if self.grid.contracted:
            t = spread_edges(rays.near, rays.far, n)
        else:
            edges = torch.linspace(0, 1, n + 1, device=rays.near.device, dtype=rays.near.dtype)
            t = rays.near + (rays.far - rays.near) * edges
        middle = (t[:, 1:] + t[:, :-1]) / 2
        points = rays.origins[:, None] + middle[..., None] * rays.directions[:, None]
        occupied = self.grid.contains(points, self.footprint(rays, middle)) & (rays.far > rays.near)
        active = occupied.any(1).nonzero().squeeze(1)
        weights = occupied[active].to(t)
        return active, self._resample(t[active], weights, self.config.coarse_samples, 1e-3, generator)

    def _resample(
        self, t: Tensor, weights: Tensor, n: int, padding: float, generator: torch.Generator | None
    ) -> Tensor:
        """n + 1 sorted edges drawn from the histogram ``weights`` [N, S] over the intervals of ``t`` [N, S+1]."""
        return ops.resample(t, weights, n + 1, padding, deterministic=generator is None, generator=generator)

    def _look(self, network: FieldMlp, rays: RayBatch, t: Tensor, view: Tensor | None) -> _Level:
        """Densities (and colours, where ``view`` is given) of the intervals that may hold matter, composited."""
        middle = ((t[:, 1:] + t[:, :-1]) / 2).detach()
        points = rays.origins[:, None] + middle[..., None] * rays.directions[:, None]
        inside = self.grid.contains(points, self.footprint(rays, middle))
        return _Level(t, *self.composite(network, rays, t, inside, view))

    def _march(
        self, rays: RayBatch, appearance: "str | Tensor | None", generator: torch.Generator | None, colour: bool = True
    ) -> tuple[RayBatch, Tensor, list[_Level]]:
        """(rays that may meet matter, their indices, both levels). Without a generator nothing is random."""
        active, t = self._first_edges(rays, generator)
        rays = rays[active]
        view = torch.cat(
            [
                encode_direction(rays.directions, self.config.direction_degree),
                self.appearance(rays.frame_ids, appearance),
            ],
            -1,
        )
        # The first look's colours matter only to its loss.
        first = self._look(self.networks[0], rays, t, view if generator is not None else None)
        drawn = self._resample(
            t, first.weights.detach(), self.config.fine_samples, self.config.resample_padding, generator
        )
        second = self._look(self.networks[-1], rays, self.fine_edges(t, drawn), view if colour else None)
        return rays, active, [first, second]

    def render(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        return self._render(rays, appearance, True)

    def render_depth(self, rays: RayBatch) -> RenderOut:
        return self._render(rays, None, False)

    def _render(self, rays: RayBatch, appearance: "str | Tensor | None", colour: bool) -> RenderOut:
        n = len(rays)
        _, active, levels = self._march(rays, appearance, None, colour)
        level = levels[-1]
        weights = level.weights
        middle = (level.t[:, 1:] + level.t[:, :-1]) / 2
        total = weights.sum(-1)
        some = total > 1e-10
        mean = torch.where(some, (weights * middle).sum(-1) / total.clamp_min(1e-10), 0.0)
        spread = torch.where(
            some, ((weights * (middle - mean[:, None]) ** 2).sum(-1) / total.clamp_min(1e-10)).sqrt(), 0.0
        )
        running = weights.cumsum(-1)
        half = (running < 0.5).sum(-1, keepdim=True).clamp(max=weights.shape[1] - 1)
        at = lambda value: value.gather(1, half).squeeze(-1)  # noqa: E731
        crossing = median_within(at(level.t[:, :-1]), at(level.t[:, 1:]), 1 - at(running - weights), at(weights))
        median = torch.where(total >= 0.5, crossing, mean)
        place = lambda value: value.new_zeros(n, *value.shape[1:]).index_copy(0, active, value)  # noqa: E731
        opacity = torch.where(some, total.clamp(0, 1), 0.0)
        return RenderOut(place(level.rgb.clamp(0, 1)), place(mean), place(opacity), place(median), place(spread))

    def loss(
        self, rays: RayBatch, rgb: Tensor, weight: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        c = self.config
        if step >= c.occupancy_warmup and step % c.occupancy_every == 0:
            self.grid.refresh(self._raw_density, 4, generator)
        _, active, levels = self._march(rays, None, generator)
        # Rays that meet no matter are black whatever the parameters say: only the figure needs them.
        total = weight.sum().clamp_min(1e-12)
        target, part = rgb[active], weight[active]
        missed = weight.clone().index_fill_(0, active, 0.0)
        constant = (missed * (rgb**2).mean(-1)).sum()
        errors = [(part * ((level.rgb - target) ** 2).mean(-1)).sum() / total for level in levels]
        loss = c.coarse_loss * errors[0] + errors[1]
        mse = float(errors[1].detach() + constant / total)
        return loss, {"psnr_db": -10 * math.log10(max(mse, 1e-10)), "mse": mse}

    def _raw_density(self, xyz: Tensor) -> Tensor:
        network = self.networks[-1]
        return network.density(network.features(self.encode_points(xyz)))

    def density(self, xyz: Tensor) -> Tensor:
        inside = self.grid.contains(xyz).nonzero().squeeze(1)
        if self.grid.contracted:
            places, _, radial = contract(xyz[inside])
            found = self._raw_density(places) * radial
        else:
            found = self._raw_density(xyz[inside])
        return xyz.new_zeros(len(xyz)).index_copy(0, inside, found)


def _footprint(scene: Scene) -> float:
    """Standard deviation of a pixel's footprint at the middle of the scene, in field units."""
    centre = (scene.bounds_min + scene.bounds_max) / 2
    sizes = []
    for i in scene.train_ids:
        z = scene.cam_from_field(scene.cam_from_sfm[i]).apply(centre)[2]
        near, far = scene.near_far[i]
        sizes.append(min(max(z, near), far) / max(scene.cameras[i].focal_px) / math.sqrt(12))
    return float(sorted(sizes)[len(sizes) // 2]) if sizes else 0.01
