# SPDX-License-Identifier: Apache-2.0
"""Figures of merit of keypoints and matches on drawn pairs, computed where the training runs.

Definitions are those of ``medrecon.bench.metrics``; a keypoint off the object (the mask) is never found here, so every
match can be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.features.superpoint_keypoints import local_maxima
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.training.assignment import nearest_neighbours
from medrecon.training.detector import blob_response
from medrecon.training.keypoints import sample_descriptors, score_maps
from medrecon.training.pairs import PairBatch
from medrecon.training.pose import auc, estimate_poses, pose_errors_deg

REPEAT_PX = 3.0
ACCURACY_PX = (1.0, 3.0, 5.0)
POSE_DEG = (5, 10, 20)
INLIER_PX = 1.5
BORDER_PX = 4


class Found(NamedTuple):
    """At most K keypoints of each of B pictures, the best first.

    Attributes:
        xy: float32 [B, K, 2] px.
        scores: float32 [B, K].
        descriptors: float32 [B, K, D] of unit length; D = 0 where there are none.
        valid: bool [B, K]; False fills up.
    """

    xy: Tensor
    scores: Tensor
    descriptors: Tensor
    valid: Tensor


Find = Callable[[Tensor, Tensor], Found]
Match = Callable[[Found, Found], Tensor]


def strongest(scores: Tensor, masks: Tensor, count: int, radius: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """xy [B, K, 2], scores [B, K] and valid [B, K] of the ``count`` best local maxima, as the extractor finds them.

    Args:
        scores: float [B, H, W], none negative.
        masks: bool [B, H, W].
    """
    kept = torch.stack([local_maxima(s, radius) for s in scores]) & masks & (scores > 0)
    inner = torch.zeros_like(kept)
    inner[:, BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    value, index = torch.where(kept & inner, scores, -1.0).flatten(1).topk(min(count, scores[0].numel()))
    width = scores.shape[2]
    return torch.stack([index % width, index // width], 2) + 0.5, value, value >= 0


def learned(network: SuperpointNetwork, count: int) -> Find:
    """Keypoints and descriptors of a plain network in eval mode."""

    @torch.no_grad()
    def find(images: Tensor, masks: Tensor) -> Found:
        logits, cells = network(images)
        xy, scores, valid = strongest(score_maps(logits), masks, count)
        column, row = (xy - 0.5).long().unbind(2)
        return Found(xy, scores, sample_descriptors(cells, row, column), valid)

    return find


def classical(count: int) -> Find:
    """Maxima of the response that the detector learns from, without descriptors: what it is measured against."""

    def find(images: Tensor, masks: Tensor) -> Found:
        xy, scores, valid = strongest(blob_response(images), masks, count)
        return Found(xy, scores, xy.new_zeros(*xy.shape[:2], 0), valid)

    return find


def nearest(ratio: float = 1.0) -> Match:
    """Mutual nearest neighbours, with Lowe's ratio test below 1."""
    return lambda a, b: nearest_neighbours(a.descriptors, b.descriptors, a.valid, b.valid, ratio)


def repeatability(a: Found, b: Found, pairs: PairBatch, threshold_px: float = REPEAT_PX) -> Tensor:
    """float32 [B]: share of the keypoints seen by both pictures that the other found again; NaN where there are none.

    (sum_i [min_j |a_i -> b - b_j| <= t] + the same from b) / (N_a + N_b): DeTone et al., arXiv 1712.07629, section 5.
    """
    found = total = 0
    for here, there, carry in ((a, b, pairs.a_to_b), (b, a, pairs.b_to_a)):
        moved, visible = carry(here.xy)
        counts = visible & here.valid
        distance = torch.cdist(moved.nan_to_num(), there.xy).masked_fill(~there.valid[:, None], torch.inf)
        again = distance.min(2).values <= threshold_px
        found, total = found + (again & counts).sum(1), total + counts.sum(1)
    return found / torch.where(total > 0, total, torch.nan)


def partners_xy(xy_b: Tensor, partner: Tensor) -> Tensor:
    """[B, K, 2]: positions of the partners int64 [B, K]; anything where the partner is -1."""
    return xy_b.gather(1, partner.clamp(min=0)[..., None].expand(-1, -1, 2))


def offsets_px(pairs: PairBatch, xy_a: Tensor, xy_b: Tensor) -> Tensor:
    """[B, K]: how far b's place of a match is from where a's is seen in b; infinite where it is not visible."""
    moved, visible = pairs.a_to_b(xy_a)
    return torch.where(visible, (moved - xy_b).norm(dim=2), torch.inf)


def judge(batches: Iterable[PairBatch], find: Find, match: Match | None, poses: bool = False) -> dict[str, float]:
    """Means over pairs.

    Args:
        match: int64 [B, K], b's keypoint of each of a's or -1; None: keypoints alone are judged.
        poses: the pairs are of two views in pinhole crops, and relative poses are estimated from the matches.

    Returns:
        keypoints, repeatability; with ``match``: matches, mma_1px ..., correct (matches within 3 px); with ``poses``
        pose_auc_5deg ...
    """
    rows: dict[str, list[Tensor]] = {}
    note = lambda name, values: rows.setdefault(name, []).append(values.double().cpu())
    errors = []
    for number, pairs in enumerate(batches):
        a, b = find(pairs.image_a, pairs.mask_a), find(pairs.image_b, pairs.mask_b)
        note("keypoints", (a.valid.sum(1) + b.valid.sum(1)) / 2)
        note("repeatability", repeatability(a, b, pairs))
        if match is None:
            continue
        partner = match(a, b)
        made = (partner >= 0) & a.valid
        xy_b = partners_xy(b.xy, partner)
        distance = offsets_px(pairs, a.xy, xy_b)
        count = made.sum(1)
        note("matches", count)
        for limit in ACCURACY_PX:
            note(f"mma_{limit:.0f}px", ((distance <= limit) & made).sum(1) / count.clamp(min=1))
        note("correct", ((distance <= REPEAT_PX) & made).sum(1))
        if poses:
            pose = estimate_poses(a.xy, xy_b, made, pairs.k_a, pairs.k_b, INLIER_PX, number)
            errors.append(pose_errors_deg(pose, pairs.b_from_a))
    out = {name: float(torch.cat(values).nanmean()) for name, values in rows.items()}
    out = {name: 0.0 if value != value else value for name, value in out.items()}
    if errors:
        out |= {f"pose_auc_{t}deg": auc(torch.cat(errors), t) for t in POSE_DEG}
    return out
