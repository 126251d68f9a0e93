# SPDX-License-Identifier: Apache-2.0
"""The funnel names the step that broke, and says what to do there."""

from dataclasses import replace

import numpy as np
import pytest

from medrecon.sfm.funnel import first_broken, funnel_text, matching_funnel, model_funnel
from medrecon.sfm.graph import components
from medrecon.types import Camera, FrameSet, Matches, MatchGraph, SparseModel, TwoView


def few_keypoints(s):
    for i, f in s.features.items():
        s.features[i] = replace(f, xy=f.xy[:50], scores=f.scores[:50], descriptors=f.descriptors[:50])


def few_putative(s):
    s.graph = MatchGraph(tuple(TwoView(p.frame_id_a, p.frame_id_b, Matches.empty(), np.zeros(0, bool)) for p in s.graph.pairs))  # fmt: skip  # noqa: E501


def nothing_verified(s):
    s.graph = MatchGraph(tuple(replace(p, kind="none", inliers=np.zeros_like(p.inliers)) for p in s.graph.pairs))


def few_pairs(s):
    s.graph = MatchGraph(tuple(p for p in s.graph.pairs if p.frame_id_a % 2 == 0 and p.frame_id_b == p.frame_id_a + 1))


def two_parts(s):
    s.graph = MatchGraph(tuple(p for p in s.graph.pairs if (p.frame_id_a < 5) == (p.frame_id_b < 5)))


def one_frame(s):
    s.frames = FrameSet(s.frames.frames[:1], "synthetic")
    s.graph = MatchGraph(())


@pytest.mark.parametrize(
    "breaks, step, advice",
    [
        (one_frame, "frames", "more pictures"),
        (few_keypoints, "keypoints per frame", "too little texture"),
        (few_putative, "putative matches", "loosen the matcher's ratio"),
        (nothing_verified, "verified matches", "one rigid motion"),
        (few_pairs, "verified pairs", "pair more frames"),
        (two_parts, "frames that hang together", "falls into 2 parts (5, 5 frames)"),
    ],
)
def test_the_step_that_broke_is_the_first_not_ok(breaks, step, advice, scenes):
    scene = scenes.make(scenes.orbit(10, sweep_deg=120))
    whole = matching_funnel(scene.frames, scene.features, scene.graph)
    assert first_broken(whole) is None and all(s.advice == "" for s in whole)
    breaks(scene)
    steps = matching_funnel(scene.frames, scene.features, scene.graph)
    broken = first_broken(steps)
    assert broken.name == step and advice in broken.advice
    assert f"LOW {step}" in funnel_text(steps)


def test_figures_are_those_of_the_scene(scenes):
    scene = scenes.make(scenes.orbit(6, sweep_deg=60), outliers=0.5)
    value = {s.name: s.value for s in matching_funnel(scene.frames, scene.features, scene.graph)}
    assert value["frames"] == 6
    assert value["keypoints per frame"] == np.median([len(f) for f in scene.features.values()])
    best = {i: max(p.n_inliers for p in scene.graph.pairs if i in (p.frame_id_a, p.frame_id_b)) for i in range(6)}
    assert value["verified matches"] == np.median(list(best.values()))
    assert value["verified pairs"] == 15 and value["frames that hang together"] == 6


def sparse(n, focal=620.0, points=500, track=4, error=0.5):
    from medrecon.types import Rigid3

    ids = list(range(n))
    return SparseModel(
        {i: Camera("SIMPLE_PINHOLE", 640, 480, (focal, 320.0, 240.0)) for i in ids}, {i: Rigid3() for i in ids},
        np.zeros((points, 3)), np.zeros((points, 3), np.uint8), np.full(points, error),
        np.zeros(points * track, np.int64), np.zeros(points * track, np.int32), np.arange(points + 1) * track,
    )  # fmt: skip


@pytest.mark.parametrize(
    "model, step, advice",
    [
        (sparse(4), "registered frames", "reason beside each missing frame"),
        (sparse(10, points=20), "sparse points", "more keypoints"),
        (sparse(10, track=2), "track length", "farther apart"),
        (sparse(10, error=3.0), "reprojection error", "another camera model"),
        (sparse(10, focal=9000.0), "focal length", "14.06 x the longer image side"),
        (sparse(10, focal=100.0), "focal length", "Calibrate the camera"),
        (sparse(10, points=0), "sparse points", "more keypoints"),
    ],
)
def test_model_steps(model, step, advice, scenes):
    frames = scenes.make(scenes.orbit(10), n_points=10).frames
    assert first_broken(model_funnel(frames, sparse(10))) is None
    steps = model_funnel(frames, model)
    broken = first_broken(steps)
    assert broken.name == step and advice in broken.advice
    assert all(np.isfinite(s.value) for s in steps)  # the model is saved as strict JSON


def test_smaller_models_are_in_the_funnel(scenes):
    frames = scenes.make(scenes.orbit(10), n_points=10).frames
    step = model_funnel(frames, replace(sparse(8), other_models=(5, 2)))[0]
    assert step.ok and step.unit == "of 10 frames; smaller models: 5, 2 frames"


def test_components_are_ordered():
    def pair(a, b):
        return TwoView(a, b, Matches.empty(), np.zeros(0, bool))

    assert components([5, 3, 9, 1, 7], [pair(9, 7), pair(3, 9)]) == [[3, 7, 9], [1], [5]]
    assert components([], []) == []
