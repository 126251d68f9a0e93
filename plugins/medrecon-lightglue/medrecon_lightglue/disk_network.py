# SPDX-License-Identifier: Apache-2.0
"""The network of DISK, named as its checkpoint is. Tyszkiewicz, Fua, Trulls: "DISK: Learning local features with
policy gradient", NeurIPS 2020, arXiv 2006.13566, section 3 and supplement A (U-Net)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DESCRIPTOR = 128
KERNEL = 5


def _gated(n_in: int, n_out: int, plain: bool = False) -> nn.Sequential:
    """Instance norm, PReLU, 5x5 convolution; the third place is a dropout that is off."""
    norm, gate = (nn.Identity(), nn.Identity()) if plain else (nn.InstanceNorm2d(n_in), nn.PReLU(n_in))
    return nn.Sequential(norm, gate, nn.Identity(), nn.Conv2d(n_in, n_out, KERNEL, padding=KERNEL // 2))


class _Up(nn.Module):
    def __init__(self, n_below: int, n_skip: int, n_out: int):
        super().__init__()
        self.conv = _gated(n_below + n_skip, n_out)

    def join(self, below: Tensor, skip: Tensor) -> Tensor:
        up = F.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.cat([up, skip], 1)


class _UNet(nn.Module):
    def __init__(self):
        super().__init__()
        down, up = (3, 16, 32, 64, 64, 64), (64, 64, 64, DESCRIPTOR + 1)
        self.path_down = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2) if i else nn.Identity(), _gated(a, b, plain=i == 0))
            for i, (a, b) in enumerate(zip(down, down[1:]))
        )
        skips = down[-2:0:-1]
        below = (down[-1], *up)
        self.path_up = nn.ModuleList(_Up(b, s, u) for b, s, u in zip(below, skips, up))


class DiskNetwork(nn.Module):
    """Score map everywhere, descriptors only where they are asked for.

    The last layer of the U-Net makes 129 channels at full size, 128 of which are descriptors that are read at a
    thousand pixels out of hundreds of thousands. Here that layer runs for the score alone, and for the descriptors on
    the 5x5 neighbourhoods of the keypoints: the same numbers for a fifth of the work.
    """

    multiple = 16

    def __init__(self):
        super().__init__()
        self.unet = _UNet()

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """picture float [1, 3, H, W] in 0..1, sides multiples of 16 -> score map [H, W], activations [80, H, W]."""
        skips = [picture]
        for layer in self.unet.path_down:
            skips.append(layer(skips[-1]))
        x = skips.pop()
        *up, last = self.unet.path_up
        for layer in up:
            x = layer.conv(layer.join(x, skips.pop()))
        x = last.conv[:-1](last.join(x, skips.pop()))
        conv = last.conv[-1]
        score = F.conv2d(x, conv.weight[DESCRIPTOR:], conv.bias[DESCRIPTOR:], padding=KERNEL // 2)
        return score[0, 0], x[0]

    def describe(self, activations: Tensor, pixels: Tensor) -> Tensor:
        """Descriptors [N, 128] of unit length at pixels int64 [N, 2] (column, row)."""
        conv, r = self.unet.path_up[-1].conv[-1], KERNEL // 2
        padded = F.pad(activations, (r, r, r, r))
        width = padded.shape[2]
        step = torch.arange(KERNEL, device=pixels.device)
        around = (step[:, None] * width + step).reshape(-1)
        index = (pixels[:, 1] * width + pixels[:, 0])[:, None] + around
        patches = padded.flatten(1)[:, index].transpose(0, 1).flatten(1)
        weight = conv.weight[:DESCRIPTOR].flatten(1)
        return F.normalize(F.linear(patches, weight, conv.bias[:DESCRIPTOR]), dim=1)
