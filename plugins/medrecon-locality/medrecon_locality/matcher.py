# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour matches, kept where the matches around them agree."""

import numpy as np
from pydantic import Field
from scipy.spatial import cKDTree

import medrecon
from medrecon.config import ComponentConfig
from medrecon.types import Features, Matches


class LocalityMatcherConfig(ComponentConfig):
    ratio: float = Field(0.9, gt=0, le=1, description="ratio test of the nearest-neighbour matcher; 1 turns it off")
    neighbours: int = Field(8, ge=2, le=64, description="how many surrounding matches are asked")
    agreement: float = Field(0.4, ge=0, le=1, description="share of them that must surround it in both pictures")
    rounds: int = Field(2, ge=1, le=10, description="each round asks only the matches that survived the one before")


class LocalityMatcher:
    """Keeps a match when its nearest matches in one picture are also near it in the other.

    Tissue bends and the camera turns, but what lies side by side stays side by side; a false match has strangers for
    neighbours. After Ma et al., "Locality Preserving Matching", IJCV 127 (2019), section 3, with a plain threshold on
    the share of common neighbours.
    """

    thread_safe = True  # match() keeps no state

    def __init__(self, config: LocalityMatcherConfig):
        self.config = config
        self.putative = medrecon.create("matcher", "nearest-neighbour", ratio=config.ratio)

    def match(self, features_a: Features, features_b: Features) -> Matches:
        c = self.config
        found = self.putative.match(features_a, features_b)
        xy_a, xy_b = features_a.xy[found.idx[:, 0]], features_b.xy[found.idx[:, 1]]
        keep = np.arange(len(found))
        for _ in range(c.rounds):
            if len(keep) <= c.neighbours:  # too few to ask: what is left is believed
                break
            keep = np.flatnonzero(shared_neighbours(xy_a, xy_b, keep, c.neighbours) >= c.agreement)
        return Matches(found.idx[keep], found.scores[keep])


def shared_neighbours(xy_a: np.ndarray, xy_b: np.ndarray, among: np.ndarray, k: int) -> np.ndarray:
    """Share of each match's k nearest matches in picture a that are among its nearest in picture b, too.

    Args:
        xy_a, xy_b: [N, 2] positions of the matches in both pictures, px.
        among: indices of the matches that may be asked.
        k: how many are asked, less than there are in ``among``.

    Returns:
        float64 [N].
    """
    near_a, near_b = (among[cKDTree(xy[among]).query(xy, k + 1)[1]] for xy in (xy_a, xy_b))
    near_a = np.where(near_a == np.arange(len(xy_a))[:, None], -1, near_a)  # a match does not vouch for itself
    return (near_a[:, :, None] == near_b[:, None, :]).any(2).sum(1) / k
