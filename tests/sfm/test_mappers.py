# SPDX-License-Identifier: Apache-2.0
"""Both mappers on synthetic scenes: poses, focal length, fixed intrinsics, repeatability, partial success."""

from dataclasses import replace

import numpy as np
import pytest

from medrecon.errors import InputError, MedreconError, StageError
from medrecon.images import write_png
from medrecon.metrics.poses import pose_errors
from medrecon.plugins.contracts import Mapper
from medrecon.progress import Quiet
from medrecon.sfm.cameras import CameraGroup
from medrecon.sfm.global_mapping import GlobalMapper, GlobalMapperConfig
from medrecon.sfm.incremental import IncrementalMapper, IncrementalMapperConfig, Rung
from medrecon.sfm.known_poses import KnownPosesMapper, KnownPosesMapperConfig
from medrecon.types import Camera, MatchGraph

KINDS = {
    "incremental": (IncrementalMapper, IncrementalMapperConfig),
    "global": (GlobalMapper, GlobalMapperConfig),
    "known-poses": (KnownPosesMapper, KnownPosesMapperConfig),
}


def run(scene, tmp_path, kind="incremental", seed=0, progress=None, **options):
    """Map the scene; its pictures are flat grey."""
    factory, config = KINDS[kind]
    for f in scene.frames.frames:
        if not f.image_path.exists():
            write_png(f.image_path, np.full((f.height_px, f.width_px, 3), 90, np.uint8))
    mapper = factory(config(**options))
    assert isinstance(mapper, Mapper)
    work = tmp_path / "work"
    return mapper.map(scene.frames, scene.features, scene.graph, work, seed, progress or Quiet())


