# SPDX-License-Identifier: Apache-2.0
"""What every renderer offers. A plugin author inherits from this and needs nothing else of the trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medrecon.radiance.scene import Scene
from medrecon.types import RayBatch, RenderOut

if TYPE_CHECKING:
    from medrecon.config.base import ComponentConfig


class Renderer(nn.Module):
    """A scene as a differentiable function of rays.

    Everything a field must remember lies in parameters and buffers: checkpoints hold the ``state_dict`` and nothing
    else. All randomness comes from the generators and seeds that are handed in.

    Attributes:
        name: the component's name; it is written beside the trained field, which is loaded by it.
        config: the component's options.
        iterations: optimiser steps of a training that asks for no number of its own.
        meets_surfaces: whether sparse points may supervise it (``training.depth_weight``): matter is opaque to it, and
            the opacity of `render_basic` is differentiable and that between the rays' near and far alone.
        sees_far: whether it renders scenes that have no bounds (`Scene.unbounded`).
        translucent: True where rays pass through matter and no depth is a surface (X-rays).
        whole_views: True where all pixels of a camera are rendered at once (rasterisers). A training step then sees all
            usable pixels of one picture, however many rays are asked for, and all rays come with their ``view``, most
            often in parts: it may be worth remembering the view rendered last.
    """

    name: str = ""
    iterations: int = 5000
    meets_surfaces: bool = False
    sees_far: bool = False
    translucent: bool = False
    whole_views: bool = False

    def __init__(self, config: "ComponentConfig"):
        super().__init__()
        self.config = config

    @property
    def appearance_size(self) -> int:
        """Numbers of a picture's appearance code; 0: pictures have none, and it does not matter what a view gets."""
        return 0

    def setup(self, scene: Scene, frame_ids: list[int], seed: int) -> None:
        """Creates parameters and buffers for a scene. Called once, before anything else.

        Args:
            scene: geometry, in whose field frame all rays are.
            frame_ids: pictures trained on; each may have its own appearance.
            seed: decides the start; the same seed gives the same field, bit for bit.
        """
        raise NotImplementedError

    def start(self, points: Tensor, colours: Tensor) -> None:
        """Called by the trainer after `setup`, where a training begins: what structure from motion found may change
        the parameters' values, not their shapes.

        Args:
            points: float [P, 3], field frame; may be none.
            colours: float [P, 3] in 0..1.
        """

    def optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        """What trains the field: Adam, or one with Adam's state. "rate" of a parameter group (1 where absent)
        multiplies its learning rate.
        """
        return torch.optim.Adam(self.parameters(), lr=learning_rate, betas=(0.9, 0.99), eps=1e-15)

    def batch_size(self, asked: int) -> int:
        """Rays of the next training step, where the configuration asks for so many."""
        return asked

    def render(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        """N rays -> colour, depth (t, i.e. z-depth in field units), opacity.

        Args:
            appearance: what rays get whose frame was not trained on: None or "zero", "mean" (of all codes). A tensor
                [appearance_size] goes to every ray, and the colours can be differentiated by it. A renderer without
                appearance ignores it.
        """
        raise NotImplementedError

    def render_basic(self, rays: RayBatch, appearance: "str | Tensor | None" = None) -> RenderOut:
        """As `render`, where median and spread of the depth are not wanted: that may be much quicker."""
        return self.render(rays, appearance)

    def render_depth(self, rays: RayBatch) -> RenderOut:
        """As `render`, where colour is not wanted: ``rgb`` is of no meaning. That may be much quicker."""
        return self.render(rays)

    def loss(
        self, rays: RayBatch, rgb: Tensor, weight: Tensor, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Scalar to minimise, and figures for display ("psnr_db" among them).

        Args:
            rgb: float [N, 3] in 0..1, the pictures' colours.
            weight: float [N], how much each ray counts.
            step: number of this optimiser step, from 0.
            generator: source of all randomness of this step.
        """
        raise NotImplementedError

    def density(self, xyz: Tensor) -> Tensor:
        """[N, 3] points of the field frame -> [N], extinction per field unit; 0 outside the bounds."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Name and options as plain data, enough to make the same renderer again."""
        return {"name": self.name, "options": self.config.model_dump(mode="json")}
