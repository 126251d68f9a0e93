# SPDX-License-Identifier: Apache-2.0
"""Curves of trainings as a picture and a table."""

from __future__ import annotations

import json

import cv2
import pytest

from medrecon.errors import InputError
from medrecon.training import draw_curves


def run(folder, losses):
    folder.mkdir(parents=True)
    lines = [{"step": 10 * i, "seconds": 6.0 * i, "train": {"loss": v, "rate": 1}} for i, v in enumerate(losses, 1)]
    lines.append({"step": 40, "seconds": 30.0, "validation": {"mma_3": 0.25}})
    (folder / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 50, "sec')
    return folder


def test_two_runs_are_drawn_and_tabulated(tmp_path):
    runs = draw_curves.load_runs([run(tmp_path / "a", [3, 2, 1]), run(tmp_path / "b", [4, 3])])
    assert draw_curves.series(runs["a"])["train/loss"] == ([0.1, 0.2, pytest.approx(0.3)], [3, 2, 1])
    assert "train/rate" not in draw_curves.series(runs["a"])
    picture = cv2.imread(str(draw_curves.draw(runs, tmp_path / "out" / "curves.png")))
    assert picture is not None and picture.std() > 5
    rows = [line.split() for line in draw_curves.table(runs).splitlines()]
    assert rows == [["a", "b"], ["steps", "40", "40"], ["minutes", "0.5", "0.5"], ["mma_3", "0.25", "0.25"]]


def test_a_folder_without_curves_is_refused(tmp_path):
    with pytest.raises(InputError, match="no curves"):
        draw_curves.load_runs([tmp_path])
