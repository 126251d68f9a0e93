# SPDX-License-Identifier: Apache-2.0
"""Bad input of every kind: one message with cause and remedy, the right exit code, nothing half-written."""

import errno
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from medrecon.cli import main

sys.path.insert(0, str(Path(__file__).parent))
import bad_inputs  # noqa: E402

CONFIG, INPUT, STAGE = 2, 3, 4
VIEWS, DICOM = ["-o", "source.name=views"], ["-o", "source.name=dicom"]

# maker of the input, further arguments, exit code, words the message must hold
INPUTS = [
    ("missing", [], INPUT, "does not exist"),
    ("empty_folder", [], INPUT, "empty"),
    ("text_folder", [], INPUT, "no pictures"),
    ("single_picture_file", [], INPUT, "single picture"),
    ("unknown_file", [], INPUT, "no video, DICOM file or volume"),
    ("one_picture", [], INPUT, r"(1 usable|one|single|at least)"),
    ("black_pictures", ["--preset", "endoscopy"], INPUT, "(dark|black)"),
    ("black_pictures", [], STAGE, "keypoints"),
    ("constant_pictures", [], STAGE, "keypoints"),
    ("unrelated_pictures", [], STAGE, "(verified|match)"),
    ("truncated_pictures", [], INPUT, "(decoded|read|truncated)"),
    ("absurd_png", [], INPUT, "(decoded|large|size)"),
    ("text_video", [], INPUT, "video"),
    ("empty_video", [], INPUT, "(video|empty)"),
    ("truncated_video", [], INPUT, "(video|frame)"),
    ("nan_volume", [], INPUT, "NaN"),
    ("empty_volume", [], INPUT, ""),
    ("huge_volume", [], INPUT, "(voxels|memory|large)"),
    ("truncated_volume", [], INPUT, "(truncated|cut|read|end)"),
    ("four_dimensional_volume", [], INPUT, "(4-D|frame|dimension)"),
    ("singular_volume", [], INPUT, "(singular|affine|orientation|spacing)"),
    ("text_volume", [], INPUT, ""),
    ("broken_nrrd", [], INPUT, ""),
    ("truncated_dicom", VIEWS, INPUT, "(truncated|pixel)"),
    ("truncated_dicom", DICOM, INPUT, "(truncated|pixel)"),
    ("mixed_series", VIEWS, INPUT, "series"),
    ("mixed_series", DICOM, INPUT, "series"),
    ("tilted_gantry", VIEWS, INPUT, "tilt"),
    ("uneven_gaps", VIEWS, INPUT, "(gap|spacing|distance|missing)"),
    ("duplicate_slices", VIEWS, INPUT, "same place"),
    ("no_pixel_data", VIEWS, INPUT, "pixel data"),
    ("no_pixel_data", DICOM, INPUT, "pixel data"),
    ("mixed_sizes", VIEWS, INPUT, "(size|series)"),
    ("text_folder", DICOM, INPUT, "DICOM"),
    ("unrelated_pictures", ["-o", "source.name=vidoe"], CONFIG, "did you mean 'video'"),
    ("unrelated_pictures", ["-o", "source.colour=1"], CONFIG, "unknown key 'colour'"),
    ("unrelated_pictures", ["-o", "features.max_keypoints=many"], CONFIG, "max_keypoints"),
    ("unrelated_pictures", ["-o", "nothing"], CONFIG, "section.key=value"),
    ("unrelated_pictures", ["-o", "device=cuda"], INPUT, "CUDA"),
    ("unrelated_pictures", ["--preset", "orbti"], CONFIG, "did you mean 'orbit'"),
    ("unrelated_pictures", ["--from", "sfn"], CONFIG, "is no stage"),
    ("unrelated_pictures", ["--until", "end"], CONFIG, "is no stage"),
    ("unrelated_pictures", ["--force", "sift"], CONFIG, "is no stage"),
]


def says_one_thing(stderr: str, words: str) -> None:
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, stderr
    message = stderr[stderr.index("error:") :]
    assert "\n  try: " in message, stderr
    assert re.search(words, message), stderr
    assert "Traceback" not in stderr and "SECRET" not in stderr


def nothing_half_written(out: Path) -> None:
    assert not (out / "result.json").exists() and not (out / "report.html").exists()
    for folder in (out / "stages").glob(".*.partial") if (out / "stages").exists() else ():
        raise AssertionError(f"left behind: {folder}")
    for folder in (out / "stages").glob("[a-z]*") if (out / "stages").exists() else ():
        assert (folder / ".stage.json").is_file(), folder


@pytest.mark.parametrize("maker, arguments, code, words", INPUTS, ids=[f"{i:02d}-{r[0]}" for i, r in enumerate(INPUTS)])
def test_bad_input(maker, arguments, code, words, tmp_path, capfd):
    if "CUDA" in words:
        import torch

        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    given = tmp_path / "given"
    given.mkdir()
    path = getattr(bad_inputs, maker)(given)
    out = tmp_path / "out"
    assert main(["reconstruct", str(path), "--out", str(out), *arguments]) == code
    says_one_thing(capfd.readouterr().err, words)
    nothing_half_written(out)