def assert_same(a, b):
    for name in ("points", "errors_px", "colors", "track_frame_ids", "track_keypoint_idx", "track_offsets"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.cameras == b.cameras and a.attempts == b.attempts and a.unregistered == b.unregistered
    assert all(np.array_equal(a.cam_from_world[i].matrix(), b.cam_from_world[i].matrix()) for i in a.cam_from_world)


@pytest.mark.parametrize("kind", ["incremental", "global"])
@pytest.mark.parametrize("prior", ["auto", "size"])
def test_poses_points_and_focal_are_recovered(kind, prior, scenes, tmp_path):
    # A narrow lens: the default guess of 1.2 x the longer side is short by almost a half.
    camera = Camera("SIMPLE_RADIAL", 640, 480, (1400.0, 320.0, 240.0, 0.0))
    poses = scenes.orbit(16, radius=900, wobble=0.1)
    scene = scenes.make(poses, camera=camera, folder=tmp_path, frame_ids=range(10, 170, 10))
    model = run(scene, tmp_path, kind, focal_prior=prior)
    assert model.registered_ids == list(range(10, 170, 10)) and not model.unregistered
    focal = {c.focal_px[0] for c in model.cameras.values()}
    assert len(focal) == 1 and focal.pop() == pytest.approx(1400, rel=0.01)
    error = pose_errors(model.cam_from_world, scene.cam_from_world)
    assert error.ate < 1.0 and error.rotation_deg.max() < 0.1  # mm, of 900
    assert model.mean_reprojection_px < 0.6
    # Observations refer to our keypoints: projecting a point has to land on them.
    point_of = np.repeat(np.arange(len(model.points)), np.diff(model.track_offsets))
    for i in model.registered_ids:
        here = model.track_frame_ids == i
        xy = model.cameras[i].project(model.cam_from_world[i].apply(model.points[point_of[here]]))
        assert np.abs(xy - scene.features[i].xy[model.track_keypoint_idx[here]]).max() < 5
    assert len(model.points) > 300 and (model.colors == 90).all()


@pytest.mark.parametrize("kind", ["incremental", "global"])
def test_the_same_seed_gives_the_same_bits(kind, scenes, tmp_path):
    scene = scenes.make(scenes.orbit(12, wobble=0.1), folder=tmp_path, leaks=0.1, n_points=400)
    a, b = (run(scene, tmp_path, kind, seed=3) for _ in range(2))
    assert_same(a, b)
    # pycolmap's global random state must not matter.
    run(scene, tmp_path, kind, seed=4)
    assert_same(a, run(scene, tmp_path, kind, seed=3))


@pytest.mark.parametrize("kind", ["incremental", "global"])
def test_known_intrinsics_stay_as_they_are(kind, scenes, tmp_path):
    camera = Camera("OPENCV", 640, 480, (701.123456789, 699.3, 318.7, 243.1, -0.1, 0.02, 0.001, -0.0007))
    scene = scenes.make(scenes.orbit(10, wobble=0.1), camera=camera, folder=tmp_path, known_cameras=True)
    model = run(scene, tmp_path, kind)
    assert set(model.cameras.values()) == {camera}
    assert pose_errors(model.cam_from_world, scene.cam_from_world).ate < 1.0
    if kind == "incremental":
        refined = run(scene, tmp_path, kind, refine_intrinsics=True)
        assert set(refined.cameras.values()) != {camera}


def test_configured_intrinsics_are_used_and_fixed(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(8, wobble=0.1), folder=tmp_path)
    model = run(scene, tmp_path, focal_px=620.0)
    assert set(model.cameras.values()) == {Camera("SIMPLE_RADIAL", 640, 480, (620.0, 320.0, 240.0, 0.0))}
    model = run(scene, tmp_path, camera_model="PINHOLE", intrinsics=(620.0, 620.0, 320.0, 240.0))
    assert set(model.cameras.values()) == {Camera("PINHOLE", 640, 480, (620.0, 620.0, 320.0, 240.0))}


def test_a_calibration_at_another_size_is_scaled(scenes, tmp_path):
    big = Camera("SIMPLE_PINHOLE", 1280, 960, (1240.0, 640.0, 480.0))
    scene = scenes.make(scenes.orbit(8, wobble=0.1), camera=big.scaled(640, 480), folder=tmp_path, known_cameras=True)
    from dataclasses import replace

    scene.frames = replace(scene.frames, frames=tuple(replace(f, camera=big) for f in scene.frames.frames))
    model = run(scene, tmp_path)
    assert set(model.cameras.values()) == {big.scaled(640, 480)}


def test_intrinsics_per_frame(scenes, tmp_path):
    cameras = {i: Camera("SIMPLE_RADIAL", 640, 480, (600.0 + 10 * i, 320.0, 240.0, 0.0)) for i in range(12)}
    scene = scenes.make(scenes.orbit(12, wobble=0.15), cameras=cameras, folder=tmp_path, noise_px=0.2)
    model = run(scene, tmp_path, share_intrinsics=False)
    found = [model.cameras[i].params[0] for i in range(12)]
    assert len(set(found)) == 12
    assert found == pytest.approx([c.params[0] for c in cameras.values()], rel=0.02)


@pytest.mark.parametrize("name", ["SIMPLE_PINHOLE", "PINHOLE", "RADIAL", "OPENCV", "OPENCV_FISHEYE"])
def test_every_camera_model(name, scenes, tmp_path):
    true = {
        "SIMPLE_PINHOLE": (620.0, 320.0, 240.0),
        "PINHOLE": (620.0, 640.0, 320.0, 240.0),
        "RADIAL": (620.0, 320.0, 240.0, -0.15, 0.02),
        "OPENCV": (620.0, 640.0, 320.0, 240.0, -0.15, 0.02, 0.0, 0.0),
        "OPENCV_FISHEYE": (620.0, 620.0, 320.0, 240.0, 0.0, 0.0, 0.0, 0.0),
    }[name]
    camera = Camera(name, 640, 480, true)
    scene = scenes.make(scenes.orbit(14, radius=330, wobble=0.15), camera=camera, folder=tmp_path, n_points=800)
    model = run(scene, tmp_path, camera_model=name)
    found = model.cameras[0]
    assert found.model == name and len(model.registered_ids) == 14
    assert found.focal_px == pytest.approx(camera.focal_px, rel=0.02)


@pytest.mark.parametrize("during", ["none", "focal", "all"])
def test_strong_distortion_is_found_whenever_it_is_refined(during, scenes, tmp_path):
    camera = Camera("SIMPLE_RADIAL", 640, 480, (400.0, 320.0, 240.0, -0.3))
    scene = scenes.make(scenes.orbit(14, radius=220, wobble=0.1), camera=camera, folder=tmp_path)
    model = run(scene, tmp_path, refine_during=during, retries=())
    assert len(model.registered_ids) == 14
    assert model.cameras[0].params[0] == pytest.approx(400, rel=0.01)
    assert model.cameras[0].params[3] == pytest.approx(-0.3, abs=0.02)
    assert pose_errors(model.cam_from_world, scene.cam_from_world).ate < 1.0


def test_the_ladder_frees_intrinsics_before_it_relaxes_thresholds():
    camera = Camera("SIMPLE_RADIAL", 640, 480, (400.0, 320.0, 240.0, 0.0))
    c = IncrementalMapperConfig()

    def modes(fixed, trusted):
        group = CameraGroup((0, 1), camera, fixed, fixed, trusted)
        return [(r.init_min_tri_angle_deg, during) for r, during in c.ladder([group])]

    assert modes(False, False) == [(16, "focal"), (16, "all"), (8, "focal"), (4, "focal"), (2, "focal")]
    assert modes(False, True) == [(16, "none"), (16, "focal"), (16, "all"), (8, "none"), (4, "none"), (2, "none")]
    assert modes(True, True) == [(16, "none"), (8, "none"), (4, "none"), (2, "none")]


def test_two_separate_scenes_the_larger_wins(scenes, tmp_path):
    a = scenes.make(scenes.orbit(9, wobble=0.1), folder=tmp_path, frame_ids=range(9))
    b = scenes.make(scenes.orbit(6, sweep_deg=90, wobble=0.1), folder=tmp_path, frame_ids=range(20, 26), seed=7)
    from dataclasses import replace

    a.frames = replace(a.frames, frames=b.frames.frames + a.frames.frames)  # the small one comes first
    a.features = {**b.features, **a.features}
    a.graph = MatchGraph(b.graph.pairs + a.graph.pairs)
    model = run(a, tmp_path)
    assert model.registered_ids == list(range(9))
    assert model.other_models == (6,)
    assert set(model.unregistered) == set(range(20, 26))
    assert all(r == "in another component of the view graph (6 frames)" for r in model.unregistered.values())
    # Nine of nine reachable frames: no retry is needed for frames that cannot be reached.
    assert sum("attempt" in t for t in model.attempts) == 1


def test_pure_advance_climbs_the_ladder(scenes, tmp_path):
    # A corridor seen while moving along the viewing direction: small angles, all motion forward.
    rng = np.random.default_rng(0)
    z = rng.uniform(350, 900, 300)
    angle = rng.uniform(0, 2 * np.pi, 300)
    points = np.stack([120 * np.cos(angle), 120 * np.sin(angle), z], 1)
    poses = [scenes.look_at(np.array([0.0, 0.0, 20.0 * k]), [0.0, 0.0, 2000.0]) for k in range(8)]
    scene = scenes.make(poses, points=points, folder=tmp_path, noise_px=0.2)
    # COLMAP halves angle and inliers twice by itself, so only an absurd demand makes it give up.
    strict = dict(retries=(), init_min_tri_angle_deg=80, focal_px=620.0)
    with pytest.raises(StageError, match="no pair of frames makes a start") as e:
        run(scene, tmp_path, **strict)
    assert "init_min_tri_angle_deg" in e.value.remedy
    quiet = Quiet()
    climb = (Rung(init_min_tri_angle_deg=1, init_max_forward_motion=1.0),)
    model = run(scene, tmp_path, progress=quiet, **{**strict, "retries": climb})
    assert len(model.registered_ids) == 8
    assert pose_errors(model.cam_from_world, scene.cam_from_world).ate < 2.0
    assert model.attempts[1].endswith("no first pair found")
    assert "angle >= 1 deg, forward <= 1" in model.attempts[2] and "8 of 8 frames" in model.attempts[2]
    assert list(model.attempts[1:-1]) == [s for s in quiet.said if s.startswith("attempt")]
    assert model.attempts[-1] == "tracks not refined: no two pictures of a point agree"  # they are grey all over


def test_every_missing_frame_has_its_reason(scenes, tmp_path):
    from dataclasses import replace

    scene = scenes.make(scenes.orbit(12, wobble=0.1), folder=tmp_path)

    def cut(p):
        """Frames 7 and 8: no pairs. 9: nothing verified. 10: at most 8 inliers. 11: 16, with frame 0 only."""
        ids = {p.frame_id_a, p.frame_id_b}
        n = 0 if 9 in ids else 8 if 10 in ids else 16 if ids == {0, 11} else 0 if 11 in ids else None
        if n is None or p.kind == "none":
            return p
        if n == 0:
            return replace(p, kind="none", inliers=np.zeros_like(p.inliers))
        return replace(p, inliers=p.inliers & (np.cumsum(p.inliers) <= n))

    scene.graph = MatchGraph(tuple(cut(p) for p in scene.graph.pairs if not {7, 8} & {p.frame_id_a, p.frame_id_b}))
    f = scene.features[7]
    scene.features[7] = replace(f, xy=f.xy[:4], scores=f.scores[:4], descriptors=f.descriptors[:4])
    model = run(scene, tmp_path, retries=())
    assert model.registered_ids == [0, 1, 2, 3, 4, 5, 6]
    assert model.unregistered[7] == "too few keypoints: 4 < 15"
    assert model.unregistered[8] == "was in no pair that was matched"
    assert model.unregistered[9].startswith("no verified pair (at most ")
    assert model.unregistered[10] == "too few verified matches: at most 8 < 15"
    assert model.unregistered[11].startswith("too few matches to the model: ") and "< 30" in model.unregistered[11]


def test_two_frames_make_a_model(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(14, radius=350)[:2], folder=tmp_path, known_cameras=True)
    model = run(scene, tmp_path)
    assert model.registered_ids == [0, 1] and len(model.points) > 50


@pytest.mark.parametrize("kind", ["incremental", "global"])
def test_one_frame_and_no_pairs_are_told_apart(kind, scenes, tmp_path):
    one = scenes.make(scenes.orbit(1), folder=tmp_path)
    with pytest.raises(StageError, match="at least two pictures"):
        run(one, tmp_path, kind)
    apart = scenes.make(scenes.orbit(5), folder=tmp_path, min_inliers=10**6)
    with pytest.raises(StageError, match="not one pair"):
        run(apart, tmp_path, kind)


def test_progress_counts_registered_frames(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(8, wobble=0.1), folder=tmp_path)

    class Counting(Quiet):
        total, done, last = 0, 0, 0

        def begin(self, total, unit):
            self.total, self.done = total, 0

        def advance(self, n=1, **figures):
            self.done += n
            self.last = figures["registered"]

    progress = Counting()
    run(scene, tmp_path, progress=progress, refine_tracks=False)
    assert (progress.total, progress.done, progress.last) == (8, 8, 8)


def test_an_interrupt_in_the_progress_ends_the_mapping(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(8, wobble=0.1), folder=tmp_path)

    class Interrupting(Quiet):
        def advance(self, n=1, **figures):
            if figures["registered"] == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scene, tmp_path, progress=Interrupting())


