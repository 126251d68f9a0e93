# SPDX-License-Identifier: Apache-2.0
"""The suite behind the paper's tables: sequences, shared runs, failed views, ranks, verdicts and files."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from medrecon.bench.suite import outputs, rows, street, tables
from medrecon.bench.suite.cases import Case, view_figures
from medrecon.bench.suite.runner import run_cases
from medrecon.bench.suite.sequences import default_folder, load_sequences
from medrecon.errors import ConfigError
from medrecon.images import write_png
from medrecon.progress import Quiet
from medrecon.runfolder import RunFolder
from medrecon.types import Frame, FrameSet

sys.path.insert(0, str(Path(__file__).parent))
from suite_orbit import SIFT, orbit_options  # noqa: E402

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    orbit_options(tmp_path)
    return tmp_path / "sequences"


@pytest.fixture
def options(tmp_path):
    return orbit_options(tmp_path, SIFT, "orb+nearest-neighbour")


def test_the_sequences_of_the_repository_are_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path))
    found, missing = load_sequences(default_folder())
    assert {s.name for s in found} | set(missing) == {"airway", "brain", "ct-bone", "endoscopy"}
    assert set(missing) <= {"brain", "endoscopy"} and "--path endoscopy=PATH" in missing["endoscopy"]
    assert "medrecon data fetch colin27" in missing["brain"]
    for s in found:
        assert s.config["source"]["n_views"] >= 100
    twins, _ = load_sequences(default_folder(), ("@noisy", "ct-bone@low-light", "@exposure"))
    assert [s.name for s in twins if s.name.startswith("ct-bone")] == [
        "ct-bone@noisy", "ct-bone@low-light", "ct-bone@exposure"
    ]  # fmt: skip
    assert twins[0].config["source"]["noise_sigma"] > 0 and "noise_sigma" not in found[0].config["source"]
    with pytest.raises(ConfigError, match="no sequence 'bone'"):
        load_sequences(default_folder(), ("bone",))


@pytest.mark.parametrize("text", ["title: x\n", "title: x\nrun: {}\nrunn: {}\n", "- 1\n", "run: {a: [}\n"])
def test_a_file_that_is_no_sequence_is_named(folder, text):
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match="bad.yaml"):
        load_sequences(folder)


def test_the_published_tables_are_the_papers():
    one = yaml.safe_load((REPOSITORY / "benchmarks" / "published" / "table1.yaml").read_text())
    two = yaml.safe_load((REPOSITORY / "benchmarks" / "published" / "table2.yaml").read_text())
    assert set(one["rows"]) == set(two["rows"]) == {"superpoint+superglue", "sift", "surf", "orb"}
    assert all(len(v) == 3 for paper in (one, two) for row in paper["rows"].values() for v in row.values())
    # SIFT has the best PSNR in all three sequences of the paper, whatever its text says.
    best = [max(two["rows"], key=lambda m: two["rows"][m]["psnr_db"][k]) for k in range(3)]
    assert best == ["sift", "sift", "sift"]


def test_a_table_is_made_resumed_and_written(options, tmp_path):
    results = tables.table1(options, Quiet())
    assert [r["method"] for r in results["rows"]] == [SIFT, "orb+nearest-neighbour"]
    sift = results["rows"][0]
    run = RunFolder(options.out / "runs" / f"orbit-{SIFT}-seed0")
    assert sift["points"]["mean"] == len(run.sparse.points) and sift["points"]["std"] is None
    assert sift["verified_per_pair"]["mean"] == pytest.approx(np.mean([p.n_inliers for p in run.graph.pairs]))
    stamps = {p: p.stat().st_mtime_ns for p in (options.out / "cases").glob("*.json")}
    again = tables.table1(options, Quiet())
    assert again == results and {p: p.stat().st_mtime_ns for p in stamps} == stamps

    files = outputs.write("table1", results, tmp_path / "files", options.published)
    assert [f.name for f in files] == ["table1.json", "table1.csv", "table1.md", "table1.tex"]
    data = json.loads(files[0].read_text())
    assert data["schema"] == 1 and data["published"]["rows"]["orb"]["points"] == [8124, 5326, 8124]
    with open(files[1]) as f:
        lines = list(csv.DictReader(f))
    assert float(lines[0]["points"]) == sift["points"]["mean"] and lines[0]["points_std"] == ""
    text = files[2].read_text()
    assert "cannot be judged" in text and "12548" in text and "## orbit" in text
    tex = files[3].read_text()
    body = [line for line in tex.splitlines() if "nearest" in line]
    assert len(body) == 2 and all(line.count("&") == 8 and line.endswith(r"\\") for line in body)


def test_a_changed_configuration_is_never_read_from_the_cache(options):
    case = street.front_end_cases(options)[0]
    first = run_cases([case], options.out, 1, Quiet())[case.name]
    other = street.street(
        options.sequences[0], options.methods[0], 0, options, {"sfm": {"min_num_matches": 30}}, keyframes=True
    )
    changed = Case(case.labels, other, "sfm")
    assert changed.name == case.name
    second = run_cases([changed], options.out, 1, Quiet())[case.name]
    assert second["key"] != first["key"]


def test_radiance_is_judged_on_the_same_views_for_everyone(options):
    results = tables.table2(options, Quiet())
    assert {r["heldout"] for r in results["rows"]} == {1}  # every 8th of 12
    record = json.loads((options.out / "cases" / f"orbit-{SIFT}-seed0-fieldmipgrid.json").read_text())
    assert [v["frame_id"] for v in record["views"]] == [4]
    # The sparse model was not made again: the run of table 1 gave it.
    a, b = (options.out / "runs" / n / "stages" / "sfm" / "model.npz" for n in (
        f"orbit-{SIFT}-seed0", f"orbit-{SIFT}-seed0-fieldmipgrid"))  # fmt: skip
    assert a.stat().st_ino == b.stat().st_ino


def test_a_view_that_was_not_rendered_counts_as_black(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    write_png(tmp_path / "7.png", image)

    class Run:
        frames = FrameSet((Frame(7, "000007", tmp_path / "7.png", 50, 40),), "test")

    (entry,) = view_figures(Run(), (7,), rendered=False)
    assert entry["frame_id"] == 7 and entry["rendered"] is False
    assert entry["psnr_db"] == pytest.approx(-10 * np.log10(np.mean((image / 255.0) ** 2)), rel=1e-6)
    assert entry["mae"] == pytest.approx(np.mean(image / 255.0), rel=1e-6)


def test_the_peer_colmap_sees_the_same_keyframes(tmp_path):
    options = replace(orbit_options(tmp_path, SIFT), peers=("colmap",))
    results = tables.table1(options, Quiet())
    assert [r["method"] for r in results["rows"]] == [SIFT, "colmap"]
    row = results["rows"][1]
    assert row["failed"] is None and row["registered"]["mean"] > 5 and row["points"]["mean"] > 100
    assert row["verified_per_pair"]["mean"] <= row["putative_per_pair"]["mean"] and row["ate_mm"]["mean"] > 0
    stamps = {p: p.stat().st_mtime_ns for p in (options.out / "cases").glob("*colmap*.json")}
    assert len(stamps) == 1 and tables.table1(options, Quiet()) == results
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_a_sequence_of_the_users_own_needs_a_path(folder, tmp_path):
    (folder / "clip.yaml").write_text("title: a clip\nown: a video\nrun: {source: {name: video}}\n")
    found, missing = load_sequences(folder)
    assert [s.name for s in found] == ["orbit"] and missing["clip"].endswith("--path clip=PATH")
    found, missing = load_sequences(folder, paths={"clip": tmp_path / "a.mp4"})
    assert found[0].config["source"] == {"name": "video", "path": str(tmp_path / "a.mp4")} and not missing
    with pytest.raises(ConfigError, match="no sequence of that name"):
        load_sequences(folder, paths={"orbit": tmp_path})


def row(method, mean, std=None, n=1, **more):
    return {"method": method, "points": {"mean": mean, "std": std, "n": n}, **more}


def test_verdicts():
    ours = ("a+b",)
    assert rows.leads("c", [row("a+b", 9.0), row("x", 8.0)], "points", ours).holds == "yes"
    assert rows.leads("c", [row("a+b", 7.0), row("x", 8.0)], "points", ours).holds == "no"
    assert rows.leads("c", [row("a+b", 7.0), row("x", 8.0)], "points", ours, higher=False).holds == "yes"
    assert rows.leads("c", [row("a+b", 9.0)], "points", ours).holds == "cannot be judged"
    assert rows.leads("c", [row("x", 9.0)], "points", ours).holds == "cannot be judged"
    # A gap of 1 with standard errors of 0.6 each: 1 < 2 * 0.85.
    noisy = [row("a+b", 9.0, 1.2, 4), row("x", 8.0, 1.2, 4)]
    assert rows.leads("c", noisy, "points", ours).holds == "within noise"
    assert rows.leads("c", [row("a+b", 12.0, 1.2, 4), noisy[1]], "points", ours).holds == "yes"
    assert "noise unknown" in rows.leads("c", [row("a+b", 9.0), row("x", 8.0)], "points", ours).why


def test_mean_ranks_share_ties_and_leave_out_who_lacks_a_figure():
    table = [
        {"method": m, "sequence": s, "up": {"mean": u}, "down": {"mean": d}}
        for m, s, u, d in (
            ("a", 1, 3, 1),
            ("b", 1, 2, 2),
            ("c", 1, 2, 3),
            ("a", 2, 1, 1),
            ("b", 2, 5, 2),
            ("c", 2, 4, 3),
        )
    ]
    table += [{"method": "d", "sequence": 1, "up": {"mean": 9}, "down": None}]
    ranks = rows.mean_ranks(table, {"up": True, "down": False})
    assert ranks == {"a": pytest.approx((1 + 1 + 3 + 1) / 4), "b": pytest.approx((2.5 + 2 + 1 + 2) / 4),
                     "c": pytest.approx((2.5 + 3 + 2 + 3) / 4)}  # fmt: skip
    assert list(ranks) == ["a", "b", "c"]


def test_seeds_give_mean_and_spread():
    assert rows.figure([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "n": 3}
    assert rows.figure([1.0, None]) is None and rows.figure([]) is None
