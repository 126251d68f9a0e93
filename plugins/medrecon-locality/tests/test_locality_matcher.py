# SPDX-License-Identifier: Apache-2.0
"""The contract of every matcher, and what this one is for."""

from dataclasses import replace

import numpy as np
from medrecon_locality.matcher import LocalityMatcher, LocalityMatcherConfig, shared_neighbours

import medrecon
from medrecon.testing import MatcherConformance, phantoms


class TestLocalityMatcher(MatcherConformance):
    min_recall = 0.8
    min_precision = 0.95

    def make(self):
        return LocalityMatcher(LocalityMatcherConfig())


class TestLocalityMatcherOnBinaryFeatures(TestLocalityMatcher):
    extractor, metric, dimension = "orb", "hamming", 32


def precision(matches, pair):
    true = {tuple(m) for m in pair.true_idx.tolist()}
    return np.mean([tuple(m) in true for m in matches.idx.tolist()])


def test_repeated_texture_misleads_nearest_neighbours_but_not_this():
    """Descriptors so alike that half of the nearest neighbours are wrong."""
    pair = phantoms.feature_pair(n=600, n_extra=0, dimension=6, noise=0.5)
    plain = medrecon.create("matcher", "nearest-neighbour", ratio=1.0).match(pair.a, pair.b)
    ours = LocalityMatcher(LocalityMatcherConfig(ratio=1.0)).match(pair.a, pair.b)
    assert precision(plain, pair) < 0.55
    assert precision(ours, pair) > 0.85
    assert precision(ours, pair) * len(ours) > 0.8 * precision(plain, pair) * len(plain)


def test_rotation_does_not_matter():
    pair = phantoms.feature_pair()
    turned = np.stack([pair.b.xy[:, 1], pair.b.image_size[0] - pair.b.xy[:, 0]], 1)
    b = replace(pair.b, xy=turned, image_size=pair.b.image_size[::-1]).validate()
    matcher = LocalityMatcher(LocalityMatcherConfig())
    assert np.array_equal(matcher.match(pair.a, pair.b).idx, matcher.match(pair.a, b).idx)


def test_shared_neighbours_on_a_line():
    """Ten matches in a row; in the second picture two of them, far apart, have changed places."""
    x = np.stack([np.arange(10.0) + 0.01 * np.arange(10) ** 2, np.zeros(10)], 1)
    y = x.copy()
    y[[1, 8]] = x[[8, 1]]
    shared = shared_neighbours(x, y, np.arange(10), 2)
    assert shared[1] == 0 and shared[8] == 0
    assert shared[4] == 1 and shared[5] == 1


def test_too_few_matches_are_all_believed():
    pair = phantoms.feature_pair(n_extra=0)
    a, b = phantoms.take(pair.a, pair.true_idx[:5, 0]), phantoms.take(pair.b, pair.true_idx[:5, 1])
    assert len(LocalityMatcher(LocalityMatcherConfig()).match(a, b)) == 5


def test_chance_agreement_does_not_bring_false_matches_back():
    """Positions without any order: few may survive, and those that did not must stay out."""
    pair = phantoms.feature_pair(n=600, n_extra=0, dimension=64)
    rng = np.random.default_rng(0)
    b = replace(pair.b, xy=rng.uniform(1, 479, pair.b.xy.shape).astype(np.float32))
    assert len(LocalityMatcher(LocalityMatcherConfig()).match(pair.a, b)) < 0.02 * len(pair.a)
