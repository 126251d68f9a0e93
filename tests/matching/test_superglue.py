# SPDX-License-Identifier: Apache-2.0
"""SuperGlue: what is trained against what runs, batches, bounds, and input that cannot be used."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from medrecon.errors import AssetError, ConfigError, InputError, StageError
from medrecon.matching.superglue import SuperglueMatcher, SuperglueMatcherConfig
from medrecon.matching.superglue_inference import Side, SuperglueInference
from medrecon.matching.superglue_network import (
    SuperglueNetwork,
    SuperglueNetworkConfig,
    normalise_keypoints,
)
from medrecon.networks import linear as layers
from medrecon.networks.checkpoint import load_network, save_network
from medrecon.testing import phantoms
from medrecon.testing.networks import small_superglue, small_superpoint
from medrecon.types import Features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_network(path, small_superglue(), "Apache-2.0", {"made by": "a test"})
    return path


def make(weights, **options) -> SuperglueMatcher:
    return SuperglueMatcher(SuperglueMatcherConfig(weights=weights, device="cpu", **options))


def pair(n: int = 200, n_extra: int = 60, seed: int = 0) -> phantoms.FeaturePair:
    return phantoms.feature_pair(n, n_extra, dimension=32, extractor="superpoint", seed=seed)


def random_network(**size) -> SuperglueNetwork:
    """Every tensor random, so that no layer, bias or norm is without effect."""
    network, g = SuperglueNetwork(SuperglueNetworkConfig(**size)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=g) * 0.2 + (1.5 if "running_var" in name else 0))
    return network.eval()


def side(n: int, size: int, seed: int) -> Side:
    g = torch.Generator().manual_seed(seed)
    return Side(*(torch.rand(*shape, generator=g) - 0.5 for shape in ((n, 2), (n,), (n, size))))


def plan_of(network: SuperglueNetwork, a: Side, b: Side, iterations: int) -> torch.Tensor:
    with torch.no_grad():
        return network(*(t[None] for t in (*a, *b)), iterations=iterations)[0]


@pytest.mark.parametrize(
    "size",
    [
        {"descriptor_size": 16, "width": 16, "layers": 4, "encoder_widths": (8,)},
        {"descriptor_size": 20, "width": 24, "layers": 3, "heads": 3, "encoder_widths": (4, 8)},
        {"descriptor_size": 8, "width": 8, "layers": 1, "heads": 1, "encoder_widths": ()},
    ],
)
def test_inference_computes_what_is_trained(size):
    network = random_network(**size)
    inference = SuperglueInference(network, torch.device("cpu"), torch.float32)
    pairs = [(side(m, size["descriptor_size"], m), side(n, size["descriptor_size"], n)) for m, n in ((31, 40), (1, 7))]
    for (a, b), plan in zip(pairs, inference.log_assignments(pairs, 30)):
        torch.testing.assert_close(plan, plan_of(network, a, b, 30), atol=1e-4, rtol=1e-4)


def test_images_of_one_size_may_be_attended_to_together():
    network = random_network(descriptor_size=16, width=16, layers=4, encoder_widths=(8,))
    inference = SuperglueInference(network, torch.device("cpu"), torch.float32)
    sides = [side(33, 16, seed) for seed in range(6)]
    with torch.inference_mode():
        apart = inference.states(sides)
        inference.together = True
        torch.testing.assert_close(inference.states(sides), apart, atol=1e-5, rtol=1e-5)


def test_half_precision_is_near():
    network = random_network(descriptor_size=16, width=16, layers=4, encoder_widths=(8,))
    a, b = side(50, 16, 0), side(60, 16, 1)
    half = SuperglueInference(network, torch.device("cpu"), torch.bfloat16)
    plan = next(half.log_assignments([(a, b)], 30))
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan.exp(), plan_of(network, a, b, 30).exp(), atol=0.02, rtol=0)


def test_attention_in_blocks_and_without_onednn(monkeypatch):
    g = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 4, n, 16, generator=g, dtype=torch.float64) for n in (150, 70, 70))
    truth = torch.softmax(query @ key.transpose(-1, -2), -1) @ value
    monkeypatch.setattr(layers, "_TABLE_ELEMENTS", 0)  # two blocks of rows, the second not full
    for onednn in (layers._onednn(), False):
        monkeypatch.setattr(layers, "_onednn", lambda there=onednn: there)
        with torch.inference_mode():
            found = layers.attention(query.float(), key.float(), value.float())
        torch.testing.assert_close(found.double(), truth, atol=1e-5, rtol=1e-4)


def test_first_pixel_is_where_the_weights_learned_it():
    """The released network counts pixel centres from (0, 0) and divides by 0.7 of the longer side."""
    xy = normalise_keypoints(torch.tensor([[0.5, 0.5], [320.5, 240.5]]), (640, 480))
    np.testing.assert_allclose(xy, [[-320 / 448, -240 / 448], [0, 0]], atol=1e-7)


def with_threshold(weights, folder, threshold):
    """A copy of the weights that says from what probability on its matches count; None: says nothing."""
    path = folder / f"own-{threshold}.safetensors"
    path.write_bytes(weights.read_bytes())
    about = json.loads(weights.with_suffix(".json").read_text())
    about["config"].pop("match_threshold")
    about["config"] |= {} if threshold is None else {"match_threshold": threshold}
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


@pytest.mark.parametrize("own, option, used", [(0.9, None, 0.9), (0.9, 0.0, 0.0), (0.9, 0.3, 0.3), (None, None, 0.2)])
def test_matches_count_as_the_weights_say_unless_the_option_does(weights, tmp_path, own, option, used):
    p, path = pair(), with_threshold(weights, tmp_path, own)
    matcher, every = make(path, match_threshold=option), make(path, match_threshold=0.0).match(p.a, p.b)
    found = matcher.match(p.a, p.b)
    assert matcher.config.settled().match_threshold == used and matcher.config.match_threshold == option
    kept = every.scores > np.float32(used)
    assert np.array_equal(found.idx, every.idx[kept]) and (used == 0) == kept.all()


def test_the_released_weights_keep_the_papers_threshold(tmp_path):
    torch.save(small_superglue().state_dict(), tmp_path / "superglue_indoor.pth")
    assert SuperglueMatcherConfig(weights=tmp_path / "superglue_indoor.pth").settled().match_threshold == 0.2


def test_options_stay_open_where_the_weights_cannot_be_read(weights, tmp_path):
    missing = SuperglueMatcherConfig(weights=tmp_path / "none.safetensors")
    assert missing.settled() == missing
    damaged = with_threshold(weights, tmp_path, 0.5)
    damaged.with_suffix(".json").write_text("{")
    assert SuperglueMatcherConfig(weights=damaged).settled().match_threshold is None
    assert SuperglueMatcherConfig(weights="no-such-asset").settled().match_threshold is None


def test_swapped_images_swap_the_matches(weights):
    p, matcher = pair(), make(weights)
    there, back = matcher.match(p.a, p.b), matcher.match(p.b, p.a)
    assert len(there) > 150
    assert {tuple(m) for m in there.idx.tolist()} == {tuple(m[::-1]) for m in back.idx.tolist()}


def test_batches_change_nothing_but_rounding(weights):
    matcher = make(weights)
    pairs = [(p.a, p.b) for p in (pair(n, seed=n) for n in (40, 100, 100, 3, 60))]
    pairs.insert(2, (pairs[0][0], phantoms.take(pairs[0][1], np.zeros(0, int))))
    alone = [matcher.match(*p) for p in pairs]
    for size in (1, 3, 16):
        matcher.batch_size = size
        for one, together, (a, b) in zip(alone, matcher.match_pairs(pairs), pairs):
            together.validate(len(a), len(b))
            np.testing.assert_array_equal(one.idx, together.idx)
            np.testing.assert_allclose(one.scores, together.scores, atol=1e-5)
    assert len(alone[2]) == 0 and len(alone[1]) > 50


def test_pairs_side_by_side_are_as_alone(weights):
    matcher = make(weights)
    assert matcher.thread_safe is True
    pairs = [(p.a, p.b) for p in (pair(n, seed=n) for n in (150, 30, 90, 200) * 3)]
    alone = [matcher.match(*p) for p in pairs]
    with ThreadPoolExecutor(4, initializer=lambda: torch.set_num_threads(1)) as pool:
        for one, other in zip(alone, pool.map(lambda p: matcher.match(*p), pairs)):
            np.testing.assert_array_equal(one.idx, other.idx)
            np.testing.assert_array_equal(one.scores, other.scores)


def test_small_network_learns():
    """From a random start to matching noisy descriptors: gradients reach everything that forward() uses."""
    torch.manual_seed(0)
    network = SuperglueNetwork(
        SuperglueNetworkConfig(descriptor_size=8, width=16, layers=2, heads=2, encoder_widths=(8,))
    )
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        d = torch.nn.functional.normalize(torch.randn(4, 24, 8), dim=2)
        xy, scores, order = torch.rand(4, 24, 2) - 0.5, torch.rand(4, 24), torch.randperm(24)
        other = torch.nn.functional.normalize(d + 0.1 * torch.randn(d.shape), dim=2)[:, order]
        plan = network(xy, scores, d, xy[:, order], scores[:, order], other, iterations=10)
        loss = -plan[:, order, torch.arange(24)].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_thirty_thousand_keypoints_are_bounded(weights):
    """The strongest are matched with each other; the others stay unmatched."""
    small = pair(n=400, n_extra=0)
    n = 30000

    def crowd(f: Features, seed: int) -> Features:
        rng = np.random.default_rng(seed)
        extra = rng.normal(size=(n - len(f), 32))
        rows = np.concatenate([extra / np.linalg.norm(extra, axis=1, keepdims=True), f.descriptors]).astype(np.float32)
        xy = np.concatenate([rng.uniform(0, 480, (n - len(f), 2)), f.xy]).astype(np.float32)
        scores = np.concatenate([rng.uniform(0, 0.5, n - len(f)), np.full(len(f), 0.9)]).astype(np.float32)
        return Features(xy, scores, rows, "l2", f.image_size, "superpoint").validate()

    a, b = crowd(small.a, 1), crowd(small.b, 2)
    found = make(weights, max_keypoints=len(small.a), sinkhorn_iterations=20).match(a, b).validate(n, n)
    plain = make(weights, sinkhorn_iterations=20).match(small.a, small.b)
    assert len(plain) > 300
    np.testing.assert_array_equal(found.idx - (n - len(small.a)), plain.idx)
    assert len(make(weights, sinkhorn_iterations=1).match(a, b)) <= 4096


def test_one_keypoint_against_many(weights):
    p = pair()
    one = phantoms.take(p.a, p.true_idx[:1, 0])
    assert make(weights).match(one, p.b).idx.tolist() == [[0, p.true_idx[0, 1]]]


@pytest.mark.parametrize("metric, dimension, says", [("l2", 128, "l2 descriptors of 128"), ("hamming", 32, "32 bytes")])
def test_other_descriptors_are_refused(weights, metric, dimension, says):
    p = phantoms.feature_pair(dimension=dimension, metric=metric, extractor="other")
    with pytest.raises(InputError) as caught:
        make(weights).match(p.a, p.b)
    assert says in caught.value.cause and "'other'" in caught.value.cause


def test_numbers_that_overflow_are_an_error(tmp_path):
    network = small_superglue()
    with torch.no_grad():
        network.gnn.layers[0].mlp[-1].bias.fill_(3e38)
        network.gnn.layers[1].mlp[-1].bias.fill_(3e38)
    save_network(tmp_path / "big.safetensors", network, "", {})
    with pytest.raises(StageError, match="finite"):
        make(tmp_path / "big.safetensors").match(pair().a, pair().b)


def test_checkpoints_that_are_none(tmp_path, weights):
    truncated = tmp_path / "truncated.pth"
    torch.save(small_superglue().state_dict(), truncated)
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    foreign = tmp_path / "foreign.pth"
    torch.save(small_superpoint().state_dict(), foreign)
    other = tmp_path / "other.safetensors"
    save_network(other, small_superpoint(), "", {})
    smaller = tmp_path / "smaller.pth"  # a PyTorch file is taken for the network of the paper
    torch.save(small_superglue().state_dict(), smaller)
    for path in (truncated, foreign, other, smaller, tmp_path / "missing.pth"):
        with pytest.raises(AssetError) as caught:
            make(path)
        assert path.name in caught.value.cause and caught.value.remedy
    odd = tmp_path / "odd.safetensors"
    save_network(odd, small_superglue(), "", {})
    about = odd.with_suffix(".json")
    about.write_text(about.read_text().replace('"heads": 4', '"heads": 5'))
    with pytest.raises(AssetError, match="multiple of the 5 heads"):
        load_network(odd, SuperglueNetwork)


def test_gpu_that_is_not_there(weights, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        SuperglueMatcher(SuperglueMatcherConfig(weights=weights, device="cuda"))


def test_names_its_assets(weights):
    assert SuperglueMatcherConfig().assets() == ("superglue-outdoor",)
    assert SuperglueMatcherConfig(weights="superglue-indoor").assets() == ("superglue-indoor",)
    assert SuperglueMatcherConfig(weights=str(weights)).assets() == ()
