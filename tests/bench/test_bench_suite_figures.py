# SPDX-License-Identifier: Apache-2.0
"""Figures 5 to 8: runs on fewer pictures, verdicts, files and plots."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.bench.suite import fields, figures, keypoints, others, outputs, plots, street
from medrecon.bench.suite.compare import compare
from medrecon.bench.suite.page import write_page
from medrecon.errors import InputError
from medrecon.progress import Quiet
from medrecon.radiance.scene import Scene
from medrecon.runfolder import RunFolder

sys.path.insert(0, str(Path(__file__).parent))
from suite_orbit import PUBLISHED, orbit_options  # noqa: E402


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "QUICK_COUNTS", (5,))
        patch.setattr(figures, "MINUTES", 0.1)
        patch.setattr(street, "QUICK_STEPS", 12)
        options = orbit_options(tmp_path_factory.mktemp("figures"))
        yield options, figures.over_counts(options, Quiet()), figures.spread("mae")(options, Quiet())


def test_every_field_and_budget_saw_as_many_pictures_and_the_same_held_out_ones(done):
    options, five, _ = done
    assert {(r["pictures"], r["field"], r["budget"]) for r in five["rows"]} == {
        (n, f, b) for n in (5,) for f in ("mipgrid", "nerf") for b in ("steps", "time")
    }
    assert all(r["failed"] is None and r["psnr_db"]["mean"] > 5 for r in five["rows"])
    for path in (options.out / "cases").glob("*-field*.json"):
        record = json.loads(path.read_text())
        folder = options.out / "runs" / path.stem / "stages" / "radiance"
        scene = Scene.load(folder / "scene.json")
        assert scene.heldout_ids == [4] and len(scene.train_ids) == record["labels"]["pictures"]
        if record["labels"]["budget"] == "steps":
            assert json.loads((folder / "history.json").read_text())[-1]["step"] == 12


def test_figure_4_counts_keypoints_in_verified_matches(tmp_path):
    options = orbit_options(tmp_path)
    four = keypoints.over_images(options, Quiet())
    (row,) = four["rows"]
    run = RunFolder(options.out / "runs" / row["case"], done=keypoints.STAGES)
    assert row["keypoints"]["mean"] == pytest.approx(np.mean([len(run.features[i]) for i in run.features]))
    # Counted the slow way for one picture.
    i, used = row["frame_id"], set()
    for p in run.graph.pairs:
        for (a, b), inlier in zip(p.putative.idx.tolist(), p.inliers):
            if inlier and i in (p.frame_id_a, p.frame_id_b):
                used.add(a if i == p.frame_id_a else b)
    assert used == set(keypoints.verified(run)[i].tolist()) and 0 < row["verified_share"]["mean"] < 1
    (picture,) = plots.draw("fig4", four, options.out)
    assert picture.name == "fig4.png" and picture.stat().st_size > 10000


def test_fields_are_compared_on_true_poses(tmp_path, monkeypatch):
    monkeypatch.setattr(fields, "QUICK_MINUTES", 0.02)
    options = orbit_options(tmp_path)
    table = fields.in_the_same_time(options, Quiet())
    assert {r["method"] for r in table["rows"]} >= {"mipgrid", "mipnerf", "nerf"}
    assert all(r["failed"] is None and r["psnr_db"]["mean"] > 5 for r in table["rows"] if r["method"] != "gsplat")
    truth = RunFolder(options.out / "runs" / "orbit-mipgrid-seed0-posestrue")
    for i, pose in truth.sparse.cam_from_world.items():
        np.testing.assert_allclose(pose.matrix(), truth.truth.cam_from_world_mm[i].matrix(), atol=1e-6)


def test_equal_steps_are_equal_rays():
    import medrecon

    field = medrecon.create("renderer", "mipgrid", samples_per_batch=10**8)
    for seen in (1.0, 40.0, 900.0):  # samples a ray takes in matter, which decides elsewhere
        field.samples_per_ray = torch.tensor(seen)
        assert field.batch_size(figures.RAYS // 16) == figures.RAYS
    assert medrecon.create("renderer", "nerf").batch_size(figures.RAYS) == figures.RAYS


def test_boxes_hold_every_view(done):
    options, five, seven = done
    assert len(seven["rows"]) == 2  # of equal rays only
    for row in seven["rows"]:
        assert len(row["values"]) == 1 and row["mae"]["mean"] == pytest.approx(np.mean(row["values"]))


def test_files_and_plots(done, tmp_path):
    _, five, seven = done
    for name, results in (("fig5", five), ("fig7", seven)):
        outputs.write(name, results, tmp_path, PUBLISHED)
        files = plots.draw(name, results, tmp_path)
        assert [f.suffix for f in files] == [".png", ".svg"] and all(f.stat().st_size > 4000 for f in files)
    head = (tmp_path / "fig5.csv").read_text().splitlines()[0]
    assert head.startswith("sequence,pictures,field,budget,seeds,psnr_db,psnr_db_std")
    assert plots.draw("table1", five, tmp_path) == []


def test_matching_and_speed_are_tables_of_the_suite(tmp_path):
    options = orbit_options(tmp_path)
    table = others.matching(options, Quiet())
    data = json.loads((options.out / "matching" / "results.json").read_text())
    for row in table["rows"]:
        entry = data["figures"][row["method"]][row["sequence"]]["mma_3px"]
        assert row["mma_3px"] is None if entry["mean"] is None else row["mma_3px"]["mean"] == entry["mean"]
    table = others.speed(options, Quiet())
    data = json.loads((options.out / "speed" / "results.json").read_text())
    assert [r["ms"]["mean"] for r in table["rows"]] == [r["ms"] for r in data["ops"]] and len(table["rows"]) > 20
    names = [(r["method"], r["size"]) for r in table["rows"]]
    assert len(set(names)) == len(names)
    assert "times PyTorch" in outputs.markdown(outputs.LAYOUTS["speed"], table, None)


def rows(gap: dict[int, float], failed=None):
    out = []
    for budget in ("steps", "time"):
        for n, g in gap.items():
            for field, value in (("mipgrid", 30 + g), ("nerf", 30.0)):
                figure = {"mean": value, "std": None, "n": 1}
                out.append({"pictures": n, "field": field, "budget": budget, "failed": failed if field == "nerf" else None,
                            "psnr_db": figure, "ssim": {"mean": 0.97, "std": None, "n": 1}})  # fmt: skip
    return out


def test_verdicts_of_figure_5():
    def holds(table):
        return [v.holds for v in figures._count_verdicts(table)]

    assert holds(rows({40: 1.0, 100: 0.5})) == ["yes", "yes", "yes"]
    assert holds(rows({40: -0.1, 100: 0.5})) == ["no", "no", "yes"]
    assert holds(rows({40: 1.0, 100: -0.5})) == ["no", "no", "no"]
    assert holds(rows({40: 1.0}, failed="x"))[:2] == ["cannot be judged"] * 2
    assert holds([]) == ["cannot be judged"] * 3


def test_one_page_shows_tables_plots_and_verdicts(done, tmp_path):
    _, five, seven = done
    about = {"about": {"titles": {"orbit": "an <orbit>"}}}
    for name, results in (("fig5", five), ("fig7", seven)):
        outputs.write(name, {**results, **about}, tmp_path, PUBLISHED)
        plots.draw(name, results, tmp_path)
    page = write_page(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 2 and "an &lt;orbit&gt;" in page and "<orbit>" not in page
    assert "src='http" not in page and "the classical NeRF in PSNR at every number" in page and "28.32" in page
    assert write_page(tmp_path / "nothing") is None


def test_compare_says_what_moved_and_what_did_not(done, tmp_path):
    _, five, _ = done
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        outputs.write("fig5", five, folder, PUBLISHED)
    assert compare(a, b) == ([], [])
    data = json.loads((b / "fig5.json").read_text())
    row, gone = data["rows"][0], data["rows"].pop()
    before = row["psnr_db"]["mean"]
    row["psnr_db"]["mean"] = before * 1.2
    row["ssim"]["mean"] *= 1.01  # within 5 % of a single seed
    (b / "fig5.json").write_text(json.dumps(data))
    (move,), (alone,) = compare(a, b)
    assert move.figure == "psnr_db" and move.after == pytest.approx(1.2 * before) and str(row["pictures"]) in move.where
    assert gone["field"] in alone and "only in" in alone
    # With seeds the spread decides: a gap of 1 with standard errors of 0.6 is noise, of 0.2 it is not.
    for std, moved in ((1.2, 0), (0.4, 1)):
        for folder, mean in ((a, 20.0), (b, 21.0)):
            data = json.loads((folder / "fig5.json").read_text())
            for r in data["rows"]:
                r.update({n: None for n in ("ssim", "ms_ssim", "lpips")}, psnr_db={"mean": mean, "std": std, "n": 4})
            data["rows"] = data["rows"][:1]
            (folder / "fig5.json").write_text(json.dumps(data))
        assert len(compare(a, b)[0]) == moved
    with pytest.raises(InputError, match="no results in common"):
        compare(a, tmp_path)
