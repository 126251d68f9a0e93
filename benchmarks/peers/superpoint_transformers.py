# SPDX-License-Identifier: Apache-2.0
"""The SuperPoint of the ``transformers`` library with our weights in it: an implementation by others."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.networks.torchvision_import import import_with_torchvision

import_with_torchvision("torchvision")

from transformers import SuperPointConfig, SuperPointForKeypointDetection  # noqa: E402

_HEADS = {
    "convPa": "keypoint_decoder.conv_score_a",
    "convPb": "keypoint_decoder.conv_score_b",
    "convDa": "descriptor_decoder.conv_descriptor_a",
    "convDb": "descriptor_decoder.conv_descriptor_b",
}


def transformers_superpoint(network: SuperpointNetwork, **options) -> SuperPointForKeypointDetection:
    """Their model with the weights of ``network``; ``options`` go to its ``SuperPointConfig``."""
    config = SuperPointConfig(
        encoder_hidden_sizes=list(network.config.encoder_widths),
        decoder_hidden_size=network.config.head_width,
        descriptor_decoder_dim=network.config.descriptor_size,
        **options,
    )
    model = SuperPointForKeypointDetection(config)
    state = {}
    for key, tensor in network.state_dict().items():
        layer, kind = key.split(".")
        theirs = _HEADS.get(layer) or f"encoder.conv_blocks.{int(layer[4]) - 1}.conv_{layer[5]}"
        state[f"{theirs}.{kind}"] = tensor
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.inference_mode()
def run(model: SuperPointForKeypointDetection, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float32 [1, 1, H, W] in 0..1 -> pixel indices (x, y) float32 [N, 2], scores [N], descriptors [N, D]."""
    found = model(image.expand(-1, 3, -1, -1))
    size = found.keypoints.new_tensor([image.shape[3], image.shape[2]])
    return found.keypoints[0] * size, found.scores[0], found.descriptors[0]
