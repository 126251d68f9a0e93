# SPDX-License-Identifier: Apache-2.0
"""The SuperPoint network (DeTone, Malisiewicz, Rabinovich, CVPR workshops 2018, arXiv 1712.07629, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr as shortened
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from medrecon.networks.sizes import STRICT, check_size

CELL_PX = 8  # three poolings: one position of the heads' maps is a cell of 8 x 8 pixels


@dataclass(frozen=True)
class SuperpointNetworkConfig:
    """Size of the network; the defaults are those of the paper.

    Attributes:
        encoder_widths: channels of the four blocks.
        head_width: channels of each head's hidden layer.
        descriptor_size: length of a descriptor.

    Raises:
        ValueError: a number outside 1..4096, or not four blocks.
    """

    encoder_widths: tuple[int, int, int, int] = (64, 64, 128, 128)
    head_width: int = 256
    descriptor_size: int = 256
    __pydantic_config__: ClassVar[dict] = STRICT

    def __post_init__(self) -> None:
        if not isinstance(self.encoder_widths, tuple) or len(self.encoder_widths) != 4:
            raise ValueError(f"encoder_widths is {shortened(self.encoder_widths)}, expected four numbers")
        for name in ("encoder_widths", "head_width", "descriptor_size"):
            check_size(name, getattr(self, name))


class SuperpointNetwork(nn.Module):
    """VGG-style encoder with a detector and a descriptor head; the layers' names are those of the released weights.

    Convolutions keep the size (zero padding 1), each followed by a ReLU; a 2 x 2 maximum closes the first three blocks.
    Pixels beyond the last whole cell are context only.
    """

    format = "medrecon-superpoint"
    config_class = SuperpointNetworkConfig

    def __init__(self, config: SuperpointNetworkConfig | None = None):
        super().__init__()
        self.config = config = config or SuperpointNetworkConfig()
        w1, w2, w3, w4 = config.encoder_widths
        for i, (before, after) in enumerate(((1, w1), (w1, w2), (w2, w3), (w3, w4)), 1):
            self.add_module(f"conv{i}a", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"conv{i}b", nn.Conv2d(after, after, 3, padding=1))
        self.convPa = nn.Conv2d(w4, config.head_width, 3, padding=1)
        self.convPb = nn.Conv2d(config.head_width, CELL_PX**2 + 1, 1)
        self.convDa = nn.Conv2d(w4, config.head_width, 3, padding=1)
        self.convDb = nn.Conv2d(config.head_width, config.descriptor_size, 1)

    def blocks(self) -> list[tuple[nn.Conv2d, nn.Conv2d, bool]]:
        """The encoder: both convolutions of each block, and whether a pooling follows."""
        return [(getattr(self, f"conv{i}a"), getattr(self, f"conv{i}b"), i < 4) for i in range(1, 5)]

    def encode(self, image: Tensor) -> Tensor:
        """float [B, 1, H, W] in 0..1 -> [B, C, H // 8, W // 8]."""
        x = image
        for first, second, pool in self.blocks():
            x = F.relu(second(F.relu(first(x))))
            x = F.max_pool2d(x, 2) if pool else x
        return x

    def detect(self, encoded: Tensor) -> Tensor:
        """[B, C, h, w] -> logits [B, 65, h, w]: the 64 pixels of a cell, row by row, and "no keypoint in it"."""
        return self.convPb(F.relu(self.convPa(encoded)))

    def describe(self, encoded: Tensor) -> Tensor:
        """[B, C, h, w] -> descriptors float32 [B, D, h, w] of unit length, one for each cell."""
        return F.normalize(self.convDb(F.relu(self.convDa(encoded))).float(), dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """float [B, 1, H, W] in 0..1 -> logits [B, 65, H // 8, W // 8], descriptors [B, D, H // 8, W // 8]."""
        encoded = self.encode(image)
        return self.detect(encoded), self.describe(encoded)
