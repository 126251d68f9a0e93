# SPDX-License-Identifier: Apache-2.0
"""Pairs of the benchmark: the truth that is written fits the pictures that are written."""

import numpy as np
import pytest

from medrecon.bench import degrade, planes, volumes
from medrecon.bench.case_sets import CaseSettings, make_cases, settings
from medrecon.bench.cases import Case, CaseFolder, object_region, prepare_cases
from medrecon.bench.geometry import look_up
from medrecon.bench.volumes import VolumeChoice
from medrecon.errors import InputError
from medrecon.images import to_grey, write_png
from medrecon.progress import Quiet

TINY = CaseSettings(
    96, 1, 2, 1, (8.0, 15.0), {"noise": (30.0,), "blur": (2.0,), "illumination": (1.0,), "occlusion": (0.4,)}, 1, 2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = CaseFolder(tmp_path_factory.mktemp("cases"))
    made.finish(make_cases(made, TINY, (VolumeChoice(),), None, Quiet()))
    return made


def grid(shape, step=7):
    h, w = shape
    return np.stack(np.meshgrid(np.arange(4.5, w - 4, step), np.arange(4.5, h - 4, step)), -1).reshape(-1, 2)


def test_every_group_and_seed_is_there_and_names_are_unique(folder):
    cases = folder.cases()
    assert len({c.name for c in cases}) == len(cases)
    assert {c.group for c in cases} == {"views", "homography", "modality", "sweep"}
    for group in ("views", "homography", "modality", "sweep"):
        counts = [sum(c.group == group and c.seed == s for c in cases) for s in range(2)]
        assert counts[0] == counts[1] > 0
    assert {c.variation for c in cases if c.group == "sweep"} == set(TINY.sweeps)
    assert {c.variation for c in cases if c.group == "modality"} == {
        "bone to vessels", "bone to skin", "inverted view", "inverted slice", "soft tissue to lung window",
    }  # fmt: skip


def test_views_differ_by_the_angle_they_say(folder):
    for case in (c for c in folder.cases() if c.group == "views"):
        truth = folder.truth(case)
        axes = truth.cam_a_from_world.rotation[2], truth.cam_b_from_world.rotation[2]
        assert np.degrees(np.arccos(np.clip(axes[0] @ axes[1], -1, 1))) == pytest.approx(case.strength, abs=1e-6)


def test_there_and_back_is_where_one_began(folder):
    for case in (c for c in folder.cases() if c.group in ("views", "homography")):
        truth = folder.truth(case)
        xy = grid(to_grey(folder.image(case.image_a)[0]).shape)
        there, known, visible = truth.a_to_b(xy)
        back, known_back, _ = truth.b_to_a(there[visible])
        assert visible.sum() > 20
        # Depth is looked up per pixel: on slanted surfaces the way back begins with a neighbour's depth.
        off = np.linalg.norm(back - xy[visible], axis=1)[known_back]
        assert np.median(off) < 0.5
        assert known_back.mean() > 0.9


def test_the_truth_explains_the_pictures(folder):
    """Grey levels agree at true correspondences, and do not where the truth is taken from another pair."""
    cases = [c for c in folder.cases() if c.group == "homography"]
    for case, other in zip(cases, cases[1:] + cases[:1]):
        a, b = (to_grey(folder.image(n)[0]).astype(float) for n in (case.image_a, case.image_b))
        xy = grid(a.shape, 3)
        there, _, visible = folder.truth(case).a_to_b(xy)
        right = np.corrcoef(look_up(a, xy[visible], 0.0), look_up(b, there[visible], 0.0))[0, 1]
        there, _, visible = folder.truth(other).a_to_b(xy)
        wrong = np.corrcoef(look_up(a, xy[visible], 0.0), look_up(b, there[visible], 0.0))[0, 1]
        assert right > 0.75 and right > wrong


def test_what_is_covered_is_hidden_in_the_truth(folder):
    case = next(c for c in folder.cases() if c.variation == "occlusion" and c.strength)
    plain = next(c for c in folder.cases() if c.variation == "occlusion" and not c.strength and c.seed == case.seed)
    image, clean = folder.image(case.image_b)[0], folder.image(plain.image_b)[0]
    hidden = folder.truth(case).hidden_b
    assert hidden.mean() == pytest.approx(0.4, abs=0.02)
    assert (image[~hidden] == clean[~hidden]).all()
    assert folder.truth(plain).hidden_b is None
    there, _, visible = folder.truth(case).a_to_b(grid(hidden.shape, 2))
    assert not look_up(hidden, there[visible], False).any()


def test_keypoints_of_a_warped_picture_stay_inside_it(folder):
    case = next(c for c in folder.cases() if c.group == "homography")
    _, mask = folder.image(case.image_b)
    truth = folder.truth(case)
    assert (mask == truth.valid_b).all() and 0.2 < mask.mean() < 1
    row, column = np.nonzero(mask)
    back, known, visible = truth.b_to_a(np.stack([column + 0.5, row + 0.5], 1))
    assert known.all() and visible.mean() > 0.999


def test_object_region_leaves_the_black_out(folder):
    view = next(c for c in folder.cases() if c.group == "views")
    truth = folder.truth(view)
    assert (object_region(*folder.image(view.image_a), truth) == (truth.depth_a > 0)).all()
    flat = next(c for c in folder.cases() if c.subject == "retina")
    region = object_region(*folder.image(flat.image_a), folder.truth(flat))
    assert not region[:3, :3].any() and region[40:50, 40:50].all()


def test_the_same_settings_make_the_same_pictures(tmp_path):
    one = CaseSettings(64, 1, 1, 1, (10.0,), {}, 1, 2)
    made = [make_cases(CaseFolder(tmp_path / n), one, (VolumeChoice(),), None, Quiet()) for n in ("x", "y")]
    assert made[0] == made[1]


def test_cases_are_made_once_and_again_when_cut_short(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        return [Case("a", "views", "s", "viewpoint", 5.0, 0, "i", "j", "t")]

    first = prepare_cases(tmp_path, "k" * 64, make)
    assert prepare_cases(tmp_path, "k" * 64, make).cases() == first.cases() and len(calls) == 1
    prepare_cases(tmp_path, "other" * 9, make)
    assert len(calls) == 2
    (first.root / "cases.json").unlink()
    prepare_cases(tmp_path, "k" * 64, make)
    assert len(calls) == 3


def test_what_is_drawn_survives_a_kill_and_goes_when_all_is_done(tmp_path):
    folder, strokes = CaseFolder(tmp_path), []

    def draw():
        strokes.append(1)
        return {"image": np.full((2, 2), len(strokes))}

    assert (folder.drawn("a", draw)["image"] == CaseFolder(tmp_path).drawn("a", draw)["image"]).all()
    assert len(strokes) == 1
    folder.finish([])
    assert not (tmp_path / "drawn").exists()


def test_degradations_do_what_their_strength_says():
    random = np.random.default_rng(0)
    plain = np.full((120, 160, 3), 128, np.uint8)
    assert np.std(degrade.noise(plain, 20.0, random)) == pytest.approx(20.0, rel=0.03)
    assert (degrade.noise(plain, 0.0, random) == plain).all() and (degrade.blur(plain, 0.0, random) == plain).all()
    # A step blurred by sigma passes 84 % one sigma behind the edge.
    step = np.zeros((120, 160, 3), np.uint8)
    step[:, 80:] = 200
    row = degrade.blur(step, 4.0, random)[60, :, 0].astype(float) / 200
    assert np.interp(84.0, np.arange(160) + 0.5, row) == pytest.approx(0.841, abs=0.02)
    assert (degrade.illumination(plain, 0.0, random) == plain).all()
    for share in (0.1, 0.5):
        assert degrade.occlude(plain, share, random)[1].mean() == pytest.approx(share, abs=0.02)
    assert (degrade.invert(degrade.invert(step)) == step).all()


def test_a_warp_puts_a_dot_where_the_homography_says():
    image = np.zeros((100, 140, 3), np.uint8)
    image[49:52, 69:72] = 255  # middle of the dot at (70.5, 50.5)
    h = planes.random_homography((140, 100), np.random.default_rng(4))
    out, truth = planes.warp(image, h)
    row, column = np.nonzero(to_grey(out) > 60)
    weight = to_grey(out)[row, column].astype(float)
    centre = np.average(np.stack([column, row], 1) + 0.5, axis=0, weights=weight)
    expected, _, _ = truth.a_to_b(np.array([(70.5, 50.5)]))
    assert np.linalg.norm(centre - expected[0]) < 0.15


def test_pictures_of_a_user_get_neutral_names(tmp_path):
    for name in ("Meier_Anna_1.png", "Meier_Anna_2.png", "Meier_Anna_3.png"):
        write_png(tmp_path / name, np.zeros((20, 30), np.uint8))
    found = planes.folder_pictures(tmp_path, 2)
    assert list(found) == ["picture 1", "picture 3"]
    with pytest.raises(InputError, match="holds no pictures"):
        (tmp_path / "empty").mkdir()
        planes.folder_pictures(tmp_path / "empty", 2)
    with pytest.raises(InputError, match="cannot be read"):
        planes.folder_pictures(tmp_path / "nowhere", 2)
    assert VolumeChoice(path=tmp_path / "Meier.nii.gz").subject == "volume bone"


def test_quick_is_smaller():
    quick, full = settings(True, 1), settings(False, 3)
    assert quick.size_px < full.size_px and len(quick.angles_deg) < len(full.angles_deg)
    assert {5.0, 60.0} <= set(full.angles_deg)


def test_directions():
    random = np.random.default_rng(0)
    for angle in (0.0, 20.0, 60.0):
        d = volumes.random_direction(random)
        turned = volumes.turned(d, angle, random)
        assert np.linalg.norm(turned) == pytest.approx(1) and np.degrees(np.arccos(np.clip(d @ turned, -1, 1))) == (
            pytest.approx(angle, abs=1e-5)
        )
