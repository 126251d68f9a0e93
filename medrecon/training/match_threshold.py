# SPDX-License-Identifier: Apache-2.0
"""From what probability on a trained SuperGlue's matches are kept, by a rule that is fixed before anything is seen.

A match is kept when it is more probably right than wrong: of ``GRID`` the threshold is taken at which the right matches
exceed the wrong ones by most, over pairs of validation subjects, views and the mixture of training weighing the same.
The paper's 0.2 (Sarlin et al., CVPR 2020, section 5) is for its own weights; how sure a network is depends on how
long it was trained and on what. Test subjects have no say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medrecon.matching.superglue_network import SuperglueNetworkConfig
from medrecon.training.keypoints import Keypoints
from medrecon.training.matching_trial import MatchingTrial
from medrecon.training.validation import REPEAT_PX, offsets_px, partners_xy

GRID = tuple(n / 20 for n in range(1, 19))  # 0.05, 0.1, ... 0.9
# Partner int64 [B, K] of each keypoint of a, or -1, and its probability [B, K].
Propose = Callable[[Keypoints, Keypoints], tuple[Tensor, Tensor]]


class Row(NamedTuple):
    """What one threshold leaves; means over pairs, then over the kinds of pairs.

    Attributes:
        threshold: matches of greater probability are kept.
        right, wrong: matches of a pair within 3 px of the truth, and the others.
        mma_3px: share of a pair's matches that are right; 0 where there are none.
    """

    threshold: float
    right: float
    wrong: float
    mma_3px: float


@torch.no_grad()
def tabulate(trial: MatchingTrial, propose: Propose) -> list[Row]:
    """A row for each threshold of ``GRID``; the matcher is asked once for each batch."""
    counts: dict[str, list[Tensor]] = {}
    for kind, pairs, a, b in trial.batches():
        partner, probability = propose(a, b)
        made = (partner >= 0) & a.valid
        near = offsets_px(pairs, a.xy, partners_xy(b.xy, partner)) <= REPEAT_PX
        kept = torch.stack([made & (probability > threshold) for threshold in GRID], 1)
        both = torch.stack([(kept & side[:, None]).sum(2) for side in (near, ~near)])
        counts.setdefault(kind, []).append(both.double().cpu())
    means = []
    for batches in counts.values():
        right, wrong = torch.cat(batches, 1)  # [pairs, thresholds] each
        means.append(torch.stack([right, wrong, right / (right + wrong).clamp(min=1)]).mean(1))
    columns = torch.stack(means).mean(0).T.tolist()
    return [Row(threshold, *values) for threshold, values in zip(GRID, columns)]


def choose(table: Sequence[Row], otherwise: float = SuperglueNetworkConfig.match_threshold) -> float:
    """The threshold with the greatest difference of right and wrong matches.

    Of equal ones it is the nearest to ``otherwise``, which is also the answer where the best threshold keeps no match
    at all and therefore nothing decides.
    """
    gain = [row.right - row.wrong for row in table]
    best = min((row for row, g in zip(table, gain) if g == max(gain)), key=lambda row: abs(row.threshold - otherwise))
    return best.threshold if best.right + best.wrong else otherwise
