# SPDX-License-Identifier: Apache-2.0
"""The SuperPoint network (DeTone, Malisiewicz, Rabinovich, CVPR workshops 2018, arXiv 1712.07629, section 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medrecon.config import ComponentConfig
from medrecon.networks.checkpoint import build_network, save_checkpoint

FORMAT = "medrecon-superpoint"
CELL_PX = 8  # three poolings: one position of the heads' maps is a cell of 8 x 8 pixels

Width = Annotated[int, Field(ge=1, le=4096)]


class SuperpointNetworkConfig(ComponentConfig):
    """Size of the network; the defaults are those of the paper."""

    encoder_widths: tuple[Width, Width, Width, Width] = Field(
        (64, 64, 128, 128), description="channels of the four blocks"
    )
    head_width: Width = Field(256, description="channels of each head's hidden layer")
    descriptor_size: Width = Field(256, description="length of a descriptor")


class SuperpointNetwork(nn.Module):
    """VGG-style encoder with a detector and a descriptor head; the layers' names are those of the released weights.

    Convolutions keep the size (zero padding 1), each followed by a ReLU; a 2 x 2 maximum closes the first three blocks.
    Pixels beyond the last whole cell are context only.
    """

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


def load_network(path: Path) -> SuperpointNetwork:
    """The network of a checkpoint, strictly, in eval mode on the CPU: the released .pth, or our own .safetensors.

    Raises:
        AssetError: the file is missing, damaged, or belongs to another network.
    """
    return build_network(path, FORMAT, SuperpointNetworkConfig, SuperpointNetwork)


def save_network(path: Path, network: SuperpointNetwork, license: str, provenance: dict[str, Any]) -> None:
    """Write the network as NAME.safetensors and NAME.json (see ``medrecon.networks.checkpoint``)."""
    save_checkpoint(path, network.state_dict(), FORMAT, network.config.model_dump(mode="json"), license, provenance)
