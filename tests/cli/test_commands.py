# SPDX-License-Identifier: Apache-2.0
"""Each command once, the way a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medrecon.cli import main

sys.path.insert(0, str(Path(__file__).parent))
import bad_inputs  # noqa: E402


def out_of(capfd, *arguments, code=0):
    capfd.readouterr()
    assert main([str(a) for a in arguments]) == code
    return capfd.readouterr().out


@pytest.fixture
def pictures(tmp_path):
    return bad_inputs.pictures(tmp_path / "in", [bad_inputs.textured(i) for i in range(3)])


def test_help_teaches_every_command(capfd):
    text = out_of(capfd, "--help")
    for name in ("run", "reconstruct", "demo", "measure", "export", "view", "views", "volume", "deidentify", "doctor"):
        assert name in text
    assert "medrecon demo" in text
    assert "folder" in out_of(capfd, "reconstruct", "--help")


def test_minutes_of_a_reconstruction_are_those_of_its_training(pictures, tmp_path, capfd):
    out = tmp_path / "out"
    out_of(capfd, "reconstruct", pictures, "--out", out, "--minutes", "2.5", "--until", "source")
    assert yaml.safe_load((out / "run.yaml").read_text())["training"]["minutes"] == 2.5
    for wrong in (["--minutes", "-1"], ["--minutes", "1", "-o", "training.iterations=5"]):
        assert main(["reconstruct", str(pictures), "--out", str(tmp_path / "no"), *wrong]) == 2
        assert "minutes" in capfd.readouterr().err


def test_ctrl_c_while_a_module_loads_ends_with_130_all_the_same(tmp_path):
    """Dataclasses are made by ``exec``; Python ends a process by the signal when Ctrl-C passed through one."""
    program = """
import os, sys
sys.path.insert(0, os.environ["MEDRECON_ROOT"])
import medrecon.cli, medrecon.cli.app
def command(*_, **__):
    exec("raise KeyboardInterrupt")
medrecon.cli.app.build = lambda: command
sys.exit(medrecon.cli.main(["doctor"]))
"""
    (tmp_path / "interrupted_command.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "-m", "interrupted_command"],
        cwd=tmp_path,
        env={**os.environ, "MEDRECON_ROOT": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 130, ended.stderr
    assert "run the same command again" in ended.stderr


def test_version(capfd):
    import medrecon

    assert out_of(capfd, "--version") == f"medrecon {medrecon.__version__}\n"


def test_plugins_list_and_show(capfd):
    rows = json.loads(out_of(capfd, "plugins", "list", "--json"))["components"]
    assert {"sift", "surf", "orb"} <= {r["name"] for r in rows if r["kind"] == "extractor"}
    assert "sift" in out_of(capfd, "plugins", "list", "extractor")
    shown = out_of(capfd, "plugins", "show", "matcher", "nearest-neighbour")
    assert "ratio (default" in shown and "accepts features of: any" in shown
    assert "sound" in out_of(capfd, "plugins", "check")
    assert main(["plugins", "list", "extractors"]) == 2


def test_what_config_show_prints_can_be_run(capfd, tmp_path, pictures):
    text = out_of(capfd, "config", "show", "--preset", "endoscopy", "-o", f"source.path={pictures}")
    (tmp_path / "mine.yaml").write_text(text)
    assert out_of(capfd, "config", "show", tmp_path / "mine.yaml") == text
    assert json.loads(out_of(capfd, "config", "schema"))["required"] == ["source"]


def test_plan_is_shown_and_nothing_is_written(capfd, tmp_path, pictures):
    text = out_of(capfd, "reconstruct", pictures, "--out", tmp_path / "o", "--dry-run")
    assert text.splitlines()[0].split()[:2] == ["run", "source"]
    assert not (tmp_path / "o").exists()
    out_of(capfd, "reconstruct", pictures, "--out", tmp_path / "o", "--until", "features", "-q")
    lines = out_of(
        capfd, "reconstruct", pictures, "--out", tmp_path / "o", "--dry-run", "--force", "features"
    ).splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["reuse", "reuse", "reuse", "run", "run"]


def test_events_are_json_lines(capfd, tmp_path, pictures):
    text = out_of(capfd, "reconstruct", pictures, "--out", tmp_path / "o", "--until", "features", "-q", "--events", "-")
    events = [json.loads(line) for line in text.splitlines()]
    assert [e["finished"] for e in events if e["event"] == "stage_finished"] == [
        "source",
        "keyframes",
        "masks",
        "features",
    ]
    assert events[-1]["event"] == "run_finished" and events[-1]["result"]["frames"] == 3


def test_from_redoes_and_a_finished_run_records_no_paths(capfd, tmp_path, pictures):
    out = tmp_path / "o"
    out_of(capfd, "reconstruct", pictures, "--out", out, "--until", "features", "-q")
    assert main(["reconstruct", str(pictures), "--out", str(out), "--until", "features", "--from", "masks"]) == 0
    err = capfd.readouterr().err
    assert (
        "keyframes: choose sharp, well exposed, moving frames (unchanged, reused)" in err and "features done in" in err
    )
    for name in ("manifest.json", "run.yaml", "result.json", "report.html"):
        assert str(tmp_path) not in (out / name).read_text(encoding="utf-8"), name


def test_volume_info_views_and_deidentify(capfd, tmp_path):
    folder = tmp_path / "ct"
    folder.mkdir()
    slices = [bad_inputs.ct_slice(bad_inputs.UID, 2.0 * i) for i in range(8)]
    bad_inputs.series(folder, slices)
    info = out_of(capfd, "volume", "info", folder)
    assert "32 x 32 x 8 voxels" in info and "SECRET" not in info
    out_of(capfd, "deidentify", folder, "--out", tmp_path / "clean", "--key", "a secret of enough letters")
    assert len(list((tmp_path / "clean").rglob("*.dcm"))) == 8
    assert not [p for p in (tmp_path / "clean").rglob("*.dcm") if b"SECRET" in p.read_bytes()]
    out_of(
        capfd, "views", "builtin:chest-ct", "--out", tmp_path / "v", "-o", "n_views=2", "-o", "image_size_px=[64, 64]"
    )
    assert len(list((tmp_path / "v" / "images").glob("*.png"))) == 2
    assert json.loads((tmp_path / "v" / "truth" / "truth.json").read_text())["cameras"]
