# SPDX-License-Identifier: Apache-2.0
"""SuperPoint with made-up weights: strips, suppression, sampling and masks against plain versions; bad input."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from peers.superpoint_eager import superpoint as eager
from peers.superpoint_eager import suppress
from pydantic import ValidationError

from medrecon import assets
from medrecon.errors import AssetError, ConfigError, InputError, StageError
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.features.superpoint_encoder import encode_in_strips
from medrecon.features.superpoint_keypoints import local_maxima, score_map, subpixel_offsets, window_max
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.networks.checkpoint import load_network, save_network
from medrecon.testing import phantoms
from medrecon.testing.networks import small_superpoint


@pytest.fixture(scope="module")
def image():
    return phantoms.texture_image(203, 318, seed=4, cell_px=14)[..., 1].copy()


@pytest.fixture
def make(small_weights):
    def make(weights=small_weights, **options):
        return SuperpointExtractor(SuperpointExtractorConfig(weights=weights, device="cpu", **options))

    return make


@pytest.mark.parametrize("size", [(8, 8), (9, 23), (101, 75)])
@pytest.mark.parametrize("strip_bytes", [1, 9000, 1 << 30])
def test_strips_change_nothing(size, strip_bytes):
    network = small_superpoint().to(memory_format=torch.channels_last)
    x = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(encode_in_strips(network, x, strip_bytes), network.encode(x), rtol=1e-5, atol=1e-5)


def test_threads_change_nothing_and_are_left_as_they_were(make, image):
    def threads_of_a_new_thread():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.get_num_threads).result()

    before, found = torch.get_num_threads(), []
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            found.append(make().extract(image))
            assert torch.get_num_threads() == threads_of_a_new_thread() == n
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].xy, found[1].xy)
    np.testing.assert_allclose(found[0].descriptors, found[1].descriptors, atol=1e-5)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_suppression_equals_the_dense_one_ties_included(radius, levels):
    generator = torch.Generator().manual_seed(radius * 31 + levels)
    for size in ((1, 1), (5, 70), (61, 83)):
        scores = torch.randint(0, levels, size, generator=generator) / levels
        kept = local_maxima(scores, radius)
        assert torch.equal(torch.where(kept, scores, 0.0), suppress(scores[None], radius)[0])


def test_window_maximum_by_definition():
    x = torch.rand(13, 17, generator=torch.Generator().manual_seed(0))
    for radius in (0, 1, 3, 5, 20):
        expected = [
            [x[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1].max() for j in range(17)]
            for i in range(13)
        ]
        assert torch.equal(window_max(x, radius), torch.tensor(expected))


def test_score_map_puts_each_channel_where_the_paper_says():
    """Channel 8 i + j of a cell is its pixel (i, j); channel 64 is "no keypoint"."""
    logits = torch.zeros(65, 3, 4)
    logits[8 * 5 + 2, 1, 3] = 20.0
    logits[64, 0, 0] = 20.0
    scores = score_map(logits)
    assert scores.shape == (24, 32)
    assert np.unravel_index(int(scores.argmax()), scores.shape) == (8 + 5, 24 + 2)
    assert scores[:8, :8].max() < 1e-8 and torch.isclose(scores[20, 3], torch.tensor(1 / 65))


@pytest.mark.parametrize("radius, border", [(4, 4), (2, 0), (0, 9), (9, 1)])
def test_same_as_the_plain_version(make, small_weights, image, radius, border):
    found = make(max_keypoints=None, nms_radius_px=radius, border_px=border).extract(image).validate()
    x = torch.from_numpy(image)[None, None] / 255
    xy, scores, descriptors = eager(load_network(small_weights, SuperpointNetwork), x, radius, 0.005, border)
    order = np.lexsort(found.xy.T)  # theirs come row by row; scores a rounding apart may change places
    assert len(xy) > 100
    np.testing.assert_array_equal(found.xy[order], xy.numpy() + 0.5)
    np.testing.assert_allclose(found.scores[order], scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.descriptors[order], descriptors.numpy(), atol=1e-4)


def test_subpixel_offsets_find_the_centre_of_a_blob():
    rng = np.random.default_rng(2)
    true = rng.uniform(-0.45, 0.45, (50, 2))
    y, x = np.mgrid[:20, :20]
    for offset in true:
        blob = np.exp(-((x - 9 - offset[0]) ** 2 + (y - 8 - offset[1]) ** 2) / (2 * 0.7**2)).astype(np.float32)
        found = subpixel_offsets(torch.from_numpy(blob), np.array([8]), np.array([9]))
        np.testing.assert_allclose(found[0], offset, atol=0.03)
    corner = torch.zeros(6, 6)
    corner[0, 0], corner[0, 2] = 1, 0.9
    assert np.abs(subpixel_offsets(corner, np.array([0]), np.array([0]))).max() < 0.5


def test_subpixel_moves_keypoints_within_their_pixel_and_nothing_else(make, image):
    plain, fine = make().extract(image), make(subpixel=True).extract(image)
    assert 0 < np.abs(fine.xy - plain.xy).max() < 0.5
    np.testing.assert_array_equal(plain.scores, fine.scores)
    np.testing.assert_array_equal(plain.descriptors, fine.descriptors)


@pytest.mark.parametrize("size", [150, 190, 250])
def test_subpixel_never_steps_into_the_mask_of_a_shrunk_picture(make, image, size):
    mask = np.random.default_rng(size).random(image.shape) < 0.5
    found = make(subpixel=True, max_size_px=size, threshold=0.0).extract(image, mask)
    plain = make(max_size_px=size, threshold=0.0).extract(image, mask)
    row, column = np.floor(found.xy[:, 1]).astype(int), np.floor(found.xy[:, 0]).astype(int)
    assert len(found) == len(plain) > 10 and mask[row, column].all()
    assert (found.xy != plain.xy).any()


def test_strongest_first_and_cut(make, image):
    everything, few = make(max_keypoints=None).extract(image), make(max_keypoints=50).extract(image)
    keys = np.stack([-everything.scores, everything.xy[:, 1], everything.xy[:, 0]])
    assert (np.lexsort(keys[::-1]) == np.arange(len(everything))).all()
    np.testing.assert_array_equal(few.xy, everything.xy[:50])
    np.testing.assert_allclose(np.linalg.norm(everything.descriptors, axis=1), 1, atol=1e-5)


def test_a_mask_only_removes(make):
    """What is computed round the mask's box is what the whole picture gives."""
    image = phantoms.texture_image(303, 418, seed=5, cell_px=14)
    extractor = make(max_keypoints=None)
    full = extractor.extract(image)
    column, row = full.xy.astype(int).T
    for top, bottom, left, right in ((0, 40, 0, 50), (130, 160, 150, 190), (250, 303, 350, 418), (0, 303, 100, 110)):
        mask = np.zeros(image.shape[:2], bool)
        mask[top:bottom, left:right] = True
        mask[top : top + 5, left : left + 9] = False
        inside = mask[row, column]
        found = extractor.extract(image, mask)
        assert inside.sum() > 5
        np.testing.assert_array_equal(found.xy, full.xy[inside])
        np.testing.assert_allclose(found.scores, full.scores[inside], atol=1e-6)
        np.testing.assert_allclose(found.descriptors, full.descriptors[inside], atol=1e-5)


