# SPDX-License-Identifier: Apache-2.0
"""The matcher's training on a tiny pool: where it starts, that it learns, resumes, and is read by the product."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from medrecon import ops
from medrecon.errors import ConfigError
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.matching.superglue import SuperglueMatcher, SuperglueMatcherConfig
from medrecon.matching.superglue_network import SuperglueNetwork, SuperglueNetworkConfig, normalise_keypoints
from medrecon.networks.checkpoint import load_checkpoint, save_network
from medrecon.testing.networks import small_superpoint
from medrecon.training.assignment import NONE, assignment_loss
from medrecon.training.match_threshold import GRID
from medrecon.training.matching_trial import MatchingTrial
from medrecon.training.pairs import draw_pairs
from medrecon.training.pool import ViewPool
from medrecon.training.settings import Schedule
from medrecon.training.superglue import SuperglueSettings, SuperglueTask, log_plan, matcher
from medrecon.training.superglue_start import fit_sharpness, start_from_descriptors
from medrecon.training.trainer import train
from medrecon.training.true_matches import Labels
from medrecon.training.validation import nearest
from medrecon.training.weights_io import load_trained

SMALL = SuperglueSettings(
    width=48,
    layers=2,
    heads=2,
    encoder_widths=(8,),
    image_px=(64, 80),
    keypoints=48,
    pairs=4,
    learning_rate=3e-3,
    sinkhorn_iterations=10,
    match_threshold=0.0,
    validation_pairs=8,
)


def flat_pool(views: int, seed: int) -> ViewPool:
    """Pictures without depth: rectangles of random grey over one another."""
    g = torch.Generator().manual_seed(seed)
    height, width = 96, 120
    pictures = torch.zeros(views, height, width, dtype=torch.uint8)
    for picture in pictures:
        for _ in range(50):
            x, y, w, h = (torch.rand(4, generator=g) * torch.tensor([width, height, 30, 24])).int().tolist()
            picture[y : y + h + 4, x : x + w + 4] = int(torch.randint(256, (1,), generator=g))
    normal = torch.zeros(views, 3, height, width, dtype=torch.int8)
    normal[:, 2] = -127
    each = torch.arange(views)
    return ViewPool(
        albedo=pictures,
        normal=normal,
        depth=torch.ones(views, height, width),
        opacity=torch.full((views, height, width), 255, dtype=torch.uint8),
        intrinsics=torch.tensor([100.0, 100.0, width / 2, height / 2]).repeat(views, 1),
        cam_from_world=torch.eye(4).repeat(views, 1, 1),
        group=each,
        flat=torch.ones(views, dtype=torch.bool),
        first=each,
        count=torch.ones(views, dtype=torch.long),
        partner=each,
    )


@pytest.fixture(scope="module")
def superpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "superpoint.safetensors"
    save_network(path, small_superpoint(), "Apache-2.0", {})
    return path


@pytest.fixture
def task(superpoint):
    return make_task(superpoint)


def make_task(superpoint, **changes) -> SuperglueTask:
    settings = dataclasses.replace(SMALL, superpoint=str(superpoint), **changes)
    return SuperglueTask(settings, flat_pool(6, 0), flat_pool(3, 1), ["flat"])


@pytest.mark.parametrize("size, width", [(32, 48), (32, 32)])
def test_it_starts_as_transport_between_descriptors(size, width):
    torch.manual_seed(0)
    network = SuperglueNetwork(SuperglueNetworkConfig(size, width, layers=2, heads=2, encoder_widths=(8,)))
    start_from_descriptors(network, 12.0, 0.4)
    network.train()
    a, b = (torch.nn.functional.normalize(torch.randn(2, n, size), dim=2) for n in (20, 25))
    xy_a, xy_b = torch.rand(2, 20, 2) - 0.5, torch.rand(2, 25, 2) - 0.5
    plan = network(xy_a, torch.rand(2, 20), a, xy_b, torch.rand(2, 25), b, iterations=30)
    expected = ops.log_sinkhorn(12.0 * a @ b.transpose(1, 2), 12.0 * 0.4, 30)
    torch.testing.assert_close(plan, expected, atol=2e-4, rtol=1e-4)
    # Positions are heard from the first step on, or from the first change of the weights that silence them.
    plan[:, :-1, :-1].diagonal(dim1=1, dim2=2).sum().backward()
    assert network.gnn.layers[0].mlp[-1].weight.grad.abs().max() > 0
    assert network.kenc.encoder[-1].weight.grad.abs().max() > 0 or width > size


def test_a_narrow_state_keeps_most_of_the_cosines():
    torch.manual_seed(0)
    network = SuperglueNetwork(SuperglueNetworkConfig(64, 32, layers=1, heads=2, encoder_widths=(8,)))
    start_from_descriptors(network, 10.0, 0.5)
    a = torch.nn.functional.normalize(torch.randn(1, 200, 64), dim=2)
    b = torch.nn.functional.normalize(a + 0.08 * torch.randn(a.shape), dim=2)
    xy, scores = torch.zeros(1, 200, 2), torch.zeros(1, 200)
    state = [network.final_proj(network.encode(xy, scores, d)) for d in (a, b)]
    found = torch.einsum("bcm,bcn->bmn", *state)[0].detach() / 32**0.5
    wanted = 10 * (a @ b.transpose(1, 2))[0]
    assert np.corrcoef(found.flatten(), wanted.flatten())[0, 1] > 0.6
    assert 0.8 < float(found.diagonal().mean() / wanted.diagonal().mean()) < 1.25


def test_sharpness_is_the_most_likely_of_the_grid():
    torch.manual_seed(1)
    b = torch.nn.functional.normalize(torch.randn(1, 40, 16), dim=2)
    a = torch.nn.functional.normalize(b[:, :30] + 0.1 * torch.randn(1, 30, 16), dim=2)
    of_a = torch.where(torch.arange(30) < 20, torch.arange(30), -1)[None]
    of_b = torch.where(torch.arange(40) < 20, torch.arange(40), -1)[None]
    labels = Labels(of_a, of_b)
    sharpness, least = fit_sharpness([(a, b)], [labels], 30)
    cosine = a @ b.transpose(1, 2)
    loss = lambda t, c: float(assignment_loss(ops.log_sinkhorn(t * cosine, t * c, 30), labels)[0])
    best = loss(sharpness, least)
    for t, c in ((5.0, 0.2), (60.0, 0.9), (20.0, 0.6), (10.0, 0.3)):
        assert best <= loss(t, c)


def test_untrained_it_is_no_worse_than_its_descriptors(task):
    figures = task.validate()
    assert figures["nn_recall"] > 0.02  # the descriptors are random, but not useless
    assert figures["recall"] > 0.5 * figures["nn_recall"]
    assert {"loss", "mixed_mma_3px", "nn_mixed_mma_3px", "ratio_mixed_correct"} <= figures.keys()
    assert task.network.training


def test_it_learns_the_pairs_that_it_sees(task):
    optimiser = torch.optim.Adam(task.network.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss, figures = task.loss(0, 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert float(figures["partners"]) > 2


def test_a_step_depends_on_its_number_alone(superpoint):
    first, second = make_task(superpoint), make_task(superpoint)
    second.loss(0, 0.0)
    assert torch.equal(first.loss(5, 0.5)[0], second.loss(5, 0.5)[0])
    assert not torch.equal(first.loss(6, 0.5)[0], second.loss(5, 0.5)[0])
    # Detectors take turns.
    alone = make_task(superpoint, detectors=("superpoint",))
    assert torch.equal(first.loss(6, 0.5)[0], alone.loss(6, 0.5)[0])
    assert not torch.equal(first.loss(5, 0.5)[0], alone.loss(5, 0.5)[0])


def test_trained_weights_are_read_by_the_matcher(superpoint, tmp_path):
    task = make_task(superpoint)
    schedule = Schedule(steps=3, minutes=None, validations=1, log_every=1)
    summary = train(task, schedule, tmp_path, torch.device("cpu"), lambda text: None)
    assert summary["steps"] == 3 and 0 <= summary["validation"]["mixed_mma_3px"] <= 1
    path = tmp_path / "superglue.safetensors"
    about = load_checkpoint(path, SuperglueNetwork.format)
    assert about.license == "Apache-2.0" and about.provenance["steps"] == 3
    assert len(about.provenance["superpoint"]) == 64
    json.dumps(about.provenance)
    threshold = summary["match_threshold"]
    assert threshold in GRID and about.config["match_threshold"] == threshold
    assert [row["threshold"] for row in about.provenance["match_thresholds"]] == list(GRID)
    assert json.loads((tmp_path / "summary.json").read_text())["match_thresholds"] == summary["match_thresholds"]
    # The matcher of the product and the one that validation judges find the same.
    product = SuperglueMatcher(SuperglueMatcherConfig(weights=path, device="cpu"))
    loaded, _ = load_trained(path, SuperglueNetwork, torch.device("cpu"))
    assert product.threshold == threshold == loaded.config.match_threshold
    a, b, _ = task._trial.examples[0]
    task.network.eval()
    height, width = SMALL.image_px
    sides = [(normalise_keypoints(k.xy, (width, height)), k.scores, k.descriptors) for k in (a, b)]
    mine = log_plan(task.network, a, b, SMALL.image_px, 100)[0].exp()
    from medrecon.matching.superglue_inference import Side

    theirs = next(
        product.network.log_assignments([(Side(*(t[0] for t in sides[0])), Side(*(t[0] for t in sides[1])))], 100)
    ).exp()
    torch.testing.assert_close(mine, theirs, atol=0.03, rtol=0.05)  # the file is in half precision


def test_a_finished_training_chooses_the_same_again(superpoint, tmp_path):
    """As weights need that were trained before thresholds were chosen."""
    schedule = Schedule(steps=2, minutes=None, validations=1, log_every=1)
    once = lambda: train(make_task(superpoint), schedule, tmp_path, torch.device("cpu"), lambda text: None)
    first, path = once(), tmp_path / "superglue.json"
    about = json.loads(path.read_text())
    old = about | {"config": {k: v for k, v in about["config"].items() if k != "match_threshold"}}
    path.write_text(json.dumps(old))
    assert SuperglueMatcher(SuperglueMatcherConfig(weights=path.with_suffix(".safetensors"))).threshold == 0.2
    again = once()
    assert again["steps"] == 2 and again["match_thresholds"] == first["match_thresholds"]
    assert json.loads(path.read_text())["config"] == about["config"]


@pytest.mark.parametrize("threshold", [GRID[0], GRID[3], GRID[7]])
def test_the_table_has_the_figures_of_validation(task, threshold):
    row = next(row for row in task.conclude()["match_thresholds"] if row["threshold"] == threshold)
    assert task.network.training
    task.network.eval()
    figures = task._trial.judge(matcher(task.network, SMALL.image_px, threshold))
    assert row["right"] == pytest.approx(figures["mixed_correct"])
    assert row["right"] + row["wrong"] == pytest.approx(figures["mixed_matches"])
    assert row["mma_3px"] == pytest.approx(figures["mixed_mma_3px"])


def test_identity_knows_the_superpoint_by_content(superpoint, tmp_path):
    other = tmp_path / "other.safetensors"
    save_network(other, small_superpoint(seed=1), "Apache-2.0", {})
    copy = tmp_path / "copy.safetensors"
    save_network(copy, small_superpoint(), "Apache-2.0", {})
    assert make_task(superpoint).identity() == make_task(copy).identity() != make_task(other).identity()


def test_superpoint_is_frozen_and_the_same(superpoint):
    network, _ = load_trained(superpoint, SuperpointNetwork, torch.device("cpu"))
    image = torch.rand(1, 1, 32, 40)
    for found, expected in zip(network(image), small_superpoint()(image)):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert isinstance(network, SuperpointNetwork) and not any(p.requires_grad for p in network.parameters())


def test_trial_counts_what_a_perfect_and_an_empty_matcher_find(superpoint):
    network, _ = load_trained(superpoint, SuperpointNetwork, torch.device("cpu"))
    trial = MatchingTrial(network, flat_pool(3, 1), 6, 40, (64, 80), 0)
    answer = {id(a.xy): labels.of_a.clamp(min=NONE) for a, _, labels in trial.examples}
    perfect = trial.judge(lambda a, b: answer[id(a.xy)])
    assert perfect["recall"] == 1 and perfect["mixed_mma_3px"] == 1
    assert perfect["mixed_correct"] == perfect["mixed_matches"] > 0
    nothing = trial.judge(lambda a, b: torch.full(a.valid.shape, NONE))
    assert nothing == {"mixed_mma_3px": 0.0, "mixed_correct": 0.0, "mixed_matches": 0.0, "recall": 0.0}
    close = trial.judge(nearest())
    assert 0 < close["mixed_mma_3px"] < 1 and close["mixed_correct"] < close["mixed_matches"]


def test_truth_is_exact_inside_autocast():
    pool = flat_pool(3, 2)
    plain = draw_pairs(pool, 4, (64, 80), 7)
    xy = torch.rand(4, 30, 2) * torch.tensor([80.0, 64.0])
    with torch.autocast("cpu", torch.bfloat16):
        half = draw_pairs(pool, 4, (64, 80), 7)
        moved, seen = half.a_to_b(xy)
    torch.testing.assert_close(half.image_a, plain.image_a)
    expected, visible = plain.a_to_b(xy)
    assert moved.dtype == torch.float32 and torch.equal(seen, visible) and bool(seen.any())
    torch.testing.assert_close(moved[seen], expected[seen])


def test_half_precision_changes_little(superpoint):
    task = make_task(superpoint)
    exact = task.loss(3, 0.5)[0]
    with torch.autocast("cpu", torch.bfloat16):
        half, figures = task.loss(3, 0.5)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0.1)


def test_sizes_that_cannot_be(superpoint):
    with pytest.raises(ConfigError, match="image_px"):
        dataclasses.replace(SMALL, image_px=(60, 80))
    with pytest.raises(ConfigError, match="detectors"):
        dataclasses.replace(SMALL, detectors=("harris",))
    with pytest.raises(ConfigError, match="heads"):
        make_task(superpoint, width=49)
