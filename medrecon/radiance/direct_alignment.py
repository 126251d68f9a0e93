# SPDX-License-Identifier: Apache-2.0
"""Where a camera must have stood for its picture to fit what a field shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medrecon.radiance.pictures import training_picture
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene, pixel_directions
from medrecon.types import Camera, FrameSet, RayBatch, Rigid3

SOLVES = 3  # Gauss-Newton steps on one rendering
DAMPING = 0.03  # how much a pose stays where it was: as a share of what the picture says along each of its six ways
SEEN = 0.5  # least opacity of a pixel that is looked at
FLAT = 0.01  # largest slope, per pixel and in 0..1, of a place that says nothing of the pose
LEAST = 64  # pixels that a pose must be told by
FARTHEST = 0.05  # of the picture's longer side: a view that is moved more than that has lost its way, and stays
CHUNK = 16384  # rays rendered at once


@dataclass(frozen=True, slots=True)
class Lens:
    """A camera's pixels: directions float32 [P, 3] (camera axes, z = 1), radii float32 [P] of their cones, and
    px_from_direction float32 [P, 2, 2]: how many pixels a small change of a direction's x and y is."""

    directions: Tensor
    radii: Tensor
    px_from_direction: Tensor

    @staticmethod
    def of(camera: Camera) -> "Lens":
        directions, radii = pixel_directions(camera)
        down, right = np.gradient(directions[..., :2], axis=(0, 1))
        inverse = np.linalg.inv(np.stack([right, down], -1).reshape(-1, 2, 2))
        table = lambda x, *shape: torch.from_numpy(x.astype(np.float32)).reshape(-1, *shape)  # noqa: E731
        return Lens(table(directions, 3), table(radii), table(inverse, 2, 2))


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of a view.

    Attributes:
        frame_id: whose picture.
        image: uint8 [H, W, 3].
        usable: bool [H, W], True where neither a mask nor the border comes near.
        candidates: int64 [C], pixels that can tell a pose: usable ones where the picture is not flat.
        lens: of its camera, at the picture's size.
    """

    frame_id: int
    image: Tensor
    usable: Tensor
    candidates: Tensor
    lens: Lens

    def planes(self) -> Tensor:
        """float32 [10, H, W]: colours in 0..1, their slopes per pixel to the right, downwards, and what is usable; 0
        where it is not."""
        colours = self.image.permute(2, 0, 1).float() / 255
        right, down = _slopes(colours)
        return torch.cat([colours, right, down, torch.ones_like(colours[:1])]) * self.usable


def _slopes(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of [3, H, W]."""
    padded = F.pad(colours[None], (1, 1, 1, 1), mode="replicate")[0]
    return (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2, (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2


def pictures(scene: Scene, frames: FrameSet, frame_ids: Iterable[int], factor: float = 1.0) -> list[Picture]:
    """Those of the frames, by id, at ``factor`` times the scene's resolution."""
    by_id, lenses, out = frames.by_id(), {}, []
    for i in sorted(frame_ids):
        camera = scene.cameras[i]
        if factor != 1.0:
            camera = camera.scaled(max(2, round(camera.width_px * factor)), max(2, round(camera.height_px * factor)))
        if camera not in lenses:
            lenses[camera] = Lens.of(camera)
        image, mask = training_picture(by_id[i], camera)
        usable = torch.ones(image.shape[:2]) if mask is None else torch.from_numpy(mask.astype(np.float32))
        usable = -F.max_pool2d(F.pad(-usable[None], (1, 1, 1, 1)), 3, 1)[0] > 0
        image = torch.from_numpy(np.ascontiguousarray(image))
        right, down = _slopes(image.permute(2, 0, 1).float() / 255)
        tells = usable & ((right.abs() + down.abs()).amax(0) > FLAT)
        out.append(Picture(i, image, usable, tells.flatten().nonzero().squeeze(1), lenses[camera]))
    return out


@dataclass(frozen=True, slots=True)
class Shown:
    """What a field shows of K pixels of a picture: pixels int64 [K], depth float32 [K], colours float32 [K, 3]."""

    pixels: Tensor
    depth: Tensor
    colours: Tensor


@torch.no_grad()
def look(
    renderer: Renderer, scene: Scene, views: list[Picture], poses: Mapping[int, Rigid3], pixels: int,
    generator: torch.Generator, appearance: str | Tensor | None = None,
) -> list[Shown]:  # fmt: skip
    """What the field shows of at most ``pixels`` random pixels of each view, where it shows a surface.

    Args:
        poses: camera from field, by frame id.
        appearance: as for `Renderer.render`.
    """
    device = next(renderer.parameters()).device
    chosen, parts = [], []
    for view in views:
        pick, n = view.candidates, min(pixels, len(view.candidates))
        if n < len(pick):
            pick = pick[torch.randint(len(pick), (n,), generator=generator)]
        pose = poses[view.frame_id]
        rotation, centre = (torch.from_numpy(np.asarray(x, np.float32)) for x in (pose.rotation, pose.center))
        near, far = (torch.full((n, 1), x) for x in scene.near_far[view.frame_id])
        directions, radii = view.lens.directions[pick] @ rotation, view.lens.radii[pick, None]
        chosen.append(pick)
        parts.append((centre.expand(n, 3), directions, radii, near, far, torch.full((n,), view.frame_id)))
    rays = scene.clip_to_bounds(RayBatch(*map(torch.cat, zip(*parts))))
    outs = [renderer.render_basic(rays[k : k + CHUNK].to(device), appearance) for k in range(0, len(rays), CHUNK)]
    rgb, depth, opacity = (torch.cat([getattr(o, name).cpu() for o in outs]) for name in ("rgb", "depth", "opacity"))
    hit = (opacity > SEEN) & (depth > 0)
    shown = []
    for pick, *of_view in zip(chosen, *(x.split([len(p) for p in chosen]) for x in (hit, depth, rgb))):
        there, depth, rgb = of_view
        shown.append(Shown(pick[there], depth[there], rgb[there]))
    return shown


def align(view: Picture, shown: Shown) -> Rigid3 | None:
    """``moved camera from camera``, in the depths' unit: the place from which the view's picture fits what is shown.

    Direct image alignment, as of cameras with depth (Kerl, Sturm and Cremers, "Robust odometry estimation for RGB-D
    cameras", ICRA 2013): each pixel shown is a coloured point, which falls elsewhere in the picture of a camera that
    stands elsewhere; Gauss-Newton on the differences in colour finds that camera. Large differences weigh as Huber has
    it. Brightness and contrast of the view are free: they are no matter of its pose.

    Returns None where too few pixels tell, or the answer is far off.
    """
    if len(shown.pixels) < LEAST:
        return None
    h, w = view.usable.shape
    planes, target = view.planes()[None], shown.colours.double()
    ray, to_px = (x[shown.pixels].double() for x in (view.lens.directions, view.lens.px_from_direction))
    at = torch.stack([shown.pixels % w, shown.pixels // w], -1).double()
    points = ray * shown.depth[:, None].double()
    moved_from_cam = torch.eye(4, dtype=torch.float64)
    total = torch.zeros(8, dtype=torch.float64)  # turn, shift, contrast, brightness
    for _ in range(SOLVES):
        x, y, z = (points @ moved_from_cam[:3, :3].T + moved_from_cam[:3, 3]).unbind(-1)
        x, y, inverse = x / z, y / z, 1 / z
        offset = (to_px @ (torch.stack([x, y], -1) - ray[:, :2])[..., None]).squeeze(-1)
        place = (2 * (at + offset) + 1) / torch.tensor([w, h]) - 1
        found = F.grid_sample(planes, place[None, None].float(), align_corners=False)[0, :, 0].T.double()
        colour, right, down, use = found.split([3, 3, 3, 1], -1)
        residual = colour - (1 + total[6]) * target - total[7]
        of_px = to_px @ direction_jacobian(x, y, inverse)
        jacobian = right[..., None] * of_px[:, None, 0] + down[..., None] * of_px[:, None, 1]
        jacobian = torch.cat([jacobian, torch.stack([-target, -torch.ones_like(target)], -1)], -1)
        inside = use.squeeze(-1) > 0.99
        if inside.sum() < LEAST:
            return None
        usual = 3 * residual[inside].abs().median().clamp_min(1 / 255)
        weight = inside[:, None] * usual / residual.abs().clamp_min(usual)
        weighted = (jacobian * weight[..., None]).flatten(0, 1)
        normal = weighted.T @ jacobian.flatten(0, 1)
        held = DAMPING * normal.diagonal() + 1e-9 * normal.diagonal().max() + 1e-12
        step = -torch.linalg.solve(normal + torch.diag(held), weighted.T @ residual.flatten() + held * total)
        total = total + step
        moved_from_cam = rigid_motion(step[:6]) @ moved_from_cam
    if not (torch.isfinite(offset).all() and offset.norm(dim=-1).median() < FARTHEST * max(h, w)):
        return None
    return Rigid3.from_matrix(moved_from_cam.numpy())


def direction_jacobian(x: Tensor, y: Tensor, inverse_depth: Tensor) -> Tensor:
    """[N, 2, 6]: how x / z and y / z of points change with `rigid_motion`, of x / z, y / z and 1 / z, each [N]."""
    zero = torch.zeros_like(x)
    return torch.stack(
        [
            torch.stack([-x * y, 1 + x * x, -y, inverse_depth, zero, -x * inverse_depth], -1),
            torch.stack([-1 - y * y, x * y, x, zero, inverse_depth, -y * inverse_depth], -1),
        ],
        -2,
    )


def rigid_motion(step: Tensor) -> Tensor:
    """float [4, 4] of a rotation vector (radians) and a shift: step [6]."""
    x, y, z = step[:3].tolist()
    out = torch.eye(4, dtype=step.dtype)
    out[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=step.dtype))
    out[:3, 3] = step[3:]
    return out
