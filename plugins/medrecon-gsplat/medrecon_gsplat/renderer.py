# SPDX-License-Identifier: Apache-2.0
"""Gaussian splatting as a renderer of medrecon."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medrecon.errors import InputError
from medrecon.radiance import Renderer, Scene
from medrecon.radiance.appearance import AppearanceCodes
from medrecon.types import PixelView, RayBatch, RenderOut
from medrecon_gsplat import library
from medrecon_gsplat.geometry import extinction, median_and_spread
from medrecon_gsplat.options import GsplatRendererConfig
from medrecon_gsplat.pinhole import pinhole_of
from medrecon_gsplat.ssim import ssim
from medrecon_gsplat.start import OPACITY, SH_0, anywhere, at_points, logit

NEAREST = 0.01  # field units before the lens in which nothing is drawn
REGULAR = 0.01  # weight of mean opacity and of mean size in the loss (Kheradmand et al. 2024, section 3.5)
# Learning rates of 3D Gaussian splatting (Kerbl et al. 2023, section 7.1), in units of training.learning_rate's 0.01.
RATES = {"means": 0.016, "scales": 0.5, "quats": 0.1, "opacities": 5.0, "sh": 0.25}


class GsplatRenderer(Renderer):
    """A fixed number of 3D Gaussians (Kerbl et al. 2023), splatted by gsplat (Ye et al. 2025) with anti-aliasing.

    They start at the points of structure from motion. Those that fade are moved to where the others are opaque, as by
    Markov chain Monte Carlo (Kheradmand et al. 2024), so tensors keep their shapes, and several processes that train
    together decide alike. An appearance code makes an affine change of the picture's colours, after they are splatted:
    depth and opacity never see it.
    """

    name = "gsplat"
    iterations = 7000
    whole_views = True

    def __init__(self, config: GsplatRendererConfig):
        library.require()
        super().__init__(config)
        self._optimiser: torch.optim.Optimizer | None = None
        self._chain = library.strategy(config.gaussians, config.relocate_every)
        self._chain_state = self._chain.initialize_state()
        self._drawn: dict[str, tuple] = {}  # the views drawn last: what they were, and what they gave

    @property
    def appearance_size(self) -> int:
        return self.config.appearance_size

    def setup(self, scene: Scene, frame_ids: list[int], seed: int) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(seed)
        self._seed, n = seed, c.gaussians
        centres, sizes = anywhere(scene, n, generator)
        self.splats = nn.ParameterDict(
            {
                "means": centres,
                "quats": torch.randn(n, 4, generator=generator),
                "scales": sizes.log()[:, None].repeat(1, 3),
                "opacities": torch.full((n,), logit(OPACITY)),
                "sh": torch.zeros(n, (c.sh_degree + 1) ** 2, 3),
            }
        )
        self.appearance = AppearanceCodes(frame_ids, c.appearance_size, generator)
        self.tone = nn.Parameter(0.01 * torch.randn(12, c.appearance_size, generator=generator))
        bounds = torch.tensor(np.stack([scene.bounds_min, scene.bounds_max]), dtype=torch.float32)
        self.register_buffer("bounds", bounds)

    @torch.no_grad()
    def start(self, points: Tensor, colours: Tensor) -> None:
        inside = ((points > self.bounds[0]) & (points < self.bounds[1])).all(1)
        points, colours = points[inside], colours[inside]
        if not len(points):
            return
        generator = torch.Generator().manual_seed(self._seed)
        centres, sizes, colours = at_points(points, colours, self.config.gaussians, generator)
        self.splats["means"].copy_(centres)
        self.splats["scales"].copy_(sizes.log()[:, None].expand(-1, 3))
        self.splats["sh"][:, 0].copy_((colours - 0.5) / SH_0)

    def optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        groups = [{"params": [self.splats[k]], "rate": rate} for k, rate in RATES.items()]
        groups.append({"params": [self.appearance.codes, self.tone], "rate": 0.1})
        self._optimiser = torch.optim.Adam(groups, lr=learning_rate, eps=1e-15)
        return self._optimiser

    # Drawing.

    def _draw(self, view: PixelView, **more) -> tuple[Tensor, Tensor]:
        """A view as [H, W, D] and opacity [H, W], of the pinhole that stands for its camera."""
        camera, s = pinhole_of(view.camera).camera, self.splats
        to = {"dtype": torch.float32, "device": s["means"].device}
        return library.rasterise(
            s["means"], quats=s["quats"], scales=s["scales"].exp(), opacities=s["opacities"].sigmoid(),
            viewmats=torch.tensor(view.cam_from_field.matrix(), **to)[None], Ks=torch.tensor(camera.K(), **to)[None],
            width=camera.width_px, height=camera.height_px, near_plane=NEAREST, rasterize_mode="antialiased",
            packed=False, **more,
        )  # fmt: skip

    def _picture(self, view: PixelView) -> Tensor:
        """float [H, W, 5]: colour and depth, both times opacity, and opacity."""
        shown, opacity = self._draw(
            view, colors=self.splats["sh"], sh_degree=self.config.sh_degree, render_mode="RGB+D"
        )
        return torch.cat([shown, opacity[..., None]], -1)

    @torch.no_grad()
    def _slices(self, view: PixelView) -> tuple[Tensor, Tensor]:
        """(float [H, W, S] opacity of all that lies before the end of each slice, ends of the slices [S + 1]).

        What lies before a depth is what is left when the rasteriser leaves out all behind it: to it a Gaussian has one
        depth, that of its centre.
        """
        means = self.splats["means"]
        pose = torch.tensor(view.cam_from_field.matrix(), dtype=means.dtype, device=means.device)
        z = means @ pose[2, :3] + pose[2, 3]
        z = z[z > NEAREST]
        low, high = (float(z.min()), float(z.max())) if len(z) else (NEAREST, 2 * NEAREST)
        ends = torch.linspace(low, 1.001 * high, self.config.depth_slices + 1, device=means.device)
        nothing = means.new_zeros(len(means), 1)
        return torch.stack([self._draw(view, colors=nothing, far_plane=float(end))[1] for end in ends[1:]], -1), ends

    def _kept(self, draw: Callable, view: PixelView) -> Any:
        """``draw(view)``; the one drawn last is kept, for rays come in parts."""
        learns = self.splats["means"].requires_grad and draw != self._slices
        if torch.is_grad_enabled() and learns:
            return draw(view)
        state = tuple((id(p), p._version, p.device) for p in self.splats.values())
        pose = view.cam_from_field.matrix().tobytes()
        key = (view.camera, pose, state, torch.is_inference_mode_enabled())
        name = draw.__name__
        if name not in self._drawn or self._drawn[name][0] != key:
            self._drawn[name] = (key, draw(view))
        return self._drawn[name][1]

    def _shade(self, rays: RayBatch, appearance: "str | Tensor | None") -> tuple[Tensor, Tensor, Tensor]:
        """Colour [N, 3], not limited to 0..1, depth [N] and opacity [N]."""
        if rays.view is None:
            raise InputError(
                "the renderer gsplat draws whole pictures: these rays do not say whose pixels they are",
                "take them from Scene.camera_rays",
            )
        seen = pinhole_of(rays.view.camera).pick(self._kept(self._picture, rays.view), rays.view.pixels)
        hit = (rays.far > rays.near).squeeze(1)
        opacity = torch.where(hit, seen[:, 4], 0.0).clamp(0, 1)
        depth = (seen[:, 3] / seen[:, 4].clamp_min(1e-10)).clamp(rays.near[:, 0], rays.far[:, 0])
        change = (self.appearance(rays.frame_ids, appearance) @ self.tone.T).view(-1, 3, 4)
        rgb = seen[:, :3] + (change @ torch.cat([seen[:, :3], seen[:, 4:]], 1)[..., None]).squeeze(-1)
        return rgb * hit[:, None], torch.where(opacity > 0, depth, 0.0), opacity

    def render_basic(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        rgb, depth, opacity = self._shade(rays, appearance)
        return RenderOut(rgb.clamp(0, 1), depth, opacity)

    def render(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        out = self.render_basic(rays, appearance)
        before, ends = self._kept(self._slices, rays.view)
        before = pinhole_of(rays.view.camera).pick(before, rays.view.pixels)
        median, spread = median_and_spread(before, ends)
        median = torch.where(out.opacity >= 0.5, median.clamp(rays.near[:, 0], rays.far[:, 0]), out.depth)
        return RenderOut(out.rgb, out.depth, out.opacity, median, torch.where(out.opacity > 0, spread, 0.0))

    # Learning.

    def loss(
        self, rays: RayBatch, rgb: Tensor, weight: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        if step > 0 and self._optimiser is not None:
            self._relocate(step)
        c, s = self.config, self.splats
        shown, _, _ = self._shade(rays, None)
        share = weight / weight.sum().clamp_min(1e-12)
        loss = (1 - c.ssim) * (share * (shown - rgb).abs().mean(-1)).sum()
        if c.ssim:
            camera, pixels = rays.view.camera, rays.view.pixels
            # Where pixels are not to be used, both are black.
            flat = shown.new_zeros(camera.width_px * camera.height_px, 3)
            pair = [flat.index_copy(0, pixels, x).view(camera.height_px, -1, 3) for x in (shown, rgb)]
            loss = loss + c.ssim * (1 - ssim(*pair))
        loss = loss + REGULAR * (s["opacities"].sigmoid().mean() + s["scales"].exp().mean())
        mse = float((share * ((shown.detach().clamp(0, 1) - rgb) ** 2).mean(-1)).sum())
        return loss, {"psnr_db": -10 * math.log10(max(mse, 1e-10)), "mse": mse}

    def _relocate(self, step: int) -> None:
        """What follows the step before: faded Gaussians move, all that are faint tremble."""
        device = self.splats["means"].device
        parameters = dict(self.splats.items())
        state = self._optimiser.state
        # gsplat wants an optimiser for each tensor and puts new ones in their place, of the same memory: all that it
        # does is done to the tensors themselves.
        alone = {
            k: SimpleNamespace(param_groups=[{"params": [p]}], state={p: state.get(p, {})})
            for k, p in parameters.items()
        }
        rate = self._optimiser.param_groups[0]["lr"]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # The same in all processes that train together, whatever their rays.
            torch.manual_seed((self._seed * 1_000_003 + step) % 2**63)
            self._chain.step_post_backward(parameters, alone, self._chain_state, step, {}, rate)

    @torch.no_grad()
    def density(self, xyz: Tensor) -> Tensor:
        out = xyz.new_zeros(len(xyz))
        inside = ((xyz >= self.bounds[0]) & (xyz <= self.bounds[1])).all(-1).nonzero().squeeze(1)
        return out.index_copy(0, inside, extinction(self.splats, xyz[inside]))