BAD_FILES = [
    (None, "cannot be read"),
    ("source: {name: video, path: a.mp4}\nsource: {name: video, path: b.mp4}\n", "duplicate key 'source'"),
    ("source: !!python/object/apply:os.system ['touch owned']\n", "run.yaml:1"),
    ("source: {name: video, path: a.mp4}\nsfm: &a {}\nscale: *a\n", "aliases"),
    ("[1, 2]\n", "key: value"),
    ("source: {name: video, path: a.mp4}\nversion: two\n", "version"),
    ("source: {name: video, path: a.mp4}\nmatching: {name: nearest-neighbour, ratio: 7}\n", "ratio"),
    ("source: {name: video, path: 3}\n", "path"),
    ("source: {name: video, path: a.mp4}\nfeatures: {name: os.system}\n", "no extractor named 'os.system'"),
]


@pytest.mark.parametrize("text, words", BAD_FILES)
def test_bad_configuration(text, words, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("run.yaml").write_text(text)
    assert main(["run", "run.yaml", "--out", "out"]) == CONFIG
    says_one_thing(capfd.readouterr().err, words)
    assert not Path("out").exists() and not Path("owned").exists()


@contextmanager
def as_nobody():
    """Permissions mean nothing to root: be somebody else for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_tmp_path(tmp_path):
    """A temporary folder that everybody may enter (pytest's own are closed to others)."""
    if os.geteuid() == 0:
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
    return tmp_path


def test_unreadable_folder(open_tmp_path, capfd):
    path = bad_inputs.pictures(open_tmp_path / "locked", [bad_inputs.textured(0)] * 3)
    out = open_tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    path.chmod(0o000)
    import medrecon.ingest.guess  # noqa: F401  # nobody may be unable to read the package itself

    try:
        with as_nobody():
            assert main(["reconstruct", str(path), "--out", str(out)]) == INPUT
    finally:
        path.chmod(0o755)
    says_one_thing(capfd.readouterr().err, "([Rr]ead|[Pp]ermission)")


def test_read_only_output(tmp_path, capfd):
    path = bad_inputs.pictures(tmp_path / "in", [bad_inputs.textured(i) for i in range(3)])
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o555)
    if os.geteuid() == 0:  # permissions mean nothing to root, but nobody may make a folder here
        out = Path("/sys/medrecon-run")
        if not out.parent.is_dir():
            pytest.skip("no file system that refuses root")
    assert main(["reconstruct", str(path), "--out", str(out)]) == INPUT
    says_one_thing(capfd.readouterr().err, "cannot be written")
    assert not out.exists() or list(out.iterdir()) == []


def test_full_disk_is_said_and_the_run_resumes(tmp_path, capfd, monkeypatch):
    path = bad_inputs.pictures(tmp_path / "in", [bad_inputs.textured(i) for i in range(3)])
    out = tmp_path / "out"
    import medrecon.types.features as features

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features, "write_npz", full)
    assert main(["reconstruct", str(path), "--out", str(out), "--until", "features"]) == INPUT
    says_one_thing(capfd.readouterr().err, "full")
    assert not (out / "result.json").exists()
    monkeypatch.undo()
    assert main(["reconstruct", str(path), "--out", str(out), "--until", "features"]) == 0
    err = capfd.readouterr().err
    assert "source: read or render the pictures (unchanged, reused)" in err


def test_spaces_and_other_letters_in_paths_are_fine(tmp_path, capfd):
    path = bad_inputs.pictures(tmp_path / "Füße und Ärzte 心臓", [bad_inputs.textured(i) for i in range(3)])
    out = tmp_path / "aus gabe é"
    assert main(["reconstruct", str(path), "--out", str(out), "--until", "features"]) == 0
    assert len(list((out / "stages" / "features").glob("*.npz"))) == 3


def test_two_runs_in_one_folder(tmp_path, capfd):
    import fcntl

    path = bad_inputs.pictures(tmp_path / "in", [bad_inputs.textured(i) for i in range(3)])
    out = tmp_path / "out"
    out.mkdir()
    with open(out / ".lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert main(["reconstruct", str(path), "--out", str(out)]) == INPUT
    says_one_thing(capfd.readouterr().err, "another run")


def test_measure_and_view_want_a_run(tmp_path, capfd):
    for command in (
        ["measure", str(tmp_path)],
        ["view", str(tmp_path)],
        ["export", str(tmp_path), "--out", str(tmp_path / "o")],
    ):
        assert main(command) == INPUT
        says_one_thing(capfd.readouterr().err, "not the folder of a run")
    assert not (tmp_path / "o").exists()


def test_pickle_in_place_of_features_is_refused(tmp_path, capfd):
    """A hostile file in the cache is read as arrays or not at all; nothing in it runs."""
    path = bad_inputs.pictures(tmp_path / "in", [bad_inputs.textured(i) for i in range(3)])
    out = tmp_path / "out"
    assert main(["reconstruct", str(path), "--out", str(out), "--until", "features"]) == 0

    class Hostile:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/owned",))

    np.savez(out / "stages" / "features" / "000000.npz", xy=np.array([Hostile()], dtype=object))
    capfd.readouterr()
    assert main(["reconstruct", str(path), "--out", str(out)]) == INPUT
    says_one_thing(capfd.readouterr().err, "npz")
    assert not (tmp_path / "owned").exists()
