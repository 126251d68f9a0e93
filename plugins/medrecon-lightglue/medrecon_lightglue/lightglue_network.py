# SPDX-License-Identifier: Apache-2.0
"""The network of LightGlue, named as its checkpoints are. Lindenberger, Sarlin, Pollefeys: "LightGlue: Local feature
matching at light speed", ICCV 2023, arXiv 2306.13643. For inference: it has no gradients on a CPU."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrecon.networks.linear import attention, linear


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _FeedForward(nn.Sequential):
    def __init__(self, dim: int):
        super().__init__(_Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim), nn.GELU(), _Linear(2 * dim, dim))


class _PositionEncoding(nn.Module):
    """Rotary encoding of the positions by learned frequencies (eq. 3)."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.Wr = nn.Linear(2, head_dim // 2, bias=False)

    def forward(self, xy: Tensor) -> Tensor:
        """xy [N, 2] -> complex rotations [N, head_dim / 2]."""
        angle = self.Wr(xy)
        return torch.polar(torch.ones_like(angle), angle)


def _rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Each pair of channels of x [..., N, head_dim] turned by its angle."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * rotation).flatten(-2)


class _SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.Wqkv, self.out_proj, self.ffn = _Linear(dim, 3 * dim), _Linear(dim, dim), _FeedForward(dim)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        q, k, v = self.Wqkv(x).unflatten(-1, (self.heads, -1, 3)).permute(3, 1, 0, 2).contiguous()
        message = attention(_rotate(q, rotation) * q.shape[-1] ** -0.5, _rotate(k, rotation), v)
        return x + self.ffn(torch.cat([x, self.out_proj(message.transpose(0, 1).flatten(1))], 1))


class _CrossAttention(nn.Module):
    """Keys and queries are the same projection (eq. 5)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_qk, self.to_v, self.to_out = (_Linear(dim, dim) for _ in range(3))
        self.ffn = _FeedForward(dim)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(0, 1).contiguous()
        qk_a, qk_b, v_a, v_b = split(self.to_qk(a)), split(self.to_qk(b)), split(self.to_v(a)), split(self.to_v(b))
        scale = qk_a.shape[-1] ** -0.5
        from_b, from_a = attention(qk_a * scale, qk_b, v_b), attention(qk_b * scale, qk_a, v_a)
        return self._update(a, from_b), self._update(b, from_a)

    def _update(self, x: Tensor, message: Tensor) -> Tensor:
        return x + self.ffn(torch.cat([x, self.to_out(message.transpose(0, 1).flatten(1))], 1))


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.self_attn, self.cross_attn = _SelfAttention(dim, heads), _CrossAttention(dim, heads)


class _Assignment(nn.Module):
    """Similarity and matchability (eq. 6 to 8)."""

    def __init__(self, dim: int):
        super().__init__()
        self.matchability, self.final_proj = nn.Linear(dim, 1), _Linear(dim, dim)

    def matchable(self, x: Tensor) -> Tensor:
        """Probability [N] that a point has a partner."""
        return torch.sigmoid(self.matchability(x)[:, 0])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Logarithms of the assignment [M, N]."""
        scale = a.shape[1] ** -0.25
        similarity = linear(self.final_proj(a) * scale, self.final_proj(b) * scale)
        certain = F.logsigmoid(self.matchability(a)) + F.logsigmoid(self.matchability(b)).T
        return similarity.log_softmax(1) + similarity.log_softmax(0) + certain


