# SPDX-License-Identifier: Apache-2.0
"""A ray caster in torch: from a volume, cameras and an opacity ramp to what a light needs: albedo, normal, depth.

Opacity accumulates as in VTK and in medrecon.ingest.view_depth: a sample of opacity a per mm lets (1 - a)^step of the
light pass (Levoy, Display of Surfaces from Volume Data, 1988). Empty space is crossed in leaps: blocks of voxels know
how many blocks around them are empty (Chebyshev distance), so a ray leaves that whole cube at once; only near what is
visible is it sampled, every half voxel. The same code runs on the CPU and on CUDA.

Frames: world = mm, voxel (i, j, k) at (i, j, k) * spacing; cameras as OpenCV's (x right, y down, z forward), pixel
centres at .5; depth is z-depth in mm, 0 where nothing was hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.exact import times

_BLOCK = 4  # voxels per block of the empty-space map
_REACH = 48  # blocks: no leap needs to be longer
_SAMPLES = 8  # fine samples between two looks at the empty-space map
_LEAPS = 16  # leaps between two sweeps of rays that are done
_DARK = 0.02  # light below which a ray is done
_MAX_ROUNDS = 2000  # safety: no ray of a sane volume comes near


@dataclass(frozen=True)
class Ramp:
    """Opacity per mm: 0 up to byte value ``low``, rising linearly to ``alpha`` at ``high``, constant beyond."""

    low: float
    high: float
    alpha: float


@dataclass(frozen=True)
class GBuffer:
    """What V cameras see of one volume.

    Attributes:
        value: float32 [V, H, W], byte value seen (mean over the ray, as a renderer weights colours); 0: nothing.
        normal: float32 [V, 3, H, W], unit, camera frame, out of the tissue (towards the eye: z < 0); 0: nothing.
        depth: float32 [V, H, W], z-depth in mm at which half of the light is gone; 0: it never is.
        opacity: float32 [V, H, W], share of the light that is stopped, 0..1.
    """

    value: Tensor
    normal: Tensor
    depth: Tensor
    opacity: Tensor


class VolumeCaster:
    """Casts rays through one volume under one opacity ramp.

    Args:
        volume: uint8 [X, Y, Z] on the device that is to work.
        spacing_mm: of the voxels.
        ramp: what is visible, in byte values.
        step_mm: between samples; None: half the smallest spacing, as the VTK renderings have it.
    """

    def __init__(
        self, volume: Tensor, spacing_mm: tuple[float, float, float], ramp: Ramp, step_mm: float | None = None
    ):
        self.device, self.ramp = volume.device, ramp
        self._data = volume.float()[None, None]
        self._smooth: Tensor | None = None
        self.spacing = torch.tensor(spacing_mm, dtype=torch.float32, device=self.device)
        self._last = torch.tensor(volume.shape, dtype=torch.float32, device=self.device) - 1
        self.last_mm = self._last * self.spacing
        self._step = step_mm or min(spacing_mm) / 2
        self._empty = empty_blocks(volume > ramp.low)
        self._block_shape = torch.tensor(self._empty.shape, device=self.device)
        self._empty_flat = self._empty.flatten()

    def render(self, intrinsics: Tensor, cam_from_world: Tensor, size: tuple[int, int]) -> GBuffer:
        """All pixels of V cameras.

        Args:
            intrinsics: float32 [V, 4]: fx, fy, cx, cy in px.
            cam_from_world: float32 [V, 4, 4], mm.
            size: (width, height) in px.
        """
        w, h = size
        views = intrinsics.shape[0]
        y, x = torch.meshgrid(
            torch.arange(h, device=self.device) + 0.5, torch.arange(w, device=self.device) + 0.5, indexing="ij"
        )
        fx, fy, cx, cy = (intrinsics[:, i, None, None] for i in range(4))
        rays = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x - cx)], -1).reshape(views, -1, 3)
        rotation = cam_from_world[:, :3, :3]
        turned = rotation.transpose(1, 2)  # world from camera
        centre = -times(turned, cam_from_world[:, None, :3, 3])[:, 0]
        direction = times(turned, rays)
        origin = centre[:, None].expand_as(direction)
        value, depth, opacity = self.cast(origin.reshape(-1, 3), direction.reshape(-1, 3))
        hit = depth > 0
        normal = torch.zeros_like(direction).reshape(-1, 3)
        index = hit.nonzero()[:, 0]
        point = (origin.reshape(-1, 3)[index] + depth[index, None] * direction.reshape(-1, 3)[index]) / self.spacing
        normal[index] = self._outward(point)
        normal = times(rotation, normal.reshape(views, -1, 3)).transpose(1, 2)
        return GBuffer(
            value.reshape(views, h, w), normal.reshape(views, 3, h, w), depth.reshape(views, h, w),
            opacity.reshape(views, h, w),
        )  # fmt: skip

    def cast(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rays origin + t * direction (world, mm; float32 [N, 3]; directions not normalised).

        Returns:
            float32 [N] each: value seen, t at which half of the light is gone (0: never), opacity.
        """
        chunk = 1 << (21 if self.device.type == "cuda" else 16)
        parts = [self._march(o, d) for o, d in zip(origin.split(chunk), direction.split(chunk))]
        return tuple(torch.cat(p) for p in zip(*parts))

    def empty_points(self, n: int, draw: torch.Generator) -> Tensor:
        """float32 [<= n, 3] on the CPU, mm: those of ``n`` random voxel centres where nothing is visible."""
        shape = self._data.shape[2:]
        ijk = torch.stack([torch.randint(s, (n,), generator=draw) for s in shape], 1)
        value = self._data[0, 0][tuple(ijk.to(self.device).T)].cpu()
        return ijk[value <= self.ramp.low] * self.spacing.cpu()

    def _march(self, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = len(origin)
        value, depth, light_left = (torch.zeros(n, device=self.device) for _ in range(3))
        light_left += 1
        length = direction.norm(dim=1)
        o, d = origin / self.spacing, direction / self.spacing
        d = torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)  # a ray along an axis leaves its slab at infinity
        near, far = self._clip(o, d)
        ray = (far > near).nonzero()[:, 0]
        o, d, t, far, step = o[ray], d[ray], near[ray], far[ray], (self._step / length)[ray]
        light, seen, half = torch.ones_like(t), torch.zeros_like(t), torch.zeros_like(t)
        for _ in range(_MAX_ROUNDS):
            t = self._leap(o, d, t)
            live = (t < far) & (light > _DARK)
            done = ray[~live]
            value[done], depth[done], light_left[done] = seen[~live], half[~live], light[~live]
            if not len(ray) or not live.any():
                break
            ray, o, d, t, far, step, light, seen, half = (
                a[live] for a in (ray, o, d, t, far, step, light, seen, half)
            )  # fmt: skip
            t, light, seen, half = self._sample(o, d, t, far, step, light, seen, half)
        opacity = 1 - light_left
        return value / opacity.clamp(min=1e-6), depth, opacity

    def _sample(self, o, d, t, far, step, light, seen, half):
        """March every ray by ``_SAMPLES`` steps; samples lie in the middle of their step."""
        k = torch.arange(_SAMPLES, device=self.device) + 0.5
        ts = t[:, None] + k * step[:, None]
        values = sample_volume(self._data, o[:, None] + ts[..., None] * d[:, None])
        alpha = self.ramp.alpha * ((values - self.ramp.low) / (self.ramp.high - self.ramp.low)).clamp(0, 1)
        fade = torch.log1p(-alpha.clamp(max=0.9999)) * self._step
        fade = torch.where(ts < far[:, None], fade, torch.zeros_like(fade))
        after = light.clamp(min=1e-30).log()[:, None] + fade.cumsum(1)  # logarithm of the light after each sample
        before = after - fade
        weight = before.exp() - after.exp()
        # Within a step the light falls exponentially: its logarithm linearly.
        level = -0.6931471805599453
        crosses = (before > level) & (after <= level)
        part = ((before - level) / (before - after).clamp(min=1e-12)).clamp(0, 1)
        crossing = torch.where(crosses, ts + (part - 0.5) * step[:, None], torch.zeros_like(ts)).sum(1)
        half = torch.where(half > 0, half, crossing)
        return t + _SAMPLES * step, after[:, -1].exp(), seen + (weight * values).sum(1), half

    def _leap(self, o: Tensor, d: Tensor, t: Tensor) -> Tensor:
        """Parameter at which each ray stands in a block that is not empty, or beyond the volume.

        A few leaps only: rays that still fly get fine samples of nothing, and leap on in the next round.
        """
        flying = torch.arange(len(t), device=self.device)
        o, d = o.T.contiguous() / _BLOCK, d.T.contiguous() / _BLOCK
        inverse, ahead, t = 1 / d, (d > 0).float(), t.clone()
        last, (_, ny, nz) = (self._block_shape - 1)[:, None], self._empty.shape
        s = t
        for n in range(_LEAPS):
            cell = torch.minimum((o + s * d).clamp_(min=0).long(), last)
            free = self._empty_flat[(cell[0] * ny + cell[1]) * nz + cell[2]].float()
            # The cube reaches from cell + 1 - free to cell + free; the ray leaves it through the walls ahead of it.
            wall = cell + (1 - ahead) + (2 * ahead - 1) * free
            leave = ((wall - o) * inverse).amin(0)
            s = torch.where(free > 0, torch.maximum(leave, s) + 1e-3, s)
            t[flying] = s
            go = (free > 0).nonzero()[:, 0]
            if n + 1 == _LEAPS or not len(go):
                return t
            if len(go) < 0.7 * len(s):
                flying, s, o, d = flying[go], s[go], o[:, go], d[:, go]
                inverse, ahead = inverse[:, go], ahead[:, go]
        return t

    def _clip(self, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Entry and exit parameter of each ray in the grid of voxel centres, not before the camera."""
        a, b = -o / d, (self._last - o) / d
        return torch.minimum(a, b).amax(1).clamp(min=1e-3), torch.maximum(a, b).amin(1)

    def _outward(self, point: Tensor) -> Tensor:
        """float32 [N, 3]: unit normals at voxel coordinates, from central differences of the smoothed volume."""
        if self._smooth is None:
            self._smooth = smoothed(self._data)
        shift = torch.eye(3, device=self.device)
        ends = sample_volume(self._smooth, torch.cat([point[:, None] + shift, point[:, None] - shift], 1))
        gradient = (ends[:, :3] - ends[:, 3:]) / (2 * self.spacing)
        return -F.normalize(gradient, dim=1)


def empty_blocks(visible: Tensor) -> Tensor:
    """Chebyshev distance, in blocks of voxels, to the nearest block that may hold something visible.

    Args:
        visible: bool [X, Y, Z] per voxel.

    Returns:
        uint8, one per block: 0 = look here, n = the cube of blocks nearer than n is empty; at most 48.
    """
    # A sample between voxels mixes its eight neighbours: a cell is visible where one of its corners is, and a block
    # holds the cells that begin in it.
    corner = visible[None, None].float()
    pad = [p for s in reversed(visible.shape) for p in (0, (-s) % _BLOCK + 1)]
    cells = F.max_pool3d(F.pad(corner, pad), 2, stride=1)
    blocks = F.max_pool3d(cells, _BLOCK)[0, 0] > 0
    empty = torch.where(blocks, 0, _REACH).to(torch.uint8)
    near = blocks[None, None].float()
    for n in range(1, min(_REACH, max(blocks.shape))):
        grown = F.max_pool3d(near, 3, stride=1, padding=1)
        empty[(grown > near)[0, 0]] = n
        near = grown
    return empty


def sample_volume(data: Tensor, points: Tensor) -> Tensor:
    """Trilinear values at voxel coordinates; the border goes on outside.

    Args:
        data: float32 [1, 1, X, Y, Z].
        points: float32 [N, K, 3].

    Returns:
        float32 [N, K].
    """
    size = torch.tensor(data.shape[2:], dtype=torch.float32, device=data.device)
    grid = (points * (2 / (size - 1)) - 1).flip(-1)
    n, k = points.shape[:2]
    # On the CPU torch works in parallel over the batch only; one part per thread shares the volume without copying it.
    parts = max(1, min(torch.get_num_threads(), n)) if data.device.type == "cpu" else 1
    rows = -(-n // parts)
    grid = F.pad(grid, (0, 0, 0, 0, 0, rows * parts - n)).view(parts, rows, k, 1, 3)
    out = F.grid_sample(
        data.expand(parts, *data.shape[1:]), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return out.reshape(parts * rows, k)[:n]


def smoothed(data: Tensor) -> Tensor:
    """float32 [1, 1, X, Y, Z] under the kernel (1, 2, 1) / 4 along each axis: bytes make stairs, normals show them."""
    kernel = torch.tensor([0.25, 0.5, 0.25], device=data.device)
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 3
        pad = [0, 0, 0, 0, 0, 0]
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = 1
        data = F.conv3d(F.pad(data, pad, mode="replicate"), kernel.view(shape))
    return data
