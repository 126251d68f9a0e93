# SPDX-License-Identifier: Apache-2.0
"""Small networks with made-up weights, so that learned components can be tested where no weights are at hand."""

from __future__ import annotations

import torch

from medrecon.features.superpoint_network import SuperpointNetwork, SuperpointNetworkConfig
from medrecon.matching.superglue_network import SuperglueNetwork, SuperglueNetworkConfig


def small_superpoint(seed: int = 0, descriptor_size: int = 32) -> SuperpointNetwork:
    """A SuperPoint network of random weights that finds some hundred keypoints on a textured picture.

    It treats a mirrored picture as the mirror of what it makes of the picture, as real detectors nearly do: channels
    come in pairs, each the mirror of the other, so its keypoints can be followed from one into the other.
    """
    config = SuperpointNetworkConfig(encoder_widths=(8, 8, 16, 16), head_width=32, descriptor_size=descriptor_size)
    network = SuperpointNetwork(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, layer in network.named_children():
            out_channels, in_channels = layer.weight.shape[:2]
            fan_in = in_channels * layer.weight[0, 0].numel()
            weight = torch.randn(layer.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
            bias = 0.1 * torch.randn(out_channels, generator=generator)
            if name == "convPb":  # sharp enough that single pixels stand out of their cell
                weight *= 4
            outputs, inputs = _mirrored(out_channels), _mirrored(in_channels)
            layer.weight.copy_((weight + weight[outputs][:, inputs].flip(3)) / 2**0.5)
            layer.bias.copy_((bias + bias[outputs]) / 2**0.5)
    return network.eval()


def small_superglue(descriptor_size: int = 32, layers: int = 2) -> SuperglueNetwork:
    """A SuperGlue network whose layers say next to nothing: what is left is optimal transport between descriptors.

    Descriptors of unit length whose cosine is above one half are matched.
    """
    sharpness = 40.0
    config = SuperglueNetworkConfig(
        descriptor_size=descriptor_size, width=descriptor_size, layers=layers, heads=4, encoder_widths=(8,)
    )
    network = SuperglueNetwork(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(0.01 * torch.randn(value.shape, generator=generator))
        scale = (sharpness * descriptor_size**0.5) ** 0.5
        network.final_proj.weight.copy_(scale * torch.eye(descriptor_size)[:, :, None])
        network.bin_score.fill_(0.5 * sharpness)
    return network.eval()


def _mirrored(channels: int) -> torch.Tensor:
    """int64 [C]: the channel that shows the mirror of each. The 65 of the detector are pixels of a cell and "none"."""
    if channels == 65:
        return torch.cat([torch.arange(64).reshape(8, 8).flip(1).reshape(-1), torch.tensor([64])])
    return torch.arange(channels).flip(0)
