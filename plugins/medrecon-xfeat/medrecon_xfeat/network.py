# SPDX-License-Identifier: Apache-2.0
"""The network of XFeat, named as its checkpoint is. Potje et al.: "XFeat: Accelerated features for lightweight image
matching", CVPR 2024, arXiv 2404.19174, section 3 and figure 2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL_PX = 8
DESCRIPTOR = 64


class _Basic(nn.Module):
    """Convolution, batch norm without parameters, ReLU."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, size: int = 3):
        super().__init__()
        conv = nn.Conv2d(n_in, n_out, size, stride=stride, padding=size // 2, bias=False)
        self.layer = nn.Sequential(conv, nn.BatchNorm2d(n_out, affine=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _fine_matcher() -> nn.Sequential:
    """Refines matches of the dense variant; part of the checkpoint and not used here."""
    layers: list[nn.Module] = []
    for n_in in (128, 512, 512, 512):
        layers += [nn.Linear(n_in, 512), nn.BatchNorm1d(512, affine=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 64))


class XFeatNetwork(nn.Module):
    """Descriptors and reliability per cell of 8 pixels, keypoint probability per pixel."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(_Basic(1, 4), _Basic(4, 8, 2), _Basic(8, 8), _Basic(8, 24, 2))
        self.block2 = nn.Sequential(_Basic(24, 24), _Basic(24, 24))
        self.block3 = nn.Sequential(_Basic(24, 64, 2), _Basic(64, 64), _Basic(64, 64, size=1))
        self.block4 = nn.Sequential(_Basic(64, 64, 2), _Basic(64, 64), _Basic(64, 64))
        self.block5 = nn.Sequential(_Basic(64, 128, 2), _Basic(128, 128), _Basic(128, 128), _Basic(128, 64, size=1))
        self.block_fusion = nn.Sequential(_Basic(64, 64), _Basic(64, 64), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(_Basic(64, 64, size=1), _Basic(64, 64, size=1), nn.Conv2d(64, 1, 1))
        self.keypoint_head = nn.Sequential(*(_Basic(64, 64, size=1) for _ in range(3)), nn.Conv2d(64, 65, 1))
        self.fine_matcher = _fine_matcher()

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """picture float [1, C, H, W], sides multiples of 32.

        Returns:
            descriptors [64, H/8, W/8] of unit length, keypoint probability [H, W], reliability [H/8, W/8].
        """
        x = self.norm(picture.mean(1, keepdim=True))
        x3 = self.block3(self.block2(self.block1(x) + self.skip1(x)))
        x4 = self.block4(x3)
        x5 = self.block5(x4)
        wide = (F.interpolate(t, x3.shape[2:], mode="bilinear", align_corners=False) for t in (x4, x5))
        features = self.block_fusion(x3 + sum(wide))
        reliability = torch.sigmoid(self.heatmap_head(features))[0, 0]
        # 64 pixels of a cell and, last, that it holds no keypoint.
        logits = self.keypoint_head(F.pixel_unshuffle(x, CELL_PX))
        probability = F.pixel_shuffle(logits.softmax(1)[:, :-1], CELL_PX)[0, 0]
        return F.normalize(features, dim=1)[0], probability, reliability
