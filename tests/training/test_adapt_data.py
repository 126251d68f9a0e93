# SPDX-License-Identifier: Apache-2.0
"""The user's pictures: split in time, read with the project's sources and masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from medrecon.errors import ConfigError, InputError
from medrecon.progress import Quiet
from medrecon.training.adapt_data import load_grey, read_frames, split_in_time


@pytest.mark.parametrize("n", [21, 30, 100, 251])
def test_held_out_frames_are_one_stretch_apart_from_the_others(n):
    learn, held = split_in_time(n, 50, 0.3, 0.05)
    assert held == list(range(held[0], n)) and len(held) == round(0.3 * n)
    assert max(learn) < held[0] - 1 and min(learn) == 0
    assert held[0] - max(learn) - 1 >= 0.05 * n - 0.5
    assert len(learn) == len(set(learn)) == min(50, held[0] - max(1, round(0.05 * n)))


def test_too_few_frames_are_refused_with_the_number_that_suffices():
    with pytest.raises(InputError) as error:
        split_in_time(12, 50, 0.3, 0.05)
    need = int(str(error.value).split("at least ")[1].split()[0])
    split_in_time(need, 50, 0.3, 0.05)


def pictures(folder, n, size=(64, 80)):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        image = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), np.uint8), (0, 0), 2)
        image[:10, :12] = 255  # a mirror reflection, which is masked
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)
    return folder


def test_a_folder_is_read_shrunk_masked_and_split(tmp_path):
    found = read_frames(pictures(tmp_path / "in", 24), tmp_path / "work", 40, 8, 0.3, 0.05, {}, Quiet())
    assert found.n_read == 24 and len(found.learn) == 8 and len(found.held_out) == 7
    assert not {f.frame_id for f in found.learn.frames} & {f.frame_id for f in found.held_out.frames}
    for grey, mask in load_grey(found.learn):
        assert grey.shape == mask.shape == (32, 40) and grey.dtype == np.uint8
        assert not mask[:4, :5].any() and mask[16:].all()


def test_options_of_the_source_are_checked(tmp_path):
    folder = pictures(tmp_path / "in", 24)
    with pytest.raises(ConfigError, match="strid"):
        read_frames(folder, tmp_path / "work", 40, 8, 0.3, 0.05, {"strid": 2}, Quiet())
    with pytest.raises(InputError, match="too few"):
        read_frames(folder, tmp_path / "w2", 40, 8, 0.3, 0.05, {"stride": 3}, Quiet())
