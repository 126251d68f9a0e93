# SPDX-License-Identifier: Apache-2.0
"""One set of validation pairs with the features of a SuperPoint that does not change, for one matcher after another."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.training import validation
from medrecon.training.keypoints import Keypoints, find_keypoints
from medrecon.training.pairs import Mix, PairBatch, draw_pairs, step_seed
from medrecon.training.pool import ViewPool
from medrecon.training.true_matches import Labels, label_matches

_BATCH = 16
_SHOWN = ("mma_3px", "correct", "matches", "pose_auc_5deg", "pose_auc_10deg", "pose_auc_20deg")


class MatchingTrial:
    """Pairs of the kinds that training sees, and as many of two views in pinhole crops, of which the pose is asked
    (none where the pool has no volumes).

    Args:
        network: frozen, on the pool's device.
        pairs: of either kind.
        keypoints: of each picture; random places fill up.
        size: (height, width) of the crops, px.
        seed: decides the pairs.
        detector: see ``find_keypoints``.

    Attributes:
        examples: keypoints of a and b and the labels of every batch.
    """

    def __init__(
        self,
        network: SuperpointNetwork,
        pool: ViewPool,
        pairs: int,
        keypoints: int,
        size: tuple[int, int],
        seed: int,
        detector: str = "superpoint",
    ):
        kinds = {"mixed": None, "views": Mix(1, 0, 0, 0)} if len(pool.solid_views) else {"mixed": None}
        self._batches: dict[str, list[PairBatch]] = {}
        self._found: dict[int, Keypoints] = {}
        self.examples: list[tuple[Keypoints, Keypoints, Labels]] = []
        for kind, mix in kinds.items():
            self._batches[kind] = []
            for start in range(0, pairs, _BATCH):
                one = step_seed(seed, start)
                batch = draw_pairs(pool, min(_BATCH, pairs - start), size, one, mix, pinhole=kind == "views")
                a, b = keypoints_of(network, batch, keypoints, one, detector)
                self._batches[kind].append(batch)
                self._found |= {id(batch.image_a): a, id(batch.image_b): b}
                self.examples.append((a, b, label_matches(batch, a.xy, a.valid, b.xy, b.valid)))

    def batches(self) -> Iterator[tuple[str, PairBatch, Keypoints, Keypoints]]:
        """Kind of pairs ("mixed", "views"), a batch of it, and the keypoints of a and b."""
        for kind, batches in self._batches.items():
            for batch in batches:
                yield kind, batch, self._found[id(batch.image_a)], self._found[id(batch.image_b)]

    @torch.no_grad()
    def judge(self, match: validation.Match) -> dict[str, float]:
        """Figures of ``validation.judge`` for each kind of pairs, and "recall": share of the true matches found."""
        out: dict[str, float] = {}
        find = lambda images, masks: self._found[id(images)]  # each picture's keypoints were found once
        for kind, batches in self._batches.items():
            figures = validation.judge(batches, find, match, poses=kind == "views")
            out |= {f"{kind}_{name}": figures[name] for name in _SHOWN if name in figures}
        answers = [(match(a, b), labels.of_a) for a, b, labels in self.examples]
        found = sum(int(((partner == true) & (true >= 0)).sum()) for partner, true in answers)
        return out | {"recall": found / max(sum(int((true >= 0).sum()) for _, true in answers), 1)}


def keypoints_of(
    network: SuperpointNetwork, batch: PairBatch, count: int, seed: int, detector: str = "superpoint"
) -> tuple[Keypoints, Keypoints]:
    """Keypoints of the pictures a and b, found together."""
    images, masks = torch.cat([batch.image_a, batch.image_b]), torch.cat([batch.mask_a, batch.mask_b])
    generator = torch.Generator(images.device).manual_seed(seed)
    both = find_keypoints(network, images, masks, count, generator, detector)
    n = len(batch.image_a)
    return Keypoints(*(t[:n] for t in both)), Keypoints(*(t[n:] for t in both))
