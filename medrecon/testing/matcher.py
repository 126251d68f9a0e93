# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for matchers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from medrecon.errors import MedreconError
from medrecon.plugins.contracts import BatchMatcher
from medrecon.testing import phantoms
from medrecon.testing.contract import require, require_valid, same
from medrecon.types import Features, Matches

KIND = "matcher"


class MatcherConformance:
    """Inherit in a class called ``Test...`` and override :meth:`make`.

    Attributes:
        extractor: whose features the phantoms pretend to be.
        metric: "l2" or "hamming".
        dimension: descriptor length (bytes for "hamming").
        min_recall: share of the true matches that must be found on the easy phantom.
        min_precision: share of the matches found there that must be true.
        order_independent: whether shuffling the keypoints must give the same matches.
    """

    extractor = "sift"
    metric = "l2"
    dimension = 128
    min_recall = 0.5
    min_precision = 0.8
    order_independent = True

    def make(self) -> Any:
        """Return the matcher under test, e.g. ``medrecon.create("matcher", "my-matcher")``."""
        raise NotImplementedError("override make() and return your matcher")

    def pair(self) -> phantoms.FeaturePair:
        """Two sets of features with known matches. Override where random descriptors mean nothing to the matcher."""
        return phantoms.feature_pair(dimension=self.dimension, metric=self.metric, extractor=self.extractor)

    def _match(self, a: Features, b: Features) -> Matches:
        matches = self.make().match(a, b)
        require(isinstance(matches, Matches), KIND, "match returns medrecon.types.Matches", type(matches).__name__)
        contract = "idx is int32 [M, 2] inside both sets, one-to-one; scores are finite float32 [M]"
        require_valid(lambda: matches.validate(len(a), len(b)), KIND, contract)
        return matches

    def test_finds_known_matches(self) -> None:
        pair = self.pair()
        found = {tuple(m) for m in self._match(pair.a, pair.b).idx.tolist()}
        true = {tuple(m) for m in pair.true_idx.tolist()}
        recall, precision = len(found & true) / len(true), len(found & true) / max(len(found), 1)
        contract = f"at least {self.min_recall:.0%} of the known matches are found"
        require(recall >= self.min_recall, KIND, contract, f"{recall:.1%}")
        contract = f"at least {self.min_precision:.0%} of the matches found are true"
        require(precision >= self.min_precision, KIND, contract, f"{precision:.1%}")

    def test_empty_sides(self) -> None:
        pair = self.pair()
        none = np.zeros(0, int)
        empty_a, empty_b = phantoms.take(pair.a, none), phantoms.take(pair.b, none)
        for a, b in ((empty_a, pair.b), (pair.a, empty_b), (empty_a, empty_b)):
            n = len(self._match(a, b))
            require(n == 0, KIND, "a side without keypoints gives no matches and no error", f"{n} matches")

    def test_one_keypoint(self) -> None:
        pair = self.pair()
        one_a, one_b = phantoms.take(pair.a, pair.true_idx[:1, 0]), phantoms.take(pair.b, pair.true_idx[:1, 1])
        for a, b in ((one_a, pair.b), (pair.a, one_b), (one_a, one_b)):
            n = len(self._match(a, b))
            require(n <= 1, KIND, "one keypoint on a side gives at most one match and no error", f"{n} matches")

    def test_identical_descriptors(self) -> None:
        pair = self.pair()
        for row in (pair.a.descriptors[:1], np.zeros_like(pair.a.descriptors[:1])):
            a, b = (replace(s, descriptors=np.repeat(row, len(s), axis=0)) for s in (pair.a, pair.b))
            self._match(a, b)

    def test_is_deterministic(self) -> None:
        matcher, pair = self.make(), self.pair()
        first = matcher.match(pair.a, pair.b)
        contract = "the same features twice give the same matches, bit for bit"
        require(same(first, matcher.match(pair.a, pair.b)), KIND, contract)
        require(same(first, self._match(pair.a, pair.b)), KIND, "two instances with the same options agree bit for bit")

    def test_batches_agree_with_single_pairs(self) -> None:
        matcher, pair = self.make(), self.pair()
        if not isinstance(matcher, BatchMatcher):
            import pytest

            pytest.skip("the matcher takes one pair at a time")
        n = matcher.batch_size
        require(type(n) is int and n >= 1, KIND, "batch_size is a whole number from 1", repr(n))
        few = phantoms.take(pair.a, np.arange(len(pair.a) // 2))
        none = phantoms.take(pair.b, np.zeros(0, int))
        pairs = [(pair.a, pair.b), (few, pair.b), (pair.a, none), (pair.b, pair.a)]
        found = matcher.match_pairs(pairs)
        ok = isinstance(found, list) and len(found) == len(pairs)
        require(ok, KIND, "match_pairs returns a list of Matches, one for each pair", type(found).__name__)
        for together, (a, b) in zip(found, pairs):
            require_valid(lambda m=together, a=a, b=b: m.validate(len(a), len(b)), KIND, "match_pairs: valid Matches")
            alone = {tuple(m) for m in matcher.match(a, b).idx.tolist()}
            differ = len(alone ^ {tuple(m) for m in together.idx.tolist()})
            contract = "a pair has the same matches alone and beside others, but for 1 in 100 at the threshold"
            require(differ <= 0.01 * len(alone), KIND, contract, f"{differ} of {len(alone)} differ")

    def test_leaves_its_input_alone(self) -> None:
        pair, kept = self.pair(), self.pair()
        self._match(pair.a, pair.b)
        require(same((pair.a, pair.b), (kept.a, kept.b)), KIND, "match does not change the features it is given")

    def test_order_of_keypoints_does_not_matter(self) -> None:
        pair = self.pair()
        order = np.random.default_rng(7).permutation(len(pair.b))
        plain = {tuple(m) for m in self._match(pair.a, pair.b).idx.tolist()}
        shuffled = self._match(pair.a, phantoms.take(pair.b, order)).idx
        shuffled = {(int(i), int(order[j])) for i, j in shuffled}
        contract = "the same keypoints in another order give the same matches (or set order_independent = False)"
        found = f"{len(plain ^ shuffled)} of {len(plain)} differ"
        require(plain == shuffled or not self.order_independent, KIND, contract, found)

    def test_refuses_mixed_descriptors(self) -> None:
        a = phantoms.feature_pair(metric="l2", dimension=32, extractor=self.extractor).a
        b = phantoms.feature_pair(metric="hamming", dimension=32, extractor=self.extractor).b
        contract = "descriptors of different metrics are refused with a medrecon.errors class naming cause and remedy"
        try:
            matches = self.make().match(a, b)
        except MedreconError:
            return
        except Exception as e:
            require(False, KIND, contract, f"{type(e).__name__}: {e}")
        else:
            require(False, KIND, contract, f"{len(matches)} matches")
