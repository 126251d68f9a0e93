# SPDX-License-Identifier: Apache-2.0
"""SuperPoint as it is trained: with batch normalisation.

The released architecture has none. Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167) is an affine map once its
statistics are fixed, so it is folded exactly into the convolution before it. What is exported is a plain
``SuperpointNetwork``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork, SuperpointNetworkConfig


class Maps(NamedTuple):
    """What the twin computes from images [B, 1, H, W], H and W multiples of 8.

    Attributes:
        logits: [B, 65, H / 8, W / 8].
        descriptors: [B, D, H / 8, W / 8], not normalised; None where they are not asked for.
    """

    logits: Tensor
    descriptors: Tensor | None


class SuperpointTwin(nn.Module):
    """The layers of ``SuperpointNetwork`` under their names, a batch normalisation after each that a ReLU follows."""

    def __init__(self, config: SuperpointNetworkConfig):
        super().__init__()
        self.config = config
        plain = SuperpointNetwork(config)
        self.convolutions = nn.ModuleDict(dict(plain.named_children()))
        self.norms = nn.ModuleDict()
        for name, layer in self.convolutions.items():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if name in ("convPb", "convDb"):  # linear outputs
                nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
                nn.init.zeros_(layer.bias)
            else:
                layer.bias = None  # the normalisation's shift takes its place
                self.norms[name] = nn.BatchNorm2d(layer.out_channels)

    def forward(self, images: Tensor, describe: bool = True) -> Maps:
        """images float [B, 1, H, W] in 0..1."""
        x = images
        for block in range(1, 5):
            x = self._layer(f"conv{block}b", self._layer(f"conv{block}a", x))
            if block < 4:
                x = F.max_pool2d(x, 2)
        logits = self.convolutions["convPb"](self._layer("convPa", x))
        descriptors = self.convolutions["convDb"](self._layer("convDa", x)) if describe else None
        return Maps(logits, descriptors)

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.norms[name](self.convolutions[name](x)), inplace=True)

    @torch.no_grad()
    def fold(self) -> SuperpointNetwork:
        """The plain network that computes what this one does in eval mode, on its device, in eval mode."""
        plain = SuperpointNetwork(self.config).to(self.convolutions["convPb"].weight.device)
        for name, layer in self.convolutions.items():
            target = getattr(plain, name)
            if name in self.norms:
                norm = self.norms[name]
                gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                target.weight.copy_(layer.weight * gain[:, None, None, None])
                target.bias.copy_(norm.bias - norm.running_mean * gain)
            else:
                target.weight.copy_(layer.weight)
                target.bias.copy_(layer.bias)
        return plain.eval()


def to_pixels(logits: Tensor) -> Tensor:
    """Logits [B, 65, h, w] -> those of the pixels, [B, 8 h, 8 w]."""
    return F.pixel_shuffle(logits[:, :-1], CELL_PX)[:, 0]
