# SPDX-License-Identifier: Apache-2.0
"""From assignments to a loss and to matches, for batches of pairs whose partners are known."""

from __future__ import annotations

import torch
from torch import Tensor

from medrecon.training.true_matches import UNMATCHED, Labels

NONE = -1


def assignment_loss(log_plan: Tensor, labels: Labels) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of the labels (Sarlin et al., "SuperGlue", CVPR 2020, eq. 11), matched and unmatched
    keypoints weighing the same however many there are (Lindenberger et al., "LightGlue", ICCV 2023, eq. 10).

    Args:
        log_plan: [B, M + 1, N + 1], the last row and column are the dustbins.
        labels: of_a [B, M], of_b [B, N]; what is ignored adds nothing.

    Returns:
        The loss, and its parts for the curves: "matched", "unmatched".
    """
    matched, alone_a, alone_b = labels.of_a >= 0, labels.of_a == UNMATCHED, labels.of_b == UNMATCHED
    partner = labels.of_a.clamp(min=0)
    inner = log_plan[:, :-1, :-1].gather(2, partner[..., None])[..., 0]
    hit = -_mean(inner, matched)
    miss = -(_mean(log_plan[:, :-1, -1], alone_a) + _mean(log_plan[:, -1, :-1], alone_b)) / 2
    return (hit + miss) / 2, {"matched": hit.detach(), "unmatched": miss.detach()}


def mutual_matches(log_plan: Tensor, threshold: float) -> Tensor:
    """int64 [B, M]: b's keypoint whose entry is the greatest of its row and its column and above ``threshold``, or
    ``NONE``; the rule of ``medrecon.matching.superglue``.

    Args:
        log_plan: [B, M + 1, N + 1].
        threshold: least probability, not included.
    """
    partner, probability = mutual_best(log_plan)
    return torch.where(probability > threshold, partner, NONE)


def mutual_best(log_plan: Tensor) -> tuple[Tensor, Tensor]:
    """As ``mutual_matches`` without a threshold, and the probability [B, M] of each row's greatest entry."""
    inner = log_plan[:, :-1, :-1]
    best, column = inner.max(2)
    return _mutual(column, inner.max(1).indices), best.exp()


def nearest_neighbours(
    descriptors_a: Tensor, descriptors_b: Tensor, valid_a: Tensor, valid_b: Tensor, ratio: float
) -> Tensor:
    """int64 [B, M]: the mutual nearest neighbour that passes Lowe's ratio test in both directions, or ``NONE``.

    Args:
        descriptors_a, descriptors_b: float [B, M, D] and [B, N, D], M and N at least 2.
        valid_a, valid_b: bool [B, M] and [B, N]; False: as if it were not there.
        ratio: best / second-best Euclidean distance must be below it; 1 turns the test off.
    """
    distance = torch.cdist(descriptors_a, descriptors_b)
    distance = distance.masked_fill(~(valid_a[:, :, None] & valid_b[:, None, :]), torch.inf)
    forth, columns = distance.topk(2, 2, largest=False)
    back, rows = distance.topk(2, 1, largest=False)
    column = columns[..., 0]
    passed = forth[..., 0].isfinite()
    if ratio < 1:
        distinct = back[:, 0] < ratio * back[:, 1]
        passed &= (forth[..., 0] < ratio * forth[..., 1]) & distinct.gather(1, column)
    return torch.where(passed, _mutual(column, rows[:, 0]), NONE)


def _mutual(column: Tensor, row: Tensor) -> Tensor:
    rows = torch.arange(column.shape[1], device=column.device)
    return torch.where(row.gather(1, column) == rows, column, NONE)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values, 0 with none; without waiting for the device to count them."""
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)
