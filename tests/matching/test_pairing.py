# SPDX-License-Identifier: Apache-2.0
"""Pairings on sets small enough to know the answer."""

from pathlib import Path

import numpy as np
import pytest

from medrecon.errors import ConfigError
from medrecon.matching.pairing import (
    ExhaustivePairing,
    ExhaustivePairingConfig,
    FromPosesPairing,
    FromPosesPairingConfig,
    SequentialPairing,
    SequentialPairingConfig,
)
from medrecon.testing import PairingConformance
from medrecon.types import Features, Frame, FrameSet, Rigid3


def frame_set(n, poses=None):
    return FrameSet(
        tuple(
            Frame(10 * i, f"{i:06d}", Path("none.png"), 8, 8, cam_from_world_mm=poses[i] if poses else None)
            for i in range(n)
        ),
        "test",
    )


def place_features(place, metric="l2"):
    """Features of a frame that sees place number ``place``: 60 descriptors of that place, noisy, and 20 of anything."""
    rng = np.random.default_rng([place, 1])
    own = rng.normal(size=(60, 16))
    noise = np.random.default_rng()
    rows = np.concatenate([own + noise.normal(size=own.shape) * 0.1, noise.normal(size=(20, 16))]).astype(np.float32)
    if metric == "hamming":
        rows = np.packbits(rows > 0, axis=1)
    n = len(rows)
    return Features(np.zeros((n, 2), np.float32), np.ones(n, np.float32), rows, metric, (8, 8), "x")


class TestExhaustiveConformance(PairingConformance):
    def make(self):
        return ExhaustivePairing(ExhaustivePairingConfig())


class TestSequentialConformance(PairingConformance):
    def make(self):
        return SequentialPairing(SequentialPairingConfig(overlap=2))


class TestFromPosesConformance(PairingConformance):
    def make(self):
        return FromPosesPairing(FromPosesPairingConfig())


def test_exhaustive_is_every_pair():
    found = ExhaustivePairing(ExhaustivePairingConfig()).pairs(frame_set(4), {})
    assert found == [(0, 10), (0, 20), (0, 30), (10, 20), (10, 30), (20, 30)]


def test_sequential_overlap_and_powers_of_two():
    make = lambda **o: SequentialPairing(SequentialPairingConfig(loop_every=0, **o))  # noqa: E731
    plain = make(overlap=2, quadratic=False).pairs(frame_set(12), {})
    assert {(b - a) // 10 for a, b in plain} == {1, 2} and len(plain) == 11 + 10
    wide = make(overlap=3).pairs(frame_set(12), {})
    assert {(b - a) // 10 for a, b in wide} == {1, 2, 3, 4, 8}
    assert len(set(wide)) == len(wide)


@pytest.mark.parametrize("metric", ["l2", "hamming"])
def test_loops_are_closed_where_the_place_is_the_same(metric):
    """A walk out and back: position k and 30 - k see the same place."""
    features = {10 * i: place_features(min(i, 30 - i), metric) for i in range(31)}
    config = SequentialPairingConfig(overlap=2, quadratic=False, loop_every=1, loop_matches=1)
    pairs = SequentialPairing(config).pairs(frame_set(31), features)
    far = {(a // 10, b // 10) for a, b in pairs if b - a > 20}
    same = {(i, 30 - i) for i in range(14)}
    assert len(far & same) >= 12
    assert pairs == SequentialPairing(config).pairs(frame_set(31), features)


def looking_at_centre(degrees, radius=100.0):
    """Camera on a circle around the origin, looking at it."""
    a = np.deg2rad(degrees)
    center = radius * np.array([np.sin(a), 0, -np.cos(a)])
    z = -center / radius
    y = np.array([0, 1.0, 0])
    rotation = np.stack([np.cross(y, z), y, z])
    return Rigid3(rotation, -rotation @ center)


def test_poses_pair_near_cameras_that_look_alike():
    poses = [looking_at_centre(15 * i) for i in range(24)]
    make = lambda **o: FromPosesPairing(FromPosesPairingConfig(**o)).pairs(frame_set(24, poses), {})  # noqa: E731
    step = lambda a, b: min((b - a) // 10, 24 - (b - a) // 10)  # noqa: E731
    assert {step(a, b) for a, b in make(max_angle_deg=46)} == {1, 2, 3}
    nearest = make(neighbours=2)
    assert {step(a, b) for a, b in nearest} == {1} and len(nearest) == 24
    # Chord of 15 degrees on a circle of 100 mm: 26.1 mm; of 30 degrees: 51.8 mm.
    assert {step(a, b) for a, b in make(max_distance_mm=40)} == {1}


def test_poses_back_to_back_are_not_paired():
    turned = Rigid3(np.diag([-1.0, 1, -1]), np.zeros(3))
    poses = [Rigid3(), turned, Rigid3(np.eye(3), np.array([1.0, 0, 0]))]
    assert FromPosesPairing(FromPosesPairingConfig()).pairs(frame_set(3, poses), {}) == [(0, 20)]


def test_missing_poses_say_what_to_do():
    with pytest.raises(ConfigError) as caught:
        FromPosesPairing(FromPosesPairingConfig()).pairs(frame_set(3, [Rigid3(), None, Rigid3()]), {})
    assert "1 of 3" in caught.value.cause and "sequential" in caught.value.remedy
