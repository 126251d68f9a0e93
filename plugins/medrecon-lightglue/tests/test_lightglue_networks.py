# SPDX-License-Identifier: Apache-2.0
"""The networks against kornia's: the same random weights, in float64, give the same numbers."""

import crafted
import numpy as np
import pytest
import torch
from medrecon_lightglue.aliked_network import AlikedNetwork, refine
from medrecon_lightglue.disk_network import DiskNetwork
from medrecon_lightglue.extracting import strict_maxima
from medrecon_lightglue.lightglue_network import LightGlueNetwork, mutual

from medrecon.networks.checkpoint import load_checkpoint
from medrecon.testing import phantoms


@pytest.fixture(scope="module")
def kornia():
    return pytest.importorskip("kornia.feature", reason="kornia is not installed (a development dependency)")


def picture(height, width):
    image = phantoms.texture_image(height, width, seed=2)
    return torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255


def lively(network):
    """Weights so large that no part of the network is idle."""
    torch.manual_seed(1)
    for name, p in network.named_parameters():
        scale = 0.02 if "offset" in name and "weight" in name else 0.1 if p.ndim == 1 else p[0].numel() ** -0.5
        p.data = torch.randn_like(p) * scale + (1.0 if p.ndim == 1 and "bn" in name else 0.0)
    for name, b in network.named_buffers():
        if "running" in name:
            b.data = torch.rand_like(b) + 0.5
    return network.double().eval()


@torch.inference_mode()
def test_disk_is_kornias(kornia):
    ours = lively(DiskNetwork())
    theirs = kornia.DISK().double().eval()
    theirs.load_state_dict(ours.state_dict())
    x = picture(48, 64)
    scores, descriptors = theirs.heatmap_and_dense_descriptors(x)
    score, activations = ours(x)
    assert torch.allclose(score, scores[0, 0], atol=1e-9)
    pixels = torch.tensor([[0, 0], [63, 47], [5, 40], [30, 1], [63, 0]])
    expected = torch.nn.functional.normalize(descriptors[0][:, pixels[:, 1], pixels[:, 0]].T, dim=1)
    assert torch.allclose(ours.describe(activations, pixels), expected, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 96), (53, 81)])
@torch.inference_mode()
def test_aliked_is_kornias(kornia, size):
    if not hasattr(kornia, "ALIKED"):
        pytest.skip("this kornia has no ALIKED")
    ours = lively(AlikedNetwork())
    theirs = kornia.ALIKED("aliked-n16", detection_threshold=0.0, max_num_keypoints=50).double().eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = picture(*size)
    expected = theirs(x)[0]
    score, features = ours(x)
    pixels = strict_maxima(score, 2, -1.0)
    xy, scores = refine(score, pixels, 2)
    nearest = torch.cdist(expected.keypoints, xy).argmin(1)
    assert torch.allclose(xy[nearest], expected.keypoints, atol=1e-8)
    assert torch.allclose(scores[nearest], expected.keypoint_scores, atol=1e-8)
    assert torch.allclose(ours.describe(features, xy[nearest]), expected.descriptors, atol=1e-8)
    assert len(expected.keypoints) >= 5


@pytest.mark.parametrize("depth, width", [(None, None), (0.4, None), (None, 0.56), (0.9, 0.56)])
@pytest.mark.parametrize("dim, heads", [(64, 2), (96, 1)])
@torch.inference_mode()
def test_lightglue_is_kornias(kornia, depth, width, dim, heads):
    ours = lively(LightGlueNetwork(64, dim, 3, heads))
    for i in range(3):
        ours.log_assignment[i].matchability.weight *= 0.1
        ours.log_assignment[i].final_proj.weight.copy_(2 * torch.eye(dim))
        for half in (ours.transformers[i].self_attn, ours.transformers[i].cross_attn):
            half.ffn[3].weight *= 0.1
    for i in range(2):
        ours.token_confidence[i].token[0].bias += 2
    options = {"input_dim": 64, "descriptor_dim": dim, "n_layers": 3, "num_heads": heads, "flash": False}
    options |= {"depth_confidence": depth or -1, "width_confidence": width or -1, "filter_threshold": 0.0}
    theirs = kornia.LightGlue(None, **options).double().eval()
    assert theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys == ["confidence_thresholds"]
    pair = phantoms.feature_pair(n=60, n_extra=20, dimension=64)
    xy, d = zip(
        *((torch.from_numpy(f.xy).double(), torch.from_numpy(f.descriptors).double()) for f in (pair.a, pair.b))
    )
    size = torch.tensor([[640.0, 480.0]], dtype=torch.float64)
    sides = ({"keypoints": p[None], "descriptors": q[None], "image_size": size} for p, q in zip(xy, d))
    expected = theirs(dict(zip(("image0", "image1"), sides)))
    assignment, *left, layers = ours(*((p - size / 2) / 320 for p in xy), *d, depth, width)
    i, j, scores = mutual(assignment, 0.0)
    assert layers == expected["stop"]
    assert torch.equal(torch.stack([left[0][i], left[1][j]], 1), expected["matches"][0])
    assert torch.allclose(scores, expected["scores"][0], atol=1e-9)
    assert len(i) > 5


def test_published_names_are_tidied():
    """Old checkpoints number their layers by kind, and some hold the extractor as well."""
    state = LightGlueNetwork(64, 96, 2, 1).state_dict()
    old = {k.replace("transformers.0.self_attn", "self_attn.0"): v for k, v in state.items()}
    old = {k.replace("transformers.1.cross_attn", "cross_attn.1"): v for k, v in old.items()}
    old |= {"log_assignment.0.r": torch.ones(1), "confidence_thresholds": torch.ones(2)}
    whole = {f"matcher.{k}": v for k, v in old.items()} | {"extractor.a": torch.ones(1)}
    for one in (old, whole):
        tidied = LightGlueNetwork.tidy(one)
        assert tidied.keys() == state.keys()
        LightGlueNetwork.like(tidied).load_state_dict(tidied)


def test_strict_maxima_by_brute_force():
    score = torch.from_numpy(np.random.default_rng(0).integers(0, 30, (40, 31)).astype(np.float32))
    found = {tuple(p) for p in strict_maxima(score, 2, 5.0).tolist()}
    expected = set()
    for row in range(2, 38):
        for column in range(2, 29):
            window = score[row - 2 : row + 3, column - 2 : column + 3].flatten()
            if score[row, column] > 5 and (window >= score[row, column]).sum() == 1:
                expected.add((column, row))
    assert found == expected and len(found) > 10
    assert len(strict_maxima(torch.ones(4, 9), 2, 0.0)) == 0


def test_equal_entries_match_one_to_one():
    i, j, _ = mutual(torch.zeros(5, 7), 0.1)
    assert (i.tolist(), j.tolist()) == ([0], [0])
    assert all(len(t) == 0 for t in mutual(torch.zeros(0, 7), 0.1))


def test_crafted_checkpoints_are_whole(tmp_path):
    assert set(load_checkpoint(crafted.disk(tmp_path), "", part="extractor").state_dict) == set(
        DiskNetwork().state_dict()
    )
