# SPDX-License-Identifier: Apache-2.0
"""SuperGlue as one writes it down first: Conv1d and BatchNorm as trained, einsum attention, a loop of logsumexp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medrecon.matching.superglue_network import SuperglueNetwork, is_cross

Side = tuple[Tensor, Tensor, Tensor]  # xy [1, N, 2] normalised, scores [1, N], descriptors [1, N, D]


@torch.inference_mode()
def superglue(network: SuperglueNetwork, a: Side, b: Side, iterations: int = 100) -> Tensor:
    """Log of the soft assignment of a pair, float32 [1, M + 1, N + 1]."""
    x, y = network.encode(*a), network.encode(*b)
    for i, layer in enumerate(network.gnn.layers):
        sources = (y, x) if is_cross(i) else (x, y)
        x, y = x + _propagate(layer, x, sources[0]), y + _propagate(layer, y, sources[1])
    x, y = network.final_proj(x), network.final_proj(y)
    return _sinkhorn(torch.einsum("bcm,bcn->bmn", x, y) / x.shape[1] ** 0.5, network.bin_score, iterations)


def _propagate(layer: torch.nn.Module, x: Tensor, source: Tensor) -> Tensor:
    query, key, value = (
        proj(s).view(1, -1, layer.heads, s.shape[2]) for proj, s in zip(layer.attn.proj, (x, source, source))
    )
    weights = torch.softmax(torch.einsum("bdhm,bdhn->bhmn", query, key) / query.shape[1] ** 0.5, -1)
    message = torch.einsum("bhmn,bdhn->bdhm", weights, value).reshape(x.shape)
    return layer.mlp(torch.cat([x, layer.attn.merge(message)], 1))


def _sinkhorn(scores: Tensor, bin_score: Tensor, iterations: int) -> Tensor:
    _, m, n = scores.shape
    padded = torch.nn.functional.pad(scores, (0, 1, 0, 1))
    padded[:, -1] = padded[:, :, -1] = bin_score
    log_a = torch.cat([scores.new_zeros(m), scores.new_tensor([math.log(n)])])
    log_b = torch.cat([scores.new_zeros(n), scores.new_tensor([math.log(m)])])
    u, v = torch.zeros_like(log_a), torch.zeros_like(log_b)
    for _ in range(iterations):
        u = log_a - torch.logsumexp(padded + v, 2)
        v = log_b - torch.logsumexp(padded + u[..., None], 1)
    return padded + u[..., None] + v[:, None]
