# SPDX-License-Identifier: Apache-2.0
"""Numbers and names in print."""

import pytest

from medrecon.report import words

THIN = "\u202f"


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (7, "7"),
        (1234, "1234"),
        (10753, f"10{THIN}753"),
        (1234567.0, f"1{THIN}234{THIN}567"),
        (0.81234, "0.8123"),
        (0.71, "0.71"),
        (12.0, "12"),
        (123.456, "123.5"),
        (-3.25, "−3.25"),
        (0.00001234, "1.234e-05"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_numbers(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    "value, sigma, text",
    [
        (1.23456, 0.0678, "1.235 ± 0.068"),
        (24.13, 0.42, "24.13 ± 0.42"),
        (1256.6, 120.0, "1257 ± 120"),
        (12.5, None, "12.5"),
        (12.5, 0.0, "12.5"),
        (None, None, "not measured"),
        (None, 0.3, "not measured"),
    ],
)
def test_values_are_rounded_by_their_sigma(value, sigma, text):
    assert words.measured(value, sigma) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (4.25, "4.2 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert words.duration(seconds) == text


def test_labels():
    assert words.label("surface_hd95_mm") == "Surface error, 95% Hausdorff"
    assert words.label("distance_tip_to_fork_mm") == "Distance tip to fork"
    assert words.label("mm") == "Mm"


def test_configuration_is_printed_without_names_of_files():
    config = {
        "source": {"name": "dicom", "path": "Doe^John", "masks_path": "doe-masks", "stride": 2},
        "views": {"camera_path": {"kind": "orbit", "loops": 2.0}, "other": "C:\\data\\doe"},
        "list": [{"file": "a"}, "b/c"],
        "sfm": {"name": "incremental", "min_num_matches": 15},
    }
    shown = words.without_paths(config)
    assert "doe" not in repr(shown).lower()
    assert shown["source"] == {"name": "dicom", "path": "(withheld)", "masks_path": "(withheld)", "stride": 2}
    assert shown["views"]["camera_path"] == {"kind": "orbit", "loops": 2.0}
    assert shown["list"] == [{"file": "(withheld)"}, "(withheld)"]
    assert shown["sfm"] == config["sfm"]


def test_moments_are_read_in_utc():
    assert words.moment("2026-01-02T03:04:05+02:00") == "2026-01-02 01:04 UTC"
    assert words.moment("2026-01-02") == "2026-01-02" and words.moment("yesterday") == "yesterday"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("jit (kept in /home/doe/.cache/x-1)", "jit (kept in (withheld))"),
        ("kept in ~/x, or C:\\Users\\doe\\y; done", "kept in (withheld), or (withheld); done"),
        ("frames/s and 1 / 2 of it", "frames/s and 1 / 2 of it"),
    ],
)
def test_paths_in_sentences_are_withheld(text, shown):
    assert words.pathless(text) == shown
