# SPDX-License-Identifier: Apache-2.0
"""Which appearance code a held-out view gets, and which part of it then counts in a figure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.radiance.pictures import training_picture
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.types import Camera, FrameSet, RayBatch

FIT_PIXELS = 2048  # of the left half, at most
FIT_STEPS = 25
LEFT_HALF = "fitted on the left half, colours measured on the right"


@dataclass(frozen=True, slots=True)
class ViewAppearance:
    """What the rays of one view are rendered with.

    Attributes:
        appearance: for ``Renderer.render``.
        frame_id: the picture that the rays say they belong to.
    """

    appearance: str | Tensor
    frame_id: int


@dataclass(frozen=True, slots=True)
class HeldoutAppearance:
    """Chooses the codes of held-out views.

    "zero" and "mean" say what they are. "nearest" is the code of the training picture nearest in time, or, where
    pictures have no time, nearest in their order. "fitted" is the protocol of NeRF in the Wild (Martin-Brualla 2021,
    section 5): with the field frozen, a code is fitted to the left half of the held-out picture; only the right half
    says how good the view is. No mode but "mean" and "nearest" reads what was learned of a training picture's own look.

    Attributes:
        mode: zero, mean, nearest or fitted.
        renderer: the trained field.
        scene, frames: what it was trained on, and the pictures.
    """

    mode: str
    renderer: Renderer
    scene: Scene
    frames: FrameSet

    @property
    def words(self) -> str:
        """Names the mode beside every figure."""
        if not self.renderer.appearance_size:
            return "none"
        nearest = "nearest in time" if self._times() else "nearest in the order of the pictures"
        return {"nearest": nearest, "fitted": LEFT_HALF}.get(self.mode, self.mode)

    def measured_from_px(self, camera: Camera) -> int:
        """First column of a view of this camera that counts in a figure of the colours."""
        return camera.width_px // 2 if self.mode == "fitted" and self.renderer.appearance_size else 0

    def of(self, frame_id: int, camera: Camera) -> ViewAppearance:
        """The code of a held-out picture; ``camera`` is that of the view, whose size decides what its left half is."""
        if not self.renderer.appearance_size or self.mode in ("zero", "mean"):
            return ViewAppearance("zero" if self.mode == "zero" else "mean", frame_id)
        if self.mode == "nearest":
            return ViewAppearance("zero", self._nearest(frame_id))
        return ViewAppearance(self._fitted(frame_id, camera), frame_id)

    def _times(self) -> dict[int, float]:
        """Seconds by frame id, empty where a picture has none."""
        times = {f.frame_id: f.time_s for f in self.frames.frames}
        return {} if None in times.values() else times

    def _nearest(self, frame_id: int) -> int:
        when = self._times() or {f.frame_id: k for k, f in enumerate(self.frames.frames)}
        return min(self.scene.train_ids, key=lambda i: (abs(when[i] - when[frame_id]), i))

    def _fitted(self, frame_id: int, camera: Camera) -> Tensor:
        image, mask = training_picture(self.frames.by_id()[frame_id], camera)
        counted = torch.ones(image.shape[:2], dtype=torch.bool) if mask is None else torch.from_numpy(mask.copy())
        counted[:, self.measured_from_px(camera) :] = False
        pixels = counted.flatten().nonzero().squeeze(1)
        if len(pixels) > FIT_PIXELS:
            pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(frame_id))[:FIT_PIXELS]]
        rays = self.scene.camera_rays(
            camera, self.scene.cam_from_sfm[frame_id], self.scene.near_far[frame_id], frame_id
        )
        colours = torch.from_numpy(image).flatten(0, 1)[pixels].float() / 255
        return fit_code(self.renderer, rays[pixels], colours)


def fit_code(renderer: Renderer, rays: RayBatch, colours: Tensor) -> Tensor:
    """The code float [appearance_size] under which the frozen field shows these colours best.

    Args:
        rays: N rays, on any device.
        colours: float [N, 3] in 0..1.
    """
    device = next(renderer.parameters()).device
    rays, colours = rays.to(device), colours.to(device)
    # From zeros, the mean of the codes at the start of a training: no training picture's row is looked at.
    code = torch.zeros(renderer.appearance_size, device=device, requires_grad=True)
    optimiser = torch.optim.LBFGS([code], max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = ((renderer.render_basic(rays, code).rgb - colours) ** 2).mean()
        error.backward()
        return error

    learned = [p for p in renderer.parameters() if p.requires_grad]
    with torch.enable_grad():
        for p in learned:
            p.requires_grad_(False)
        try:
            if len(rays):
                optimiser.step(loss)
        finally:
            for p in learned:
                p.requires_grad_(True)
    return code.detach()