@pytest.mark.parametrize("version", ["3.11.1", "5.0.0", "0.6.1", "unknown", "", "4"])
def test_other_versions_of_pycolmap_are_refused(version):
    from medrecon.sfm.pycolmap_backend import check_version

    with pytest.raises(MedreconError, match="is installed, but >= 4.0 and < 5.0 is needed") as e:
        check_version(version)
    assert "pip install" in e.value.remedy


def test_the_installed_pycolmap_is_quiet(scenes, tmp_path, capfd):
    scene = scenes.make(scenes.orbit(8, wobble=0.1), folder=tmp_path)
    run(scene, tmp_path)
    out = capfd.readouterr()
    assert out.out == "" and out.err == ""


def test_known_intrinsics_options_are_checked():
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="not both"):
        IncrementalMapperConfig(focal_px=500, intrinsics=(1, 2, 3, 4))
    with pytest.raises(ValidationError, match="f, cx, cy, k1"):
        IncrementalMapperConfig(intrinsics=(1, 2, 3))
    assert IncrementalMapperConfig(refine_intrinsics=False).refine_intrinsics == "false"


def test_known_poses_are_kept_to_the_bit_and_points_lie_on_the_body(scenes, tmp_path):
    """Points against the true ones: those on the ray of each observation."""
    scene = scenes.make(
        scenes.orbit(8, wobble=0.1), folder=tmp_path, known_cameras=True, known_poses=True, frame_ids=range(5, 45, 5)
    )
    model = run(scene, tmp_path, "known-poses")
    assert model.registered_ids == list(range(5, 45, 5)) and not model.unregistered
    for i, pose in scene.cam_from_world.items():
        assert np.abs(model.cam_from_world[i].matrix() - pose.matrix()).max() < 1e-9
        assert model.cameras[i] == scene.camera
    gap = np.linalg.norm(model.points[:, None] - scene.points[None], axis=2).min(1)  # mm
    assert len(model.points) > 200 and np.median(gap) < 0.5 and np.percentile(gap, 95) < 2
    assert model.mean_reprojection_px < 0.6
    assert_same(model, run(scene, tmp_path, "known-poses"))


