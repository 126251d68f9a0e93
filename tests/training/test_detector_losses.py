# SPDX-License-Identifier: Apache-2.0
"""The detector's targets against closed forms and OpenCV, and its losses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flat_pairs import draw_flat_pairs, scene
from scipy import ndimage

from medrecon.training import detector


def gaussian_blob(size: int, x: float, y: float, sigma: float, height: float = 0.5) -> torch.Tensor:
    ys, xs = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    return (0.2 + height * torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2)))[None, None]


def test_blur_is_scipys():
    image = torch.rand(1, 2, 24, 30, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5), mode="nearest", truncate=3 + 1e-6)
    assert np.allclose(detector.blur(image, 1.5).numpy(), wanted, atol=2e-3)


def test_response_of_a_blob_is_the_closed_form():
    sigma, scale, around, height = 3.0, 2.5, 12.0, 0.5
    image = gaussian_blob(160, 80.5, 80.5, sigma, height)
    response = detector.blob_response(image, scale, around, 5e-3)[0]
    row, column = divmod(int(response.argmax()), 160)
    assert (row, column) == (80, 80)
    # Blurred: a Gaussian of variance v; at its middle the Hessian is -h / v times the identity. Around: numerically.
    v = sigma**2 + scale**2
    ys, xs = np.mgrid[:160, :160] - 80.0
    r2 = xs**2 + ys**2
    h = height * sigma**2 / v
    determinant = (h / v) ** 2 * np.exp(-r2 / v) * (1 - r2 / v)
    strength = scale**2 * np.sqrt(np.maximum(determinant, 0))
    wanted = strength / (ndimage.gaussian_filter(strength, around, truncate=3) + 5e-3)
    assert float(response[80, 80]) == pytest.approx(wanted[80, 80], rel=0.04)
    assert np.abs(response.numpy() - wanted).max() < 0.1 * wanted.max()


def test_response_does_not_depend_on_exposure_or_polarity():
    image = torch.rand(1, 1, 60, 70, generator=torch.Generator().manual_seed(4))
    bright = detector.blob_response(image, floor=0.0)
    assert torch.allclose(detector.blob_response(0.4 * image + 0.2, floor=0.0), bright, atol=2e-3)
    assert torch.allclose(detector.blob_response(1 - image, floor=0.0), bright, atol=2e-3)


def test_consensus_warps_the_other_view_exactly():
    pairs = draw_flat_pairs(torch.cat([scene(s) for s in range(2)]), 2, (64, 80), seed=1)
    there = detector.blur(torch.rand(2, 1, 64, 80, generator=torch.Generator().manual_seed(0)), 2.0)[:, 0]
    here = torch.zeros(2, 64, 80)
    found = detector.consensus(here, there, pairs.a_to_b)
    for i in range(2):  # OpenCV counts pixels from their centres
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        h = np.linalg.inv(half) @ pairs.h_b_from_a[i].double().numpy() @ half
        warped = cv2.warpPerspective(there[i].numpy(), h, (80, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        seen = pairs.a_to_b(detector.pixel_centres(64, 80, here.device).expand(2, -1, -1))[1][i].view(64, 80).numpy()
        inner = ndimage.binary_erosion(seen, iterations=2)
        assert inner.sum() > 500
        assert np.abs(found[i].numpy() - warped / 2)[inner].max() < 0.02
        assert (found[i].numpy()[~seen] == 0).all()


def test_peaks_are_maxima_inside_the_mask_and_off_the_border():
    response = torch.rand(2, 40, 48, generator=torch.Generator().manual_seed(3)) + 0.2
    mask = torch.ones(2, 40, 48, dtype=torch.bool)
    mask[:, :, 30:] = False
    top = detector.peaks(response, mask)
    assert top.any() and not (top & ~mask).any() and not top[:, :4].any() and not top[:, :, :4].any()
    for b, y, x in top.nonzero().tolist():
        assert response[b, y, x] == response[b, max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].max()
    flat = torch.zeros(1, 40, 48)
    assert not detector.peaks(flat, mask[:1]).any()


def test_labels_are_probabilities_at_their_pixels():
    response = torch.zeros(1, 24, 24)
    top = torch.zeros(1, 24, 24, dtype=torch.bool)
    top[0, 11, 13], response[0, 11, 13] = True, 30.0  # certain
    top[0, 20, 4], response[0, 20, 4] = True, 1.5  # at the floor: one half
    labels = detector.soft_labels(response, top, floor=1.5, softness=0.5, sigma_px=0.8)
    assert labels.shape == (1, 65, 3, 3)
    assert torch.allclose(labels.sum(1), torch.ones(1, 3, 3)) and (labels >= 0).all()
    assert int(labels[0, :64, 1, 1].argmax()) == 3 * 8 + 5
    assert float(labels[0, 64, 1, 1]) == pytest.approx(0.0, abs=0.02)
    assert float(labels[0, 64, 2, 0]) == pytest.approx(0.5, abs=0.02)
    assert float(labels[0, 64, 0, 0]) == pytest.approx(1.0, abs=0.01)
    # what prediction is best is the label itself, and then nothing is left
    loss = detector.label_loss(labels.clamp(min=1e-9).log(), labels, torch.ones(1, 24, 24, dtype=torch.bool))
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_losses_have_the_right_gradients():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 65, 2, 2, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.rand(1, 65, 2, 2, generator=g, dtype=torch.float64)
    labels = labels / labels.sum(1, keepdim=True)
    mask = torch.rand(1, 16, 16, generator=g) > 0.3

    def kl(x):
        return F.kl_div(x.log_softmax(1), labels, reduction="none").sum(1).mean()

    mask[:] = True
    ours = torch.autograd.grad(detector.label_loss(logits, labels, mask), logits)[0]
    theirs = torch.autograd.grad(kl(logits), logits)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.autograd.gradcheck(kl, logits)


def test_masks_decide_what_counts():
    logits = torch.zeros(1, 65, 2, 2)
    labels = torch.zeros(1, 65, 2, 2)
    labels[:, 0] = 1
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, :8, :8] = True
    logits[0, 0, 0, 0] = 50.0  # perfect where it counts, ignorant elsewhere
    assert float(detector.label_loss(logits, labels, mask)) == pytest.approx(0.0, abs=1e-5)
    assert float(detector.label_loss(logits, labels, torch.ones_like(mask))) == pytest.approx(
        0.75 * np.log(65), rel=1e-5
    )


def test_r2_within_cells():
    response = torch.rand(1, 16, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 16, 24, dtype=torch.bool)
    assert float(detector.within_cell_r2(response, response, mask)) == pytest.approx(1)
    cells = F.interpolate(F.avg_pool2d(response[:, None], 8), scale_factor=8)[:, 0]
    assert float(detector.within_cell_r2(cells, response, mask)) == pytest.approx(0, abs=1e-6)
    assert float(detector.within_cell_r2(response + 3 * cells, response, mask)) == pytest.approx(1, abs=1e-5)
