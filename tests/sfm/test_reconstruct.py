# SPDX-License-Identifier: Apache-2.0
"""The stage: funnel, scale, saving, checking of what a mapper returns."""

from dataclasses import replace

import numpy as np
import pytest

from medrecon.errors import PluginError, StageError
from medrecon.images import write_png
from medrecon.progress import Quiet
from medrecon.sfm.incremental import IncrementalMapper, IncrementalMapperConfig
from medrecon.sfm.known_poses import KnownPosesMapper, KnownPosesMapperConfig
from medrecon.sfm.reconstruct import reconstruct
from medrecon.sfm.scale import ScaleConfig
from medrecon.types import Rigid3, SparseModel


@pytest.fixture
def scene(scenes, tmp_path):
    s = scenes.make(scenes.orbit(8, sweep_deg=200, wobble=0.1), folder=tmp_path, known_poses=True)
    for f in s.frames.frames:
        write_png(f.image_path, np.full((480, 640, 3), (10 * f.frame_id, 50, 90), np.uint8))
    return s


def go(scene, tmp_path, mapper=None, scale=None):
    mapper = mapper or IncrementalMapper(IncrementalMapperConfig())
    out = tmp_path / "out"
    quiet = Quiet()
    model = reconstruct(scene.frames, scene.features, scene.graph, mapper, scale or ScaleConfig(), out, 0, quiet)
    return model, out, quiet


def test_model_on_disk_holds_funnel_scale_and_colours(scene, tmp_path):
    model, out, quiet = go(scene, tmp_path, scale=ScaleConfig(source="known-poses"))
    assert sorted(p.name for p in out.iterdir()) == ["model.json", "model.npz"]
    again = SparseModel.load(out)
    assert again.funnel == model.funnel and again.attempts == model.attempts and again.scale.unit == "mm"
    assert np.array_equal(again.points, model.points)
    assert [s.name for s in model.funnel] == [
        "frames", "keypoints per frame", "putative matches", "verified matches", "verified pairs",
        "frames that hang together", "registered frames", "sparse points", "track length", "reprojection error",
        "focal length",
    ]  # fmt: skip
    assert [s for s in model.funnel if not s.ok] == []
    assert any(s.startswith("scale: known camera poses") for s in quiet.said)
    # The metric points lie on the true ones.
    mm = model.scale.metric_from_sfm.apply(model.points)
    nearest = np.linalg.norm(mm[:, None] - scene.points[None], axis=2).min(1)
    assert np.median(nearest) < 1.0  # of a radius of 100
    # Colour: the mean over the frames of the track; red tells the frame apart.
    p = int(np.argmax(np.diff(model.track_offsets)))
    seen = model.track_frame_ids[model.track_offsets[p] : model.track_offsets[p + 1]]
    assert model.colors[p].tolist() == [round(10 * seen.mean()), 50, 90]


def test_a_mapper_without_matches_has_a_funnel_without_them(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(4), folder=tmp_path, known_cameras=True, known_poses=True)
    scene.graph = replace(scene.graph, pairs=())
    mapper = KnownPosesMapper(KnownPosesMapperConfig(triangulate=False))
    model, out, _ = go(scene, tmp_path, mapper, ScaleConfig(source="known-poses"))
    assert [s.name for s in model.funnel] == ["frames", "registered frames", "focal length"]
    assert all(s.ok for s in model.funnel) and len(SparseModel.load(out).points) == 0
    assert model.scale.unit == "mm" and model.scale.metric_from_sfm.scale == pytest.approx(1)


def test_a_failure_shows_the_funnel_and_the_advice_of_the_broken_step(scene, tmp_path):
    for i, f in scene.features.items():
        scene.features[i] = replace(f, xy=f.xy[:0], scores=f.scores[:0], descriptors=f.descriptors[:0])
    scene.graph = replace(scene.graph, pairs=())
    with pytest.raises(StageError) as e:
        go(scene, tmp_path)
    assert "LOW keypoints per frame: 0" in e.value.cause
    assert "texture" in e.value.remedy and "(step: keypoints per frame)" in e.value.remedy
    assert list((tmp_path / "out").iterdir()) == []  # nothing half-written


def test_one_frame(scenes, tmp_path):
    one = scenes.make(scenes.orbit(1), folder=tmp_path)
    with pytest.raises(StageError, match="at least two pictures") as e:
        go(one, tmp_path)
    assert "more pictures" in e.value.remedy


class Fixed:
    """A mapper that returns what it is told to."""

    def __init__(self, result):
        self.result = result

    def map(self, frames, features, graph, work_dir, seed, progress):
        assert work_dir.is_dir()
        (work_dir / "scratch").write_text("x")
        return self.result


def test_what_a_plugin_returns_is_checked(scene, tmp_path):
    good, _, _ = go(scene, tmp_path)
    bad_pose = {**good.cam_from_world, 3: Rigid3(np.eye(3) * 2, np.zeros(3))}
    cases = [
        (None, "NoneType"),
        (replace(good, cam_from_world=bad_pose), "not a rotation"),
        (replace(good, points=good.points * np.nan), "finite"),
        (replace(good, cam_from_world={}, points=good.points), "without a single registered frame"),
        (replace(good, cam_from_world={99: Rigid3()}, cameras={99: good.cameras[0]}), "not given to it"),
        (replace(good, track_offsets=good.track_offsets + 1), "track offsets"),
        (replace(good, track_frame_ids=good.track_frame_ids + 50), "not registered"),
        (replace(good, track_keypoint_idx=good.track_keypoint_idx + 10**5), "does not have"),
    ]
    for result, message in cases:
        with pytest.raises(PluginError, match="mapper Fixed returned") as e:
            go(scene, tmp_path, Fixed(result))
        assert message in e.value.cause


def test_frames_a_plugin_forgets_get_a_reason(scene, tmp_path):
    good, _, _ = go(scene, tmp_path)
    keep = good.track_frame_ids != 7
    lengths = np.add.reduceat(keep, good.track_offsets[:-1])
    partial = replace(
        good,
        cam_from_world={i: p for i, p in good.cam_from_world.items() if i != 7},
        track_frame_ids=good.track_frame_ids[keep],
        track_keypoint_idx=good.track_keypoint_idx[keep],
        track_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        funnel=(),
    )
    model, out, _ = go(scene, tmp_path, Fixed(partial))
    assert model.unregistered == {7: "the mapper gave no reason"}
    assert SparseModel.load(out).registered_ids == list(range(7))
    assert sorted(p.name for p in out.iterdir()) == ["model.json", "model.npz"]
