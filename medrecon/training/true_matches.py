# SPDX-License-Identifier: Apache-2.0
"""What a perfect matcher would answer: partners of the keypoints of two pictures whose correspondence is known."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

MATCH_PX = 3.0
UNMATCHED_PX = 5.0
UNMATCHED = -1
IGNORED = -2


class Transfer(Protocol):
    """The part of ``medrecon.training.pairs.PairBatch`` that labels need."""

    def a_to_b(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, 2] px of a -> their true places in b, px, and whether b sees them, bool [B, N]."""
        ...

    def b_to_a(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, 2] px of b -> their true places in a, px, and whether a sees them, bool [B, N]."""
        ...


class Labels(NamedTuple):
    """The answer for each keypoint: index of its partner, ``UNMATCHED``, or ``IGNORED`` where the truth is unclear.

    Attributes:
        of_a: int64 [B, M], indices into b's keypoints.
        of_b: int64 [B, N], indices into a's keypoints.
    """

    of_a: Tensor
    of_b: Tensor


@torch.no_grad()
def label_matches(
    pair: Transfer,
    xy_a: Tensor,
    valid_a: Tensor,
    xy_b: Tensor,
    valid_b: Tensor,
    match_px: float = MATCH_PX,
    unmatched_px: float = UNMATCHED_PX,
) -> Labels:
    """Labels of SuperGlue's training (Sarlin et al., CVPR 2020, appendix "Ground truth"), one-to-one.

    Partners are each other's nearest keypoint after transfer, in both directions, visible in both pictures and within
    ``match_px``. Unmatched is who stays farther than ``unmatched_px`` from every keypoint in either direction (a
    keypoint that the other picture does not see is nobody's neighbour in that direction). The rest is ignored.

    Args:
        pair: the truth.
        xy_a, xy_b: float [B, M, 2] and [B, N, 2] px; M and N at least 1.
        valid_a, valid_b: bool [B, M] and [B, N]; False: padding, which is ignored and nobody's neighbour.
    """
    a_in_b, seen_a = pair.a_to_b(xy_a)
    b_in_a, seen_b = pair.b_to_a(xy_b)
    both = valid_a[:, :, None] & valid_b[:, None, :]
    in_b = _distances(a_in_b, xy_b).masked_fill_(~(both & seen_a[:, :, None]), torch.inf)
    in_a = _distances(xy_a, b_in_a).masked_fill_(~(both & seen_b[:, None, :]), torch.inf)
    forth, partner = in_b.min(2)
    back, asked = in_a.min(1)
    rows = torch.arange(xy_a.shape[1], device=xy_a.device)
    mutual = (asked.gather(1, partner) == rows) & (forth <= match_px) & (back.gather(1, partner) <= match_px)
    near = torch.minimum(in_b, in_a) <= unmatched_px
    of_a = _unlike(near.any(2), valid_a)
    of_b = _unlike(near.any(1), valid_b)
    batch, row = mutual.nonzero(as_tuple=True)
    column = partner[batch, row]
    of_a[batch, row] = column
    of_b[batch, column] = row
    return Labels(of_a, of_b)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # Without the detour over squared norms, whose float32 is good to 0.1 px only.
    return torch.cdist(a.float(), b.float(), compute_mode="donot_use_mm_for_euclid_dist")


def _unlike(near: Tensor, valid: Tensor) -> Tensor:
    """Labels int64 before partners are known."""
    return torch.where(valid & ~near, UNMATCHED, IGNORED)
