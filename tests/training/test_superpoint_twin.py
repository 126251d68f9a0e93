# SPDX-License-Identifier: Apache-2.0
"""The network as trained and the plain one that is exported are the same function."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from medrecon.features.superpoint_network import SuperpointNetworkConfig
from medrecon.training.keypoints import score_maps
from medrecon.training.superpoint_twin import SuperpointTwin, to_pixels

SMALL = SuperpointNetworkConfig(encoder_widths=(4, 6, 8, 10), head_width=12, descriptor_size=7)


def trained_a_little() -> SuperpointTwin:
    """Statistics, gains and shifts far from their initial values."""
    torch.manual_seed(1)
    twin = SuperpointTwin(SMALL)
    for norm in twin.norms.values():
        torch.nn.init.uniform_(norm.weight, 0.3, 2)
        torch.nn.init.uniform_(norm.bias, -1, 1)
    for _ in range(3):
        twin(torch.rand(2, 1, 32, 40))
    return twin


def test_folding_is_exact():
    twin = trained_a_little().eval().double()
    plain = twin.fold().double()
    # fold() makes a float32 network; doubles show the fold itself, free of rounding in the convolutions
    images = torch.rand(2, 1, 40, 32, dtype=torch.float64)
    maps = twin(images)
    logits = plain.detect(plain.encode(images))
    described = plain.convDb(F.relu(plain.convDa(plain.encode(images))))
    assert torch.allclose(logits, maps.logits, rtol=1e-5, atol=1e-5)
    assert torch.allclose(described, maps.descriptors, rtol=1e-5, atol=1e-5)
    assert logits.std() > 0.01 and not plain.training


def test_the_plain_network_has_the_released_layers_and_no_other():
    plain = trained_a_little().fold()
    names = {f"conv{i}{k}" for i in (1, 2, 3, 4) for k in "ab"} | {"convPa", "convPb", "convDa", "convDb"}
    assert {n.rpartition(".")[0] for n in plain.state_dict()} == names


def test_maps_have_the_sizes_of_cells():
    maps = SuperpointTwin(SMALL)(torch.rand(2, 1, 32, 40))
    assert maps.logits.shape == (2, 65, 4, 5) and maps.descriptors.shape == (2, 7, 4, 5)
    assert SuperpointTwin(SMALL)(torch.rand(2, 1, 32, 40), describe=False).descriptors is None


def test_pixels_are_in_the_order_in_which_keypoints_are_read():
    logits = torch.randn(2, 65, 3, 4)
    assert torch.equal(to_pixels(logits).flatten(1).argsort(1)[:, -1], to_pixels(logits).flatten(1).argmax(1))
    score, pixels = score_maps(logits), to_pixels(logits)
    cell = (slice(None), slice(8, 16), slice(16, 24))  # within a cell the softmax keeps the order
    assert torch.equal(score[cell].flatten(1).argsort(1), pixels[cell].flatten(1).argsort(1))
