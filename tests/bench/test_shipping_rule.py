# SPDX-License-Identifier: Apache-2.0
"""The rule by which our weights stop being experimental: won, lost by one figure, undecided, and files of another kind."""

import copy
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from medrecon.assets.shipped import shipped_assets
from medrecon.bench.methods import OURS
from medrecon.bench.shipping_rule import BASELINE, FIGURES, judge, read_results
from medrecon.bench.tables import COLUMNS
from medrecon.cli import main
from medrecon.errors import InputError
from medrecon.networks.checkpoint import save_checkpoint
from medrecon.testing.networks import small_superglue, small_superpoint

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

SIFT = {"mma_3px": 0.5, "verified_matches": 60.0, "pose_auc_10deg": 0.4}
BETTER = {"mma_3px": 0.51, "verified_matches": 61.0, "pose_auc_10deg": 0.41}


def results(ours=BETTER, sift=SIFT, name=OURS, **changes):
    """What `medrecon bench matching` writes, of what the rule reads."""
    figure = lambda v: {"mean": v, "std": 0.01, "median": v, "n": 40}  # noqa: E731
    rows = {
        BASELINE: ({"name": "sift", "max_keypoints": 1024}, {"name": "nearest-neighbour", "ratio": None}, sift),
        name: ({"name": "superpoint", "max_keypoints": 1024}, {"name": "superglue", "match_threshold": 0.2}, ours),
    }
    return {
        "schema": 1, "benchmark": "matching", "quick": False, "budget": 1024, "n_cases": {"views": 40},
        "methods": [{"name": n, "status": "ran", "extractor": e, "matcher": m, "weights_sha256": ["00"] if n == name else []}
                    for n, (e, m, _) in rows.items()],
        "figures": {n: {"views": {k: figure(v) for k, v in values.items()}} for n, (*_, values) in rows.items()},
    } | changes  # fmt: skip


def test_won():
    verdict = judge(results())
    assert verdict.met and verdict.text().startswith("met:") and verdict.objections == ()
    assert [c.met for c in verdict.comparisons] == [True] * 3 and verdict.weights_sha256 == ("00",)
    assert "MMA 3 px" in verdict.table and "0.510 ± 0.010" in verdict.table and "40 pairs" in verdict.table


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("how", ["worse", "equal", "not measured"])
def test_lost_by_one_figure(figure, how):
    value = {"worse": SIFT[figure] * 0.9, "equal": SIFT[figure], "not measured": None}[how]
    verdict = judge(results(BETTER | {figure: value}))
    assert not verdict.met and verdict.text().startswith("not met:")
    assert [c.figure for c in verdict.comparisons if not c.met] == [figure]
    assert next(heading for name, heading, _ in COLUMNS if name == figure) in verdict.text()


def changed(path, value, which=results):
    out = copy.deepcopy(which())
    at = out
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return out


@pytest.mark.parametrize(
    "path, value, why",
    [
        (("quick",), True, "quick"),
        (("budget",), 2048, "budgets differ"),
        (("methods", 1, "extractor", "max_keypoints"), 2048, "budgets differ"),
        (("methods", 0, "matcher", "ratio"), 1.0, "ratio test"),
        (("methods", 0, "extractor", "name"), "orb", "ratio test"),
        (("methods", 1, "matcher", "name"), "nearest-neighbour", "SuperGlue"),
        (("figures", BASELINE, "views"), {}, "no figures of views"),
    ],
)
def test_results_that_decide_nothing(path, value, why):
    verdict = judge(changed(path, value))
    assert not verdict.met and verdict.text().startswith("not decided:") and why in verdict.text()


def test_rows_that_are_missing_are_named():
    with pytest.raises(InputError, match="no row 'superpoint-medrecon") as caught:
        judge(results(name="superpoint[weights=a.safetensors]+superglue"))
    assert "superpoint[weights=a.safetensors]+superglue" in caught.value.remedy
    assert judge(results(name="another"), ours="another").met
    skipped = changed(("methods", 1), {"name": OURS, "status": "skipped", "reason": "not here", "command": "do this"})
    with pytest.raises(InputError, match="not here") as caught:
        judge(skipped)
    assert caught.value.remedy == "do this"


@pytest.mark.parametrize(
    "content", [None, [], {}, {"benchmark": "front-ends"}, {"benchmark": "matching"}, changed(("figures",), {}),
                changed(("methods", 1, "extractor"), None), changed(("figures", OURS, "views", "mma_3px"), "best")],
)  # fmt: skip
def test_what_are_no_results(content):
    with pytest.raises(InputError, match="results"):
        judge(content)


def test_command(tmp_path, capfd):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    assert main(["bench", "shipping-rule", str(path)]) == 0
    out = capfd.readouterr().out
    assert "| beaten" in out and "\nmet: " in out
    path.write_text(json.dumps(results(SIFT, name="x")))
    assert main(["bench", "shipping-rule", str(path), "--ours", "x", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["met"] is False and told["text"].startswith("not met") and len(told["comparisons"]) == 3
    assert main(["bench", "shipping-rule", str(path)]) == 3
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="results.json"):
        read_results(path)
    assert main(["bench", "shipping-rule", str(tmp_path / "none.json")]) == 3


@pytest.fixture
def trained(tmp_path):
    """What a training leaves: both pairs of files with their model cards."""
    for network in (small_superpoint(), small_superglue()):
        path = tmp_path / f"{network.format.removeprefix('medrecon-')}.safetensors"
        save_checkpoint(path, network.state_dict(), network.format, asdict(network.config), "Apache-2.0", {})
        path.with_suffix(".md").write_text("# card\n")
    return tmp_path / "superpoint.safetensors", tmp_path / "superglue.safetensors"


def test_shipping_follows_the_rule(trained, tmp_path, capsys):
    from ship_weights import main as ship_main

    from medrecon.assets.store import sha256_of

    point, glue = trained
    folder, path = tmp_path / "package", tmp_path / "results.json"
    arguments = ["--superpoint", str(point), "--superglue", str(glue), "--folder", str(folder)]

    def shipped(*more):
        ship_main([*arguments, *more])
        return [(a.name, a.experimental) for a in shipped_assets(folder)]

    pair = ("superglue-medrecon", "superpoint-medrecon")
    assert shipped() == [(name, True) for name in pair]
    hashes = sorted([sha256_of(point), sha256_of(glue)])
    for ours, experimental in ((BETTER, False), (SIFT, True)):
        path.write_text(json.dumps(changed(("methods", 1, "weights_sha256"), hashes, lambda o=ours: results(o))))
        assert shipped("--results", str(path)) == [(name, experimental) for name in pair]
    about = json.loads(glue.with_suffix(".json").read_text())
    about["config"]["match_threshold"] = 0.5  # the tensors are the same
    glue.with_suffix(".json").write_text(json.dumps(about))
    with pytest.raises(SystemExit, match="measured with match_threshold 0.2, not with 0.5"):
        shipped("--results", str(path))
    path.write_text(json.dumps(results()))
    with pytest.raises(SystemExit, match="not measured with these files"):
        shipped("--results", str(path))
