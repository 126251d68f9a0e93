# SPDX-License-Identifier: Apache-2.0
"""Line integrals of attenuation through a volume: digitally reconstructed radiographs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from medrecon.types import Camera, Rigid3, Volume

RAYS_AT_ONCE = 8192


def attenuation_of_hounsfield(volume: Volume, water_per_mm: float) -> Volume:
    """Hounsfield units -> linear attenuation in 1/mm, float32: water_per_mm * (1 + HU / 1000), never below 0.

    That is the definition of the Hounsfield unit, solved for the attenuation. It holds at the effective energy of the
    scanner; at another one bone differs more than soft tissue does.
    """
    mu = water_per_mm * (1 + volume.data.astype(np.float32) / 1000)
    return replace(volume, data=np.maximum(mu, 0, out=mu))


class Projector:
    """Integrals along the rays of pinhole cameras, by Joseph's method (IEEE Transactions on Medical Imaging 1, 1982).

    Along the axis a ray follows most closely, each layer of voxels is looked up once, bilinearly; the sum times the way
    from layer to layer is the trapezoidal rule. Beyond the outermost voxel centres the values fall to 0 within a voxel.

    Args:
        volume: attenuation, 1/mm.
    """

    def __init__(self, volume: Volume):
        self.ijk_from_ras = np.linalg.inv(volume.ras_from_ijk_mm)
        data = torch.from_numpy(np.ascontiguousarray(volume.data, np.float32))
        # For each axis: its layers as pictures [layers, 1, rows, columns].
        self.layers = [data.movedim(a, 0).unsqueeze(1).contiguous() for a in range(3)]

    def line_integrals(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Attenuation from the origin on to infinity.

        Args:
            origins: float [N, 3] or [3], patient RAS, mm.
            directions: float [N, 3], of any length.

        Returns:
            float32 [N], without unit.
        """
        directions = np.asarray(directions, np.float64)
        turn = self.ijk_from_ras[:3, :3]
        o = np.broadcast_to(np.asarray(origins, np.float64) @ turn.T + self.ijk_from_ras[:3, 3], directions.shape)
        length_mm = np.linalg.norm(directions, axis=1)
        d = directions / length_mm[:, None] @ turn.T  # voxels per mm
        spacing_mm = 1 / np.linalg.norm(turn, axis=1)
        main = np.abs(d * spacing_mm).argmax(1)
        total = np.zeros(len(d), np.float32)
        for axis in range(3):
            rays = np.flatnonzero(main == axis)
            for i in range(0, len(rays), RAYS_AT_ONCE):
                part = rays[i : i + RAYS_AT_ONCE]
                total[part] = self._sum(axis, o[part], d[part]) / np.abs(d[part, axis])
        return total

    def _sum(self, axis: int, o: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Sum over the layers of an axis, of rays given in voxels."""
        layers = self.layers[axis]
        row, column = (a for a in range(3) if a != axis)
        o, slope = torch.from_numpy(o.astype(np.float32)), torch.from_numpy(d / d[:, axis : axis + 1]).float()
        layer = torch.arange(len(layers), dtype=torch.float32)
        # grid_sample wants the first pixel's centre at -1 and the last one's at 1.
        grid = torch.empty(len(layers), len(o), 1, 2)
        for k, (a, n) in enumerate(((column, layers.shape[3]), (row, layers.shape[2]))):
            scale = 2 / max(n - 1, 1)
            start = (o[:, a] - o[:, axis] * slope[:, a]) * scale - 1
            torch.addcmul(start, layer[:, None], slope[:, a] * scale, out=grid[:, :, 0, k])
        values = F.grid_sample(layers, grid, "bilinear", "zeros", align_corners=True)[:, 0, :, 0]
        # Nothing behind the origin counts.
        first, sign = o[:, axis], torch.from_numpy(np.sign(d[:, axis])).float()
        return values.mul_((layer[:, None] - first) * sign > 0).sum(0).numpy()

    def picture(self, camera: Camera, cam_from_ras: Rigid3, supersample: int = 1) -> np.ndarray:
        """Line integrals float32 [H, W] that a detector reads: -log of the mean transmission of each pixel's rays."""
        n = supersample
        u, v = np.meshgrid((np.arange(camera.width_px * n) + 0.5) / n, (np.arange(camera.height_px * n) + 0.5) / n)
        directions = camera.unproject(np.stack([u, v], -1).reshape(-1, 2)) @ cam_from_ras.rotation
        p = self.line_integrals(cam_from_ras.center, directions).astype(np.float64)
        light = np.exp(-p).reshape(camera.height_px, n, camera.width_px, n).mean((1, 3))
        return -np.log(np.maximum(light, 1e-300)).astype(np.float32)