def test_the_cut_comes_after_the_mask(make, image):
    mask = np.zeros(image.shape, bool)
    mask[:, 200:] = True
    few, all_of_it = make(max_keypoints=20).extract(image, mask), make(max_keypoints=None).extract(image, mask)
    assert len(few) == 20 and (few.xy == all_of_it.xy[:20]).all()


def test_shrunk_pictures_keep_their_coordinates_and_masks(make):
    image = phantoms.texture_image(200, 320, seed=4, cell_px=14)
    big = np.repeat(np.repeat(image, 2, 0), 2, 1)  # area averaging undoes this exactly
    mask = np.zeros(big.shape[:2], bool)
    mask[31:301, 55:500] = True
    small, shrunk = make().extract(image), make(max_size_px=320).extract(big)
    np.testing.assert_array_equal(shrunk.xy, 2 * small.xy)
    column, row = make(max_size_px=320).extract(big, mask).xy.astype(int).T
    assert len(row) > 20 and mask[row, column].all()


def test_wide_and_awkward_pictures(make, small_weights):
    wide = np.tile(phantoms.texture_image(40, 1000, seed=1, cell_px=12), (1, 16, 1))
    found = make(max_size_px=None).extract(wide).validate()
    assert len(found) == 1024 and found.xy[:, 0].max() > 15_000
    assert len(make(max_size_px=64).extract(wide)) == 0  # shrunk to less than a cell
    # A last cell that is not whole holds nothing.
    assert (make(border_px=0, threshold=0).extract(wide[:23, :39]).xy < [32, 16]).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (7, 400), (8, 8), (400, 7)])
def test_tiny_pictures(make, size):
    found = make(threshold=0).extract(phantoms.texture_image(*size)).validate()
    assert found.descriptors.shape == (len(found), 32)
    if min(size) < 8:
        assert len(found) == 0


def test_nothing_to_see(make, image):
    for value in (0, 128, 255):
        assert len(make().extract(np.full((64, 64), value, np.uint8)).validate()) == 0
    assert len(make().extract(image, np.zeros(image.shape, bool)).validate()) == 0


