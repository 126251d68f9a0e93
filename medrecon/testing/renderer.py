# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for renderers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medrecon.testing import phantoms
from medrecon.testing.contract import require
from medrecon.types import RayBatch, RenderOut

KIND = "renderer"


class RendererConformance:
    """Inherit in a class called ``Test...`` and override :meth:`make`. The kit never trains the field.

    Attributes:
        chunk_tolerance: how far rendering in chunks may differ (matrix products round differently by size).
    """

    chunk_tolerance = 1e-4

    def make(self) -> Any:
        """Return a new, small renderer, e.g. ``medrecon.create("renderer", "mine", width=32)``."""
        raise NotImplementedError("override make() and return your renderer")

    def _ready(self, seed: int = 0) -> tuple[Any, Any]:
        scene = phantoms.scene()
        renderer = self.make()
        require(isinstance(renderer, torch.nn.Module), KIND, "a renderer is a torch.nn.Module", type(renderer).__name__)
        renderer.setup(scene, scene.train_ids, seed)
        renderer.eval()
        return renderer, scene

    def _render(self, renderer: Any, rays: RayBatch) -> RenderOut:
        with torch.no_grad():
            out = renderer.render(rays)
        require(isinstance(out, RenderOut), KIND, "render returns medrecon.types.RenderOut", type(out).__name__)
        return out

    def test_outputs_are_what_they_say(self) -> None:
        renderer, scene = self._ready()
        rays = scene.rays(scene.train_ids[0])
        out, n = self._render(renderer, rays), len(rays)
        shapes = (tuple(out.rgb.shape), tuple(out.depth.shape), tuple(out.opacity.shape))
        require(
            shapes == ((n, 3), (n,), (n,)), KIND, "rgb is [N, 3], depth and opacity are [N]", f"{shapes} for N = {n}"
        )
        for name in ("rgb", "depth", "opacity", "depth_median", "depth_std"):
            value = getattr(out, name)
            ok = value is None or (value.is_floating_point() and bool(torch.isfinite(value).all()))
            require(ok, KIND, f"{name} is finite floating point", "NaN, infinity or integers")
        for name in ("rgb", "opacity"):
            low, high = float(getattr(out, name).min()), float(getattr(out, name).max())
            require(low >= 0 and high <= 1 + 1e-5, KIND, f"{name} lies in 0..1", f"{low:.4g}..{high:.4g}")
        hit = out.opacity > 1e-3
        near, far = rays.near[:, 0][hit], rays.far[:, 0][hit]
        slack = 1e-3 * (rays.far - rays.near).max()
        inside = ((out.depth[hit] >= near - slack) & (out.depth[hit] <= far + slack)).all()
        require(bool(inside), KIND, "depth lies between near and far where something is hit")
        empty = out.opacity == 0
        require(bool((out.depth[empty] == 0).all()), KIND, "depth is 0 where opacity is 0")

    def test_none_and_one_ray(self) -> None:
        renderer, scene = self._ready()
        rays = scene.rays(scene.train_ids[0])
        for n in (0, 1):
            shape = tuple(self._render(renderer, rays[:n]).rgb.shape)
            require(shape == (n, 3), KIND, f"{n} rays give {n} colours", f"{shape}")

    def test_density_is_a_density(self) -> None:
        renderer, _ = self._ready()
        xyz = torch.rand(257, 3, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
        with torch.no_grad():
            density = renderer.density(xyz)
        require(tuple(density.shape) == (257,), KIND, "density of [N, 3] points is [N]", f"{tuple(density.shape)}")
        ok = bool(torch.isfinite(density).all()) and float(density.min()) >= 0
        require(
            ok, KIND, "density is finite and not negative, outside the cube too", f"minimum {float(density.min()):.4g}"
        )

    def test_appearance_touches_colour_only(self) -> None:
        renderer, scene = self._ready()
        _scramble(renderer)
        rays = scene.rays(scene.train_ids[0])
        outs = [
            self._render(renderer, replace(rays, frame_ids=torch.full_like(rays.frame_ids, i))) for i in scene.train_ids
        ]
        for name in ("depth", "opacity"):
            same = all(torch.equal(getattr(outs[0], name), getattr(o, name)) for o in outs[1:])
            require(same, KIND, f"{name} is bitwise the same whichever frame's appearance is used")

    def test_depth_without_colour(self) -> None:
        renderer, scene = self._ready()
        rays = scene.rays(scene.train_ids[0])
        out = self._render(renderer, rays)
        with torch.no_grad():
            bare = renderer.render_depth(rays)
        for name in ("depth", "opacity", "depth_median", "depth_std"):
            a, b = getattr(out, name), getattr(bare, name)
            same = (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
            require(same, KIND, f"render_depth gives the {name} that render gives, bit for bit")

    def test_frames_never_seen_can_be_rendered(self) -> None:
        renderer, scene = self._ready()
        out = self._render(renderer, scene.rays(scene.heldout_ids[0]))
        require(bool(torch.isfinite(out.rgb).all()), KIND, "a held-out frame renders to finite colours")

    def test_rendering_is_deterministic(self) -> None:
        renderer, scene = self._ready()
        rays = scene.rays(scene.train_ids[0])
        a, b = self._render(renderer, rays), self._render(renderer, rays)
        same = torch.equal(a.rgb, b.rgb) and torch.equal(a.depth, b.depth)
        require(same, KIND, "in eval mode the same rays twice give the same values, bit for bit")

    def test_chunks_do_not_matter(self) -> None:
        renderer, scene = self._ready()
        rays = scene.rays(scene.train_ids[0])
        whole = self._render(renderer, rays)
        parts = [self._render(renderer, rays[i : i + 37]) for i in range(0, len(rays), 37)]
        for name in ("rgb", "depth", "opacity"):
            gap = float((getattr(whole, name) - torch.cat([getattr(p, name) for p in parts])).abs().max())
            contract = f"{name} does not depend on how the rays are cut into chunks"
            require(gap <= self.chunk_tolerance, KIND, contract, f"differs by {gap:.2g}")

    def test_seed_decides_the_start(self) -> None:
        a, b, c = (self._ready(seed)[0].state_dict() for seed in (0, 0, 1))
        equal = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        require(equal, KIND, "setup with the same seed gives the same field, bit for bit")
        differ = any(not torch.equal(a[k], c[k]) for k in a)
        require(differ, KIND, "setup with another seed gives another field", "the same")

    def test_state_dict_round_trip(self) -> None:
        renderer, scene = self._ready()
        _scramble(renderer)
        other, _ = self._ready(seed=1)
        other.load_state_dict(renderer.state_dict())
        rays = scene.rays(scene.train_ids[0])
        a, b = self._render(renderer, rays), self._render(other, rays)
        same = torch.equal(a.rgb, b.rgb) and torch.equal(a.depth, b.depth)
        require(same, KIND, "a field restored from its state_dict renders the same, bit for bit")

    def _loss(self, renderer: Any, scene: Any) -> tuple[torch.Tensor, dict]:
        rays = scene.rays(scene.train_ids[0])
        rgb = torch.rand(len(rays), 3, generator=torch.Generator().manual_seed(3))
        renderer.train()
        return renderer.loss(rays, rgb, torch.ones(len(rays)), 1, torch.Generator().manual_seed(5))

    def test_gradient_flows(self) -> None:
        renderer, scene = self._ready()
        loss, figures = self._loss(renderer, scene)
        scalar = loss.ndim == 0 and bool(torch.isfinite(loss))
        require(scalar, KIND, "loss returns a finite scalar and a dict of figures", f"shape {tuple(loss.shape)}")
        require(isinstance(figures, dict), KIND, "loss returns a dict of figures", type(figures).__name__)
        loss.backward()
        parameters = [(k, p) for k, p in renderer.named_parameters() if p.requires_grad]
        dead = [k for k, p in parameters if p.grad is None]
        require(not dead, KIND, "every trainable parameter takes part in the loss", f"no gradient: {dead[:3]}")
        bad = [k for k, p in parameters if not bool(torch.isfinite(p.grad).all())]
        require(not bad, KIND, "gradients are finite", f"not finite: {bad[:3]}")
        moved = any(float(p.grad.abs().max()) > 0 for _, p in parameters if p.numel())
        require(moved, KIND, "some gradient is not zero", "all are zero")

    def test_loss_obeys_its_generator(self) -> None:
        values = []
        for _ in range(2):
            renderer, scene = self._ready()
            torch.rand(len(values) * 13 + 1)  # the global generator stands elsewhere each time
            values.append(self._loss(renderer, scene)[0].detach())
        contract = "all randomness of the loss comes from the generator it is given"
        require(torch.equal(*values), KIND, contract, f"{float(values[0])!r} and {float(values[1])!r}")


def _scramble(renderer: torch.nn.Module) -> None:
    """Move every parameter a little, so that rows that start as zeros (appearance codes) make a difference."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in renderer.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator).to(p))
