# SPDX-License-Identifier: Apache-2.0
"""What adapting minimises: determined by the seed, aware of masks, and held back by the pull."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from medrecon.errors import ConfigError
from medrecon.features.superpoint_network import SuperpointNetwork, SuperpointNetworkConfig
from medrecon.training.adapt_task import AdaptTask, Labelled, LearnSettings, Looks, _allowed, _strength_in
from medrecon.training.settings import Schedule
from medrecon.training.trainer import train

SMALL = SuperpointNetworkConfig((4, 8, 8, 16), 16, 16)
SETTINGS = LearnSettings(crop_px=(48, 64), pairs=2, corners=24, others=8, learning_rate=2e-3, label_warps=2)


def labelled(seed, mask=None):
    rng = np.random.default_rng(seed)
    picture = np.clip(cv2.GaussianBlur(rng.random((80, 112), np.float32), (0, 0), 2) * 4 - 1.5, 0, 1)
    mask = torch.ones(80, 112, dtype=torch.bool) if mask is None else mask
    points = torch.tensor(rng.uniform(8, 72, (30, 2)), dtype=torch.float32)
    return Labelled(torch.from_numpy(picture)[None], mask, points, torch.linspace(0.9, 0.02, 30))


def task(settings=SETTINGS, seed=0):
    torch.manual_seed(seed)
    pictures = [labelled(i) for i in range(4)]
    return AdaptTask(SuperpointNetwork(SMALL), pictures[:3], pictures[3:], settings, {}, lambda folder, facts: None)


def test_a_step_is_determined_by_seed_and_number():
    one, other = task(), task()
    assert torch.equal(one.loss(7, 0)[0], other.loss(7, 0)[0])
    assert not torch.equal(one.loss(7, 0)[0], one.loss(8, 0)[0])
    assert one.validate() == other.validate()


def test_half_precision_rounds_no_coordinates():
    """Of a network that does not care about precision the loss is the same in both."""

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(()))

        def forward(self, images):
            cells = torch.nn.functional.pixel_unshuffle(images, 8) + self.shift
            return torch.cat([cells, cells[:, :1]], 1), cells

    pictures = [labelled(i) for i in range(2)]
    fixed = AdaptTask(Fixed(), pictures, pictures, SETTINGS, {}, lambda folder, facts: None)
    full = fixed.loss(3, 0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half = fixed.loss(3, 0)[0]
    assert torch.equal(full, half)


def test_training_lowers_the_loss_and_the_pull_holds_the_weights(tmp_path):
    schedule = Schedule(steps=40, minutes=None, log_every=10, validations=0, precision="fp32")
    free, held = (
        task(LearnSettings(**{**vars(SETTINGS), "pull": 0.0})),
        task(LearnSettings(**{**vars(SETTINGS), "pull": 50.0})),
    )
    before = free.validate()
    after = train(free, schedule, tmp_path / "free", torch.device("cpu"), lambda text: None)["validation"]
    assert after["descriptor"] < before["descriptor"] and after["detector"] < before["detector"]
    train(held, schedule, tmp_path / "held", torch.device("cpu"), lambda text: None)
    moved = [float(t.loss(0, 0)[1]["moved"]) for t in (held, free)]
    assert moved[0] < 0.2 * moved[1]


def test_labels_move_with_the_crop_and_stay_inside_the_mask():
    xy = torch.tensor([(20.5, 30.5), (40.5, 30.5), (70.5, 60.5), (20.8, 30.9)])  # the last shares the first's pixel
    picture = labelled(0)
    picture = Labelled(picture.picture, picture.mask, xy, torch.tensor([0.5, 0.6, 0.7, 0.1]))
    shift = torch.eye(3)
    shift[0, 2], shift[1, 2] = 10, 20  # crop pixel (0, 0) is picture pixel (10, 20)
    masks = torch.ones(1, 32, 48, dtype=torch.bool)
    masks[0, 10, 30] = False  # hides the second
    found = _strength_in(Looks(torch.zeros(1, 32, 48), masks, shift[None]), [picture])
    assert found.nonzero().tolist() == [[0, 10, 10]] and float(found[0, 10, 10]) == 0.5


def test_points_outside_or_hidden_are_no_pairs():
    masks = torch.ones(1, 10, 20, dtype=torch.bool)
    masks[0, 5, 7] = False
    xy = torch.tensor([[(7.5, 5.5), (8.5, 5.5), (-0.1, 5), (20, 5), (3, 10.0), (19.9, 9.9)]])
    assert _allowed(masks, xy).tolist() == [[False, True, False, False, False, True]]


@pytest.mark.parametrize("wrong", [{"crop_px": (50, 64)}, {"crop_px": (8, 8)}, {"pairs": 0}, {"learning_rate": 0.0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        LearnSettings(**wrong)