def test_frames_without_a_pose_stay_out_and_none_is_an_error(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(8, wobble=0.1), folder=tmp_path, known_cameras=True, known_poses=True)
    bare = [replace(f, cam_from_world_mm=None) if f.frame_id > 5 else f for f in scene.frames.frames]
    scene.frames = replace(scene.frames, frames=tuple(bare))
    model = run(scene, tmp_path, "known-poses")
    assert model.registered_ids == list(range(6)) and set(model.unregistered) == {6, 7}
    scene.frames = replace(scene.frames, frames=tuple(replace(f, cam_from_world_mm=None) for f in bare))
    with pytest.raises(InputError, match="0 of 8 frames bring a pose"):
        run(scene, tmp_path, "known-poses")


def test_known_poses_need_no_matches_where_nothing_is_triangulated(scenes, tmp_path):
    scene = scenes.make(
        scenes.orbit(5), folder=tmp_path, known_cameras=True, known_poses=True, frame_ids=(3, 4, 7, 8, 9)
    )
    scene.graph = MatchGraph(())
    frames = list(scene.frames.frames)
    frames[1] = replace(frames[1], cam_from_world_mm=None)
    scene.frames = replace(scene.frames, frames=tuple(frames))
    model = run(scene, tmp_path, "known-poses", triangulate=False)
    assert model.registered_ids == [3, 7, 8, 9] and model.unregistered == {4: "brings no pose"}
    assert len(model.points) == 0 and set(model.cameras.values()) == {scene.camera}
    assert all(np.array_equal(model.cam_from_world[i].matrix(), scene.cam_from_world[i].matrix()) for i in (3, 7, 8, 9))
    frames[2] = replace(frames[2], camera=None)
    scene.frames = replace(scene.frames, frames=tuple(frames))
    with pytest.raises(InputError, match="000007 brings a pose but no intrinsics"):
        run(scene, tmp_path, "known-poses", triangulate=False)
    model = run(scene, tmp_path, "known-poses", triangulate=False, focal_px=700)
    assert model.cameras[7].focal_px == (700, 700) and model.cameras[3] == scene.camera


def test_poses_that_do_not_fit_the_pictures_are_said(scenes, tmp_path):
    scene = scenes.make(scenes.orbit(6, wobble=0.1), folder=tmp_path, known_cameras=True, known_poses=True)
    poses = [f.cam_from_world_mm for f in scene.frames.frames]
    shuffled = [replace(f, cam_from_world_mm=poses[(k + 1) % 6]) for k, f in enumerate(scene.frames.frames)]
    scene.frames = replace(scene.frames, frames=tuple(shuffled))
    with pytest.raises(StageError, match="do not fit together"):
        run(scene, tmp_path, "known-poses")
