# SPDX-License-Identifier: Apache-2.0
"""Solid textures: a pattern in space that paints surfaces, so that every view of a group sees the same marks.

Volumes know the shape of skin, mucosa and bone, not their colours; real pictures of them have spots and little vessels.
The pattern is band-limited noise in three octaves (Perlin, An Image Synthesizer, 1985), or dark lines where such noise
is near zero, which on a surface look like a network of vessels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training.exact import times
from medrecon.training.raycast import sample_volume

_SIDE = 48  # voxels of the noise, which repeats after them


class SolidTexture:
    """One random texture.

    Args:
        wavelength_mm: of the coarsest marks.
        draw: generator of the CPU: textures do not depend on the device.
        device: where points will be.
    """

    def __init__(self, wavelength_mm: float, draw: torch.Generator, device: torch.device):
        noise = torch.randn(1, 1, _SIDE, _SIDE, _SIDE, generator=draw)
        kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        for axis in range(3):
            shape, pad = [1] * 5, [0] * 6
            shape[2 + axis], pad[4 - 2 * axis], pad[5 - 2 * axis] = 5, 2, 2
            noise = F.conv3d(F.pad(noise, pad, mode="circular"), kernel.view(shape))
        noise = F.pad(noise / noise.std(), (0, 1) * 3, mode="circular")  # the last cell interpolates to the first voxel
        turns = torch.linalg.qr(torch.randn(4, 3, 3, generator=draw)).Q
        u = torch.rand(6, generator=draw).tolist()
        self._noise, self._turns = noise.to(device), turns.to(device)
        self._shift = (torch.rand(4, 3, generator=draw) * _SIDE).to(device)
        # The kernel leaves wavelengths of about five voxels.
        self._per_mm = 5.0 / wavelength_mm
        self._spots = 0.28 * u[0] if u[1] < 0.8 else 0.0
        self._vessels = 0.25 + 0.45 * u[2] if u[3] < 0.5 else 0.0
        self._width = 0.08 + 0.12 * u[4]
        self._gain = 0.45 + 0.3 * u[5]

    def __call__(self, points_mm: Tensor) -> Tensor:
        """float32 [N], factor on the albedo at points [N, 3], about 0.3 to 1.5."""
        factor = torch.ones(len(points_mm), device=points_mm.device)
        if self._spots:
            octaves = [self._at(points_mm, n) * self._gain**n for n in range(3)]
            factor = factor * torch.exp(self._spots * sum(octaves))
        if self._vessels:
            # Thin where the slower noise is low: vessels branch into finer ones.
            width = self._width * torch.exp(0.5 * self._at(points_mm, 0))
            line = torch.exp(-((self._at(points_mm, 3, octave=0.5) / width) ** 2))
            factor = factor * (1 - self._vessels * line)
        return factor

    def _at(self, points_mm: Tensor, n: int, octave: float | None = None) -> Tensor:
        """The n-th noise: turned and shifted by itself, twice as fine as the one before."""
        frequency = self._per_mm * 2 ** (n if octave is None else octave)
        at = torch.remainder(times(self._turns[n], points_mm) * frequency + self._shift[n], _SIDE)
        return sample_volume(self._noise, at[:, None])[:, 0]


def wavelength(distance_mm: float, focal_px: float, draw: torch.Generator) -> float:
    """mm: marks of 10 to 50 px in a picture from that distance."""
    pixels = math.exp(math.log(10) + math.log(5) * torch.rand(1, generator=draw).item())
    return pixels * distance_mm / focal_px