class _Confidence(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.token = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.token(x)[:, 0]


class LightGlueNetwork(nn.Module):
    """LightGlue; its widths are those of the checkpoint.

    Args:
        input_dim: length of a descriptor.
        dim: width of the layers.
        n_layers, heads: of attention.
    """

    def __init__(self, input_dim: int = 128, dim: int = 256, n_layers: int = 9, heads: int = 4):
        super().__init__()
        self.input_proj = _Linear(input_dim, dim) if input_dim != dim else nn.Identity()
        self.posenc = _PositionEncoding(dim // heads)
        self.transformers = nn.ModuleList(_Layer(dim, heads) for _ in range(n_layers))
        self.log_assignment = nn.ModuleList(_Assignment(dim) for _ in range(n_layers))
        self.token_confidence = nn.ModuleList(_Confidence(dim) for _ in range(n_layers - 1))

    @staticmethod
    def tidy(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """One naming for all published checkpoints, without what belongs to training or to another network."""
        if any(k.startswith("matcher.") for k in state):
            state = {k.removeprefix("matcher."): v for k, v in state.items() if k.startswith("matcher.")}
        unused = re.compile(r"log_assignment\.\d+\.r|confidence_thresholds")
        old = re.compile(r"(self|cross)_attn\.(\d+)\.")
        return {
            old.sub(r"transformers.\2.\1_attn.", k, count=1) if old.match(k) else k: v
            for k, v in state.items()
            if not unused.fullmatch(k)
        }

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> "LightGlueNetwork":
        """Of the widths of a (tidied) checkpoint."""
        dim = state["log_assignment.0.final_proj.weight"].shape[0]
        input_dim = state["input_proj.weight"].shape[1] if "input_proj.weight" in state else dim
        n_layers = sum(k.endswith("final_proj.weight") for k in state)
        return cls(input_dim, dim, n_layers, dim // (2 * state["posenc.Wr.weight"].shape[0]))

    @property
    def input_dim(self) -> int:
        return getattr(self.input_proj, "in_features", None) or self.transformers[0].self_attn.Wqkv.in_features

    def threshold(self, layer: int) -> float:
        """Confidence above which a point counts as decided after this layer (supplement A)."""
        return 0.8 + 0.1 * math.exp(-4 * layer / len(self.transformers))

    def forward(
        self, xy_a: Tensor, xy_b: Tensor, d_a: Tensor, d_b: Tensor, depth: float | None, width: float | None
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Assignment of two sets of features, neither empty.

        Args:
            xy_a, xy_b: float [M, 2] and [N, 2], positions with the longest side of the picture from -1 to 1.
            d_a, d_b: float [M, input_dim] and [N, input_dim].
            depth: share of decided points at which the layers stop (section 3.3); None runs them all.
            width: confidence at which points without a partner are left out (section 3.3); None keeps them all.

        Returns:
            log of the assignment [m, n], the rows and columns that are left (int64 [m], [n]), and the layers run.
        """
        x = [self.input_proj(d_a), self.input_proj(d_b)]
        rotation = [self.posenc(xy_a), self.posenc(xy_b)]
        left = [torch.arange(len(t), device=t.device) for t in x]
        n_points, n_layers, i = len(d_a) + len(d_b), len(self.transformers), 0
        for i, layer in enumerate(self.transformers):
            x = list(layer.cross_attn(*(layer.self_attn(t, r) for t, r in zip(x, rotation))))
            if i == n_layers - 1:
                break
            confidence = None
            if depth is not None:
                confidence = [self.token_confidence[i](t) for t in x]
                undecided = sum(int((c < self.threshold(i)).sum()) for c in confidence)
                if 1 - undecided / n_points > depth:
                    break
            if width is not None:
                for side, t in enumerate(x):
                    keep = self.log_assignment[i].matchable(t) > 1 - width
                    if confidence is not None:  # the undecided stay
                        keep |= confidence[side] <= self.threshold(i)
                    keep = keep.nonzero()[:, 0]
                    x[side], left[side] = t[keep], left[side][keep]
                    rotation[side] = rotation[side][keep]
                if not (len(x[0]) and len(x[1])):
                    return x[0].new_zeros(len(x[0]), len(x[1])), *left, i + 1
        return self.log_assignment[i](*x), *left, i + 1


def mutual(log_assignment: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and probabilities of the entries that are the greatest of both their row and column.

    Equal entries are decided by the lower index, so that matches are one-to-one.
    """
    if not log_assignment.numel():
        none = torch.zeros(0, dtype=torch.int64, device=log_assignment.device)
        return none, none, log_assignment.new_zeros(0)
    best, column = log_assignment.max(1)
    row = log_assignment.argmax(0)
    rows = torch.arange(len(column), device=column.device)
    score = best.exp()
    keep = (row[column] == rows) & (score > threshold)
    return rows[keep], column[keep], score[keep]
