# SPDX-License-Identifier: Apache-2.0
"""What goes into and comes out of a renderer. Torch tensors; torch itself is not imported here."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from medrecon.types.camera import Camera
from medrecon.types.transforms import Rigid3

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PixelView:
    """The camera whose pixels some rays go through.

    Attributes:
        camera: intrinsics.
        cam_from_field: its pose.
        pixels: int64 [N], the pixel of each ray, counted row by row.
    """

    camera: Camera
    cam_from_field: Rigid3
    pixels: "Tensor"


@dataclass(frozen=True, slots=True)
class RayBatch:
    """N rays in the renderer's normalised field frame.

    Attributes:
        origins: float [N, 3].
        directions: float [N, 3], not normalised: the point at t is ``origins + t * directions`` and t is z-depth.
        radii: float [N, 1], cone radius at t = 1 (mip-NeRF: the width of a pixel at t = 1 times 2/sqrt(12)).
        near, far: float [N, 1], bounds in t.
        frame_ids: int64 [N], the picture each ray belongs to (appearance is indexed by it, never by position).
        view: where all rays are pixels of one camera and it is known; None for rays of several pictures.
    """

    origins: "Tensor"
    directions: "Tensor"
    radii: "Tensor"
    near: "Tensor"
    far: "Tensor"
    frame_ids: "Tensor"
    view: PixelView | None = None

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, item) -> "RayBatch":
        view = self.view and replace(self.view, pixels=self.view.pixels[item])
        return RayBatch(*(getattr(self, f.name)[item] for f in fields(self) if f.name != "view"), view)

    def to(self, *args, **kwargs) -> "RayBatch":
        """Moves the tensors (integers keep their type)."""
        still = ("frame_ids", "view")
        moved = {f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self) if f.name not in still}
        device = moved["origins"].device
        view = self.view and replace(self.view, pixels=self.view.pixels.to(device))
        return replace(self, **moved, frame_ids=self.frame_ids.to(device), view=view)


@dataclass(frozen=True, slots=True)
class Gaussians:
    """Conical frusta as axis-aligned Gaussians (mip-NeRF eq. 5-6): mean, var float [N, S, 3]."""

    mean: "Tensor"
    var: "Tensor"


@dataclass(frozen=True, slots=True)
class RenderOut:
    """What a renderer says about N rays.

    Attributes:
        rgb: float [N, 3] in 0..1.
        depth: float [N], expected t given that the ray hits something; 0 where opacity is 0. Same unit as ``near``.
        opacity: float [N] in 0..1.
        depth_median: float [N] or None: t where the transmittance falls to half.
        depth_std: float [N] or None: spread of the weights along the ray.
    """

    rgb: "Tensor"
    depth: "Tensor"
    opacity: "Tensor"
    depth_median: "Tensor | None" = None
    depth_std: "Tensor | None" = None
