# SPDX-License-Identifier: Apache-2.0
"""Looks at pictures against OpenCV; labels of a network that is known to follow its input."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medrecon.training import adapt_labels, adapt_views


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_picture(height=96, width=128, seed=0):
    noise = np.random.default_rng(seed).random((height, width), np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 1, cv2.NORM_MINMAX)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_look_is_opencvs_warp_and_its_mask_ends_with_the_picture(seed):
    picture = smooth_picture()
    there = adapt_views.random_crop((64, 80), torch.tensor([64.0, 48.0]), generator(seed))
    seen, allowed = adapt_views.look(
        torch.tensor(picture)[None], torch.ones(96, 128, dtype=torch.bool), there, (64, 80)
    )
    shift = np.array([(1, 0, 0.5), (0, 1, 0.5), (0, 0, 1.0)])  # OpenCV's first pixel is centred on (0, 0)
    index = np.linalg.inv(shift) @ there.numpy() @ shift
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpPerspective(picture, index, (80, 64), flags=how)
    inside = cv2.warpPerspective(np.ones_like(picture), index, (80, 64), flags=how) > 0.99
    assert (inside == allowed.numpy()).mean() > 0.99
    np.testing.assert_allclose(seen[0].numpy()[allowed], expected[allowed], atol=0.02)  # its grid has 1/32 px


def test_changes_keep_the_range_and_follow_the_generator():
    images = torch.tensor(smooth_picture())[None].repeat(6, 1, 1)
    (once, clear), (again, _) = (adapt_views.disturb(images, generator(3)) for _ in range(2))
    assert torch.equal(once, again) and once.shape == images.shape == clear.shape
    assert 0 <= float(once.min()) and float(once.max()) <= 1
    assert all(not torch.equal(once[0], other) for other in once[1:])
    assert 0.5 < float(clear.float().mean()) < 1


def test_a_random_centre_lies_in_the_mask():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[5, 7] = mask[12, 25] = True
    found = {tuple(adapt_views.random_centre(mask, generator(i)).tolist()) for i in range(20)}
    assert found == {(7.5, 5.5), (25.5, 12.5)}
    assert adapt_views.random_centre(mask & False, generator()).tolist() == [15, 10]


class Echo(nn.Module):
    """Says "keypoint" where the picture is bright: its labels are the bright dots, whatever the warp."""

    def forward(self, images):
        cells = F.pixel_unshuffle(images, 8) * 12
        return torch.cat([cells, torch.full_like(cells[:, :1], 5.0)], 1), None


def test_labels_are_where_the_network_sees_keypoints_under_every_warp():
    dots = np.zeros((96, 128), np.float32)
    true = {(30, 40), (90, 25), (64, 70), (100, 80)}
    for x, y in true:
        dots[y, x] = 0.5 if x == 64 else 1
    dots = cv2.GaussianBlur(dots, (0, 0), 1.2)
    picture = torch.tensor(dots / dots.max())[None]
    mask = torch.ones(96, 128, dtype=torch.bool)
    mask[:, 95:] = False
    mean = adapt_labels.mean_probability(Echo(), picture, mask, 12, generator(), half=False)
    found, strengths = adapt_labels.label_points(mean, mask, 0.01, 10)
    assert {tuple(p) for p in (found - 0.5).int().tolist()} == {(30, 40), (90, 25), (64, 70)}
    assert float(mean[~mask].max()) == 0
    for (x, y), strength in zip((found - 0.5).int().tolist(), strengths.tolist()):
        assert strength == pytest.approx(min(1.0, float(mean[y - 1 : y + 2, x - 1 : x + 2].sum())), rel=1e-4)
    assert len(adapt_labels.label_points(mean, mask, 0.01, 2)[0]) == 2
