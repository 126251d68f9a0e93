# SPDX-License-Identifier: Apache-2.0
"""The transformers library's SuperGlue with the weights of ours: an independent implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.matching.superglue_network import SuperglueNetwork, SuperglueNetworkConfig
from medrecon.networks.torchvision_import import import_with_torchvision

import_with_torchvision("torchvision")

from transformers import SuperGlueConfig, SuperGlueForKeypointMatching  # noqa: E402


def transformers_superglue(
    network: SuperglueNetwork, iterations: int = 100, threshold: float = 0.0
) -> SuperGlueForKeypointMatching:
    """``SuperGlueForKeypointMatching`` in eval mode with the same weights, converted."""
    config = network.config
    options = SuperGlueConfig(
        hidden_size=config.width,
        keypoint_encoder_sizes=list(config.encoder_widths),
        gnn_layers_types=[("self", "cross")[i % 2] for i in range(config.layers)],
        num_attention_heads=config.heads,
        sinkhorn_iterations=iterations,
        matching_threshold=threshold,
    )
    model = SuperGlueForKeypointMatching(options)
    missing, unexpected = model.load_state_dict(_convert(network.state_dict(), config), strict=False)
    detector_only = all(name.startswith("keypoint_detector.") for name in missing)
    if unexpected or not detector_only:
        raise ValueError(f"conversion is incomplete: missing {missing}, unexpected {unexpected}")
    return model.eval()


def _convert(state_dict: dict[str, Tensor], config: SuperglueNetworkConfig) -> dict[str, Tensor]:
    """Our state dict under the library's names; its heads are blocks of channels, ours are interleaved."""
    last = len(config.encoder_widths)
    by_head = torch.arange(config.width).view(-1, config.heads).t().reshape(-1)
    out = {}
    for name, value in state_dict.items():
        *parts, leaf = name.split(".")
        value = value[:, :, 0] if value.dim() == 3 else value
        if leaf == "bin_score":
            out[leaf] = value
        elif parts[0] == "kenc":
            out[f"keypoint_encoder.encoder.{_in_mlp(int(parts[2]), last)}.{leaf}"] = value
        elif parts[0] == "final_proj":
            out[f"final_projection.final_proj.{leaf}"] = value
        elif parts[0] == "gnn":
            layer = f"gnn.layers.{parts[2]}"
            if parts[3] == "mlp":
                out[f"{layer}.mlp.{_in_mlp(int(parts[4]), 1)}.{leaf}"] = value
            elif parts[4] == "merge":
                out[f"{layer}.attention.output.dense.{leaf}"] = value[:, by_head] if leaf == "weight" else value
            else:
                role = ("query", "key", "value")[int(parts[5])]
                out[f"{layer}.attention.self.{role}.{leaf}"] = value[by_head]
    return out


def _in_mlp(position: int, last: int) -> str:
    """Ours count linear layer, norm and ReLU apart; the library's count blocks of the three."""
    block, part = divmod(position, 3)
    return f"{block}" if block == last else f"{block}.{('linear', 'batch_norm')[part]}"


def match(
    model: SuperGlueForKeypointMatching,
    xy: Tensor,
    descriptors: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Matches of one pair with equally many keypoints on both sides.

    Args:
        xy: [2, N, 2] in the library's pixels (centre of the first: 0, 0).
        descriptors: [2, N, D].
        scores: [2, N].
        image_size: (width, height) of both images.

    Returns:
        partner of each keypoint of the first image or -1, [N]; its score or 0, [N].
    """
    width, height = image_size
    with torch.inference_mode():
        matches, found, *_ = model._match_image_pair(xy[None], descriptors[None], scores[None], height, width)
    return matches[0, 0], found[0, 0]
