# SPDX-License-Identifier: Apache-2.0
"""The focal length guessed from epipolar geometry: right where it can be known, None where it cannot."""

import numpy as np
import pytest

from medrecon.sfm.focal import estimate_focal_ratio, focal_costs, fundamental_from_inliers
from medrecon.types import Camera, MatchGraph


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.4, 2.3])
def test_found_from_general_motion(ratio, scenes):
    camera = Camera("SIMPLE_RADIAL", 640, 480, (640 * ratio, 320.0, 240.0, 0.0))
    scene = scenes.make(scenes.orbit(14, radius=max(300, 500 * ratio), wobble=0.2), camera=camera)
    assert estimate_focal_ratio(scene.graph, scene.features) == pytest.approx(ratio, rel=0.1)


def test_unknown_on_an_even_orbit(scenes):
    # Axes that meet at equal distances leave the focal length of a pair open (Sturm 2001).
    scene = scenes.make(scenes.orbit(14, height=0))
    assert estimate_focal_ratio(scene.graph, scene.features) is None


def test_unknown_from_too_few_pairs(scenes):
    scene = scenes.make(scenes.orbit(14, wobble=0.2))
    assert estimate_focal_ratio(MatchGraph(scene.graph.pairs[:4]), scene.features) is None
    assert estimate_focal_ratio(MatchGraph(()), scene.features) is None


def test_eight_point_satisfies_the_epipolar_constraint_of_the_true_cameras(scenes):
    scene = scenes.make(scenes.orbit(14, wobble=0.1)[:2], noise_px=0.0)
    p = scene.graph.pairs[0].inlier_idx
    xa, xb = scene.features[0].xy[p[:, 0]], scene.features[1].xy[p[:, 1]]
    f = fundamental_from_inliers(xa, xb)
    rel = scene.cam_from_world[1] @ scene.cam_from_world[0].inverse()
    t = rel.translation
    k = np.linalg.inv(scene.camera.K())
    truth = k.T @ np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ rel.rotation @ k
    f, truth = f / np.linalg.norm(f), truth / np.linalg.norm(truth)
    assert min(np.abs(f - truth).max(), np.abs(f + truth).max()) < 1e-4
    sizes = np.array([[640.0, 480.0]])
    costs = focal_costs(truth[None], sizes, sizes, np.array([0.7, 620 / 640, 1.4]))[0]
    assert costs[1] < 1e-9 and costs[0] > 1e-3 and costs[2] > 1e-3


@pytest.mark.parametrize("wobble", [0.0, 0.05, 0.1])
def test_noise_on_a_near_circle_is_not_taken_for_a_focal_length(scenes, wobble):
    # Noise pulls the cost's minimum to short focal lengths: a shallow valley there must not be believed.
    scene = scenes.make(scenes.orbit(36, wobble=wobble, height=30), noise_px=2.0)
    found = estimate_focal_ratio(scene.graph, scene.features)
    assert found is None or found == pytest.approx(620 / 640, rel=0.15)