def test_wrong_input_is_named(make, image):
    with pytest.raises(InputError, match="uint8"):
        make().extract(image.astype(np.float32))
    with pytest.raises(InputError, match="mask is 10x10"):
        make().extract(image, np.ones((10, 10), bool))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "precision, least, difference", [("fp32", 0.995, 1e-4), ("fp16", 0.8, 0.1), ("bf16", 0.5, 0.5)]
)
def test_gpu_finds_what_the_cpu_finds(make, small_weights, image, precision, least, difference):
    config = SuperpointExtractorConfig(weights=small_weights, device="cuda", precision=precision, max_keypoints=None)
    extractor, cpu = SuperpointExtractor(config), make(max_keypoints=None).extract(image)
    gpu = extractor.extract(image).validate()
    place = {tuple(p): i for i, p in enumerate(cpu.xy.tolist())}
    i, j = np.array([(i, place[p]) for i, p in enumerate(map(tuple, gpu.xy.tolist())) if p in place]).T
    assert len(i) >= least * max(len(cpu), len(gpu))
    np.testing.assert_allclose(gpu.descriptors[i], cpu.descriptors[j], atol=difference)
    again = extractor.extract(image)
    assert (again.xy == gpu.xy).all() and (again.descriptors == gpu.descriptors).all()


def test_options_that_cannot_be(make):
    with pytest.raises(ValidationError, match="precision fp16 is for GPUs"):
        make(precision="fp16")
    with pytest.raises(ValidationError):
        make(max_keypoints=0)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            SuperpointExtractor(SuperpointExtractorConfig(device="cuda"))


def test_weights_by_name_are_announced(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path))
    assert SuperpointExtractorConfig().assets() == ("superpoint",)
    assert SuperpointExtractorConfig(weights=str(tmp_path / "a.safetensors")).assets() == ()
    with pytest.raises(AssetError, match="superpoint"):
        SuperpointExtractor(SuperpointExtractorConfig())


def test_round_trip_and_damaged_checkpoints(make, small_weights, tmp_path, image):
    copy = tmp_path / "copy.safetensors"
    save_network(copy, load_network(small_weights, SuperpointNetwork), "MIT", {})
    assert (make(weights=copy).extract(image).descriptors == make().extract(image).descriptors).all()
    about = json.loads(copy.with_suffix(".json").read_text())
    for config, why in (
        ({"encoder_widths": [8, 8, 16, 10**9]}, "encoder_widths.3"),
        ({"encoder_widths": [8, 8, 16]}, "encoder_widths"),
        ({"depth": 3}, "depth"),
        ({**about["config"], "head_width": 64}, "'convDa.bias' has the shape"),
        ({}, "has the shape"),
    ):
        copy.with_suffix(".json").write_text(json.dumps(about | {"config": config}))
        with pytest.raises(AssetError, match=f"copy.safetensors.*{why}"):
            load_network(copy, SuperpointNetwork)
    copy.with_suffix(".json").write_text(json.dumps(about))
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.raises(AssetError, match="copy.safetensors"):
        make(weights=copy)


def test_original_form_loads_strictly(make, tmp_path):
    """The released file holds the state dict by itself, of the paper's size."""
    state = SuperpointNetwork().state_dict()
    torch.save(state, tmp_path / "superpoint_v1.pth")
    network = load_network(tmp_path / "superpoint_v1.pth", SuperpointNetwork)
    assert sum(p.numel() for p in network.parameters()) == 1_300_865
    for change in ({"extra": torch.ones(1)}, {"convPb.weight": torch.ones(64, 256, 1, 1)}):
        torch.save(state | change, tmp_path / "foreign.pth")
        with pytest.raises(AssetError, match="foreign.pth"):
            load_network(tmp_path / "foreign.pth", SuperpointNetwork)


def test_overflow_is_an_error(make, tmp_path, image):
    network = small_superpoint()
    with torch.no_grad():
        network.conv4b.weight.mul_(1e38)
        network.conv4a.weight.mul_(1e30)
    save_network(tmp_path / "huge.safetensors", network, "", {})
    with pytest.raises(StageError, match="not finite"):
        make(weights=tmp_path / "huge.safetensors").extract(image)


def test_network_can_be_trained(image):
    network = small_superpoint().train()
    logits, descriptors = network(torch.from_numpy(image[None, None, :48, :64]) / 255)
    (logits.logsumexp(1).mean() + descriptors[:, 0].mean()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in network.parameters())


def test_released_weights_have_the_networks_shape():
    path = assets.path("superpoint")
    if path is None:
        pytest.skip("the asset superpoint has not been fetched")
    assert load_network(path, SuperpointNetwork).config == SuperpointNetwork().config
