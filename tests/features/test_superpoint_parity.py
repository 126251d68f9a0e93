# SPDX-License-Identifier: Apache-2.0
"""SuperPoint against the ``transformers`` library's, given the same weights: made-up ones, and the released ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon import assets
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.images import cv2, read_any, to_grey
from medrecon.networks.checkpoint import load_network, save_network
from medrecon.testing import phantoms
from medrecon.testing.networks import small_superpoint

pytest.importorskip("transformers", reason="transformers is the independent implementation")

from peers.superpoint_transformers import run, transformers_superpoint  # noqa: E402

CLIP = Path(__file__).parents[3] / "shared" / "data" / "endo.mp4"


def compare(network: SuperpointNetwork, weights: Path, image: np.ndarray, **options) -> tuple[float, int]:
    """Asserts equal scores and descriptors of shared keypoints; returns the share of shared ones and their number."""
    theirs = {
        "nms_radius_px": "nms_radius", "border_px": "border_removal_distance", "threshold": "keypoint_threshold"
    }  # fmt: skip
    model = transformers_superpoint(network, **{theirs[k]: v for k, v in options.items()})
    x = torch.from_numpy(np.ascontiguousarray(to_grey(image)))[None, None] / 255
    xy, scores, descriptors = (t.numpy() for t in run(model, x))
    # The library forgets the border on the right and below (it takes pixels for cells there); the released model does not.
    size, border = np.array(x.shape[:1:-1]) // 8 * 8, options.get("border_px", 4)
    keep = (xy < size - border - 0.5).all(1)
    xy, scores, descriptors = xy[keep], scores[keep], descriptors[keep]
    config = SuperpointExtractorConfig(weights=weights, max_keypoints=None, max_size_px=None, device="cpu", **options)
    ours = SuperpointExtractor(config).extract(image).validate()

    place = {tuple(p): i for i, p in enumerate(np.round(xy + 0.5, 2).tolist())}
    pairs = [(i, place[p]) for i, p in enumerate(map(tuple, ours.xy.tolist())) if p in place]
    mine, other = np.array(pairs, int).reshape(-1, 2).T
    assert np.abs(ours.xy[mine] - xy[other] - 0.5).max(initial=0) < 0.01
    np.testing.assert_allclose(ours.scores[mine], scores[other], atol=1e-4)
    np.testing.assert_allclose(ours.descriptors[mine], descriptors[other], atol=1e-4)
    return len(pairs) / max(len(xy), len(ours), 1), len(pairs)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(120, 160), (99, 133), (16, 23)])
@pytest.mark.parametrize("options", [{}, {"nms_radius_px": 2, "border_px": 0, "threshold": 0.02}])
def test_made_up_weights(tmp_path, seed, size, options):
    network = small_superpoint(seed)
    save_network(tmp_path / "net.safetensors", network, "", {})
    share, n = compare(
        network, tmp_path / "net.safetensors", phantoms.texture_image(*size, seed=seed, cell_px=9), **options
    )
    assert share == 1 and (n > 50 or min(size) < 50)


def photographs() -> dict[str, np.ndarray]:
    """Real pictures that scikit-image carries, and frames of the endoscopy clip where it is at hand."""
    folder = Path(pytest.importorskip("skimage").__file__).parent / "data"
    names = ["astronaut.png", "camera.png", "coins.png", "cell.png", "motorcycle_left.png", "retina.jpg", "brick.png"]
    pictures = {n: read_any(folder / n) for n in names if (folder / n).is_file()}
    # Whole, the largest would take the independent implementation seconds each.
    pictures = {n: p[:480, :640].copy() for n, p in pictures.items()}
    if CLIP.is_file():
        clip = cv2.VideoCapture(str(CLIP))
        for i in (0, 120):
            clip.set(cv2.CAP_PROP_POS_FRAMES, i)
            pictures[f"frame {i}"] = cv2.cvtColor(cv2.resize(clip.read()[1], (640, 360)), cv2.COLOR_BGR2RGB)
    return pictures


def test_released_weights_on_real_pictures():
    weights = assets.path("superpoint")
    if weights is None:
        pytest.skip("the asset superpoint has not been fetched")
    network = load_network(weights, SuperpointNetwork)
    shares = {name: compare(network, weights, picture) for name, picture in photographs().items()}
    assert len(shares) >= 5
    for name, (share, n) in shares.items():
        assert share >= 0.995 and n >= 30, f"{name}: {share:.4f} of {n}"
