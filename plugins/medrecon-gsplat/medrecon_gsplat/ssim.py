# SPDX-License-Identifier: Apache-2.0
"""Structural similarity that can be differentiated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM (Wang et al. 2004) of two pictures float [H, W, 3] in 0..1: Gaussian window of 11 pixels, sigma 1.5."""
    x = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    window = torch.exp(-(x**2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(3, 1, -1)

    def blurred(picture: Tensor) -> Tensor:
        rows = F.conv2d(picture.permute(2, 0, 1)[None], window[:, :, None], padding=(0, 5), groups=3)
        return F.conv2d(rows, window[..., None], padding=(5, 0), groups=3)

    ma, mb = blurred(a), blurred(b)
    va, vb, both = blurred(a * a) - ma**2, blurred(b * b) - mb**2, blurred(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * both + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()
