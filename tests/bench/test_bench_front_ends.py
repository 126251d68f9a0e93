# SPDX-License-Identifier: Apache-2.0
"""The comparison of whole pipelines: the same pictures for everyone, shared and resumed."""

import json

import numpy as np
import pytest

import medrecon
from medrecon.bench.front_end_tables import markdown
from medrecon.bench.relay import Relay
from medrecon.errors import InputError
from medrecon.images import cv2, write_png
from medrecon.progress import Quiet
from medrecon.runfolder import RunFolder

SIFT, ORB, GONE = "sift+nearest-neighbour", "orb+nearest-neighbour", "not-there+nearest-neighbour"
SMALL = (
    "source.image_size_px=[256, 256]", "source.supersample=1", "source.camera_path.loops=0.1", "scale.source=none",
    "source.known_intrinsics=true",
)  # fmt: skip


def compare(out, **options):
    options = {"frames": 8, "methods": (SIFT, ORB, GONE), "budget": 700, "overrides": SMALL, "threads": 1, **options}
    return medrecon.create("benchmark", "front-ends", **options).run(out, False, 1, Quiet())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("front-ends")
    return out, compare(out)


def test_table_and_file(done):
    out, results = done
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["frames"] == 8 and results["size_px"] == [256, 256] and results["schema"] == 1
    assert [r["method"] for r in results["rows"]] == [SIFT, ORB]
    assert [s["name"] for s in results["skipped"]] == [GONE]
    assert RunFolder(out / "runs" / f"{SIFT}-s0").sparse.track_xy is None  # keypoints as the detector found them
    text = (out / "results.md").read_text()
    assert "verified/pair" in text and GONE in text and "Best of each figure" in text


def test_figures_agree_with_the_run_folders(done):
    out, results = done
    sift = results["rows"][0]
    run = RunFolder(out / "runs" / f"{SIFT}-s0")
    pairs = run.graph.pairs
    assert sift["pairs"] == len(pairs) == 8 * 7 // 2  # an overlap of 10 is everyone of 8
    assert sift["putative_per_pair"] == pytest.approx(sum(len(p.putative.idx) for p in pairs) / len(pairs))
    assert sift["verified_per_pair"] == pytest.approx(sum(p.inliers.sum() for p in pairs) / len(pairs))
    assert sift["registered"] == len(run.sparse.cam_from_world) >= 4
    assert sift["points"] == len(run.sparse.points) and sift["ate_mm"] >= 0
    assert sift["true_focal_px"] == pytest.approx(256 / 2 / 0.46630765816, rel=1e-6)  # 50 degrees across
    assert all(len(run.features[i]) <= 700 for i in run.features)


def test_pictures_are_shared_between_the_methods(done):
    out, _ = done
    images = [sorted((out / "runs" / f"{m}-s0" / "stages" / "source" / "images").glob("*.png")) for m in (SIFT, ORB)]
    assert len(images[0]) == 8
    assert [p.stat().st_ino for p in images[0]] == [p.stat().st_ino for p in images[1]]


def test_again_everything_is_reused(done):
    out, results = done
    before = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("graph.npz")}
    again = compare(out)
    assert {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("graph.npz")} == before
    assert again["rows"] == results["rows"]


def test_a_model_that_does_not_come_about_is_a_row(tmp_path):
    random = np.random.default_rng(0)
    for i in range(4):  # four pictures of different things
        soft = cv2.GaussianBlur(random.integers(0, 255, (160, 160)).astype(np.uint8), (0, 0), 1.5)
        write_png(tmp_path / "in" / f"{i}.png", cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX))
    results = compare(
        tmp_path / "out", input=tmp_path / "in", frames=None, methods=(SIFT,), overrides=(), pairs="exhaustive"
    )
    (row,) = results["rows"]
    assert row["failed"] and row["registered"] == 0 and row["points"] == 0 and row["pairs"] == 6
    assert row["verified_per_pair"] == 0.0
    assert row["failed"] in markdown(results)


def test_pictures_that_cannot_be_used_are_an_error(tmp_path):
    with pytest.raises(InputError):
        compare(tmp_path / "out", input=tmp_path / "nowhere.mp4", overrides=())
    (tmp_path / "one").mkdir()
    write_png(tmp_path / "one" / "a.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(InputError):
        compare(tmp_path / "out", input=tmp_path / "one", overrides=(), frames=None)


def test_what_relays_says_whose_words_they_are():
    progress = Quiet()
    Relay(progress, "sift").say("found a focal length")
    assert progress.said == ["sift: found a focal length"]
