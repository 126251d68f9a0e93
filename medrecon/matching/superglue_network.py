# SPDX-License-Identifier: Apache-2.0
"""The SuperGlue network (Sarlin, DeTone, Malisiewicz, Rabinovich, CVPR 2020, arXiv 1911.11763), to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr as shortened
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrecon import ops
from medrecon.networks.sizes import STRICT, check_size


@dataclass(frozen=True)
class SuperglueNetworkConfig:
    """Size of the network and what its probabilities mean; the defaults are those of the paper.

    Attributes:
        descriptor_size: length of the extractor's descriptors.
        width: length of a keypoint's state, a multiple of heads.
        layers: attention layers: within an image, then across, in turns.
        heads: attention heads of a layer.
        encoder_widths: hidden layers of the keypoint encoder, at most 32.
        match_threshold: matches of these weights count from this probability on, 0..1 (not 1); it differs between
            trainings, so that it belongs to the weights.

    Raises:
        ValueError: a number outside 1..4096 (layers and heads: 256), a width that the heads do not divide, or another
            threshold.
    """

    descriptor_size: int = 256
    width: int = 256
    layers: int = 18
    heads: int = 4
    encoder_widths: tuple[int, ...] = (32, 64, 128, 256)
    match_threshold: float = 0.2
    __pydantic_config__: ClassVar[dict] = STRICT

    def __post_init__(self) -> None:
        if not isinstance(self.encoder_widths, tuple) or len(self.encoder_widths) > 32:
            raise ValueError(f"encoder_widths is {shortened(self.encoder_widths)}, expected at most 32 numbers")
        for name in ("descriptor_size", "width", "encoder_widths"):
            check_size(name, getattr(self, name))
        for name in ("layers", "heads"):
            check_size(name, getattr(self, name), 256)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of the {self.heads} heads")
        threshold = self.match_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold < 1:
            raise ValueError(f"match_threshold is {shortened(threshold)}, expected a number from 0 to 1 (not 1)")


class SuperglueNetwork(nn.Module):
    """Keypoint encoder, attentional graph network and optimal matching layer; names are those of the released weights.

    This is the form that is trained: differentiable everywhere, batches of equal size. What matches pictures is
    ``medrecon.matching.superglue_inference``, which computes the same faster.
    """

    format = "medrecon-superglue"
    config_class = SuperglueNetworkConfig

    def __init__(self, config: SuperglueNetworkConfig | None = None):
        super().__init__()
        self.config = config = config or SuperglueNetworkConfig()
        width = config.width
        self.kenc = _Holder(encoder=_mlp(3, *config.encoder_widths, width))
        # The paper's descriptors are as long as the state and are taken as they are.
        self.input_proj = nn.Conv1d(config.descriptor_size, width, 1) if config.descriptor_size != width else None
        self.gnn = _Holder(layers=nn.ModuleList(_Propagation(width, config.heads) for _ in range(config.layers)))
        self.final_proj = nn.Conv1d(width, width, 1)
        self.bin_score = nn.Parameter(torch.tensor(1.0))
        for layer in self.gnn.layers:  # every layer starts as "change nothing": deep stacks train from the first step
            nn.init.zeros_(layer.mlp[-1].weight)
            nn.init.zeros_(layer.mlp[-1].bias)

    def forward(
        self,
        xy_a: Tensor,
        scores_a: Tensor,
        descriptors_a: Tensor,
        xy_b: Tensor,
        scores_b: Tensor,
        descriptors_b: Tensor,
        iterations: int = 100,
    ) -> Tensor:
        """Log of the soft partial assignment of both images' keypoints (eq. 7-10).

        Args:
            xy_a, xy_b: [B, M, 2] and [B, N, 2], as by ``normalise_keypoints``.
            scores_a, scores_b: [B, M], [B, N], the extractor's confidence.
            descriptors_a, descriptors_b: [B, M, D], [B, N, D].
            iterations: of the Sinkhorn algorithm.

        Returns:
            [B, M + 1, N + 1]; the last row and column are the dustbins.
        """
        a, b = self.encode(xy_a, scores_a, descriptors_a), self.encode(xy_b, scores_b, descriptors_b)
        for i, layer in enumerate(self.gnn.layers):
            source_a, source_b = (b, a) if is_cross(i) else (a, b)
            a, b = a + layer(a, source_a), b + layer(b, source_b)
        return self.assign(a, b, iterations)

    def encode(self, xy: Tensor, scores: Tensor, descriptors: Tensor) -> Tensor:
        """[B, N, 2], [B, N], [B, N, D] -> states [B, width, N]: descriptor plus encoded position and score (eq. 2).

        In float32 also inside autocast: bfloat16 would move keypoints by half a pixel.
        """
        with torch.autocast(xy.device.type, enabled=False):
            descriptors = descriptors.to(self.bin_score.dtype).transpose(1, 2)
            if self.input_proj is not None:
                descriptors = self.input_proj(descriptors)
            return descriptors + self.kenc.encoder(torch.cat([xy, scores[..., None]], 2).transpose(1, 2))

    def assign(self, a: Tensor, b: Tensor, iterations: int) -> Tensor:
        """States [B, width, M] and [B, width, N] -> log of the assignment float32 [B, M + 1, N + 1] (eq. 7-10).

        In float32 also inside autocast: a score of 20 in bfloat16 is good to 0.1 only.
        """
        with torch.autocast(a.device.type, enabled=False):
            a, b = (self.final_proj(x.to(self.bin_score.dtype)) for x in (a, b))
            scores = torch.einsum("bcm,bcn->bmn", a, b) / self.config.width**0.5
            return ops.log_sinkhorn(scores, self.bin_score, iterations)


def is_cross(layer: int) -> bool:
    """Layers attend within the image and across to the other in turns, within first (section 3.1)."""
    return layer % 2 == 1


def normalise_keypoints(xy: Tensor, image_size: tuple[int, int]) -> Tensor:
    """[..., 2] in pixels (centre of the first: 0.5, 0.5) -> about -0.7..0.7, as the released weights were trained.

    Args:
        image_size: (width, height).
    """
    size = xy.new_tensor(image_size)
    # The weights were trained with the first pixel's centre at (0, 0), yet the image's middle at half its size.
    return (xy - 0.5 - size / 2) / (0.7 * size.max())


class _Propagation(nn.Module):
    """One layer of message passing: what it adds to the states (eq. 3-6)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attn = _Holder(
            merge=nn.Conv1d(width, width, 1), proj=nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(3))
        )
        self.mlp = _mlp(2 * width, 2 * width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x [B, width, M] asks, source [B, width, N] answers -> [B, width, M]."""
        batch, width, n = x.shape
        query, key, value = (
            # The released weights interleave the heads: channel c belongs to head c % heads.
            # The fast kernels of attention want a head's channels next to each other.
            proj(s).view(batch, width // self.heads, self.heads, -1).permute(0, 2, 3, 1).contiguous()
            for proj, s in zip(self.attn.proj, (x, source, source))
        )
        message = F.scaled_dot_product_attention(query, key, value).permute(0, 3, 1, 2).reshape(batch, width, n)
        return self.mlp(torch.cat([x, self.attn.merge(message)], 1))


class _Holder(nn.Module):
    """Modules under names of the released weights; its owner calls them."""

    def __init__(self, **modules: nn.Module):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def _mlp(*widths: int) -> nn.Sequential:
    """Linear layers for each keypoint alone, batch normalisation and ReLU between them."""
    out: list[nn.Module] = []
    for before, after in zip(widths[:-2], widths[1:-1]):
        out += [nn.Conv1d(before, after, 1), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*out, nn.Conv1d(widths[-2], widths[-1], 1))
