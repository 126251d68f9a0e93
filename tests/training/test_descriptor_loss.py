# SPDX-License-Identifier: Apache-2.0
"""The descriptor's loss against its formula, and reading descriptors as the extractor does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medrecon.features.superpoint_keypoints import sample_descriptors
from medrecon.training.descriptor import draw_points, matching_loss, sample


def units(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


def grid_points(n, step):
    return torch.stack([torch.arange(n) * step, torch.arange(n) * 0.0], 1)[None].double()


def test_the_loss_is_its_formula():
    a, b, xy = units(1, 5, 8), units(1, 5, 8, seed=1), grid_points(5, 10.0)
    valid = torch.tensor([[True, True, False, True, True]])
    loss, accuracy = matching_loss(a, b, xy, xy, valid, torch.tensor(7.0))
    used = [0, 1, 3, 4]
    s = 7 * (a[0] @ b[0].T).numpy()[np.ix_(used, used)]
    forth = np.diag(s) - np.log(np.exp(s).sum(1))
    back = np.diag(s) - np.log(np.exp(s).sum(0))
    assert float(loss) == pytest.approx(-(forth + back).mean() / 2, rel=1e-6)
    assert float(accuracy) == pytest.approx((s.argmax(1) == np.arange(4)).mean())


def test_near_points_are_no_negatives():
    a, xy = units(1, 4, 8), grid_points(4, 10.0)
    b = a.clone()
    b[0, 1] = a[0, 0]  # the wrong answer for point 0 is as good as the right one ...
    far = matching_loss(a, b, xy, xy, torch.ones(1, 4, dtype=torch.bool), torch.tensor(20.0))[0]
    xy = xy.clone()
    xy[0, 1, 0] = 3.0  # ... which is forgiven where the two lie side by side
    near = matching_loss(a, b, xy, xy, torch.ones(1, 4, dtype=torch.bool), torch.tensor(20.0))[0]
    assert float(near) < float(far) - 0.05


def test_the_gradient_is_right():
    xy, valid = grid_points(4, 10.0), torch.tensor([[True, True, True, False]])
    a, b = units(1, 4, 6).requires_grad_(), units(1, 4, 6, seed=2).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    check = lambda a, b, s: matching_loss(a, b, xy, xy, valid, s)[0]
    # valid is made float32 inside: compare with a tolerance of that
    assert torch.autograd.gradcheck(check, (a, b, scale), atol=1e-4)


def test_descriptors_are_read_as_the_extractor_reads_them():
    cells = torch.randn(1, 16, 6, 7, generator=torch.Generator().manual_seed(0))
    row, column = np.array([4, 10, 23, 44]), np.array([4, 31, 50, 52])
    unit = torch.nn.functional.normalize(cells[0], dim=0)
    wanted = sample_descriptors(unit, row, column, (6, 7), (0, 0))
    xy = torch.tensor(np.stack([column, row], 1) + 0.5, dtype=torch.float32)[None]
    assert np.allclose(sample(cells, xy)[0].numpy(), wanted, atol=1e-5)


def test_points_are_peaks_first_then_anything_of_the_mask():
    mask = torch.zeros(2, 32, 40, dtype=torch.bool)
    mask[:, 4:28, 5:30] = True
    top = torch.zeros_like(mask)
    top[0, 10, 10] = top[0, 20, 25] = top[0, 2, 2] = True  # the last is masked
    xy = draw_points(top, mask, corners=3, others=8, generator=torch.Generator().manual_seed(0))
    assert xy.shape == (2, 11, 2)
    first = {tuple(p) for p in xy[0, :2].tolist()}
    assert first == {(10.5, 10.5), (25.5, 20.5)}
    index = (xy - 0.5).long()
    assert mask[0][index[0, 3:, 1], index[0, 3:, 0]].all() and mask[1][index[1, 3:, 1], index[1, 3:, 0]].all()
    again = draw_points(top, mask, 3, 8, torch.Generator().manual_seed(0))
    assert torch.equal(xy, again)
