# SPDX-License-Identifier: Apache-2.0
"""What a renderer of whole views gets: rays that know their camera, one picture per step, the sparse points once."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.config.base import ComponentConfig
from medrecon.errors import StageError
from medrecon.progress import Quiet
from medrecon.radiance import Renderer, TrainingConfig
from medrecon.radiance.train import train
from medrecon.testing import phantoms
from medrecon.types import Camera, RenderOut

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import ball  # noqa: E402


@pytest.mark.parametrize("model", ["pinhole", "distorted"])
def test_rays_know_their_pixels(model):
    """A ray's own direction against the one that its camera gives its pixel, however the rays were cut."""
    scene = phantoms.scene()
    camera = scene.cameras[1]
    if model == "distorted":
        camera = Camera("SIMPLE_RADIAL", 24, 18, (*camera.focal_px[:1], 12.0, 9.0, -0.2))
    rays = scene.camera_rays(camera, scene.cam_from_sfm[1], scene.near_far[1], 1, stride=2)
    some = rays[torch.tensor([5, 40, 7, 7])][1:]
    view = some.to("cpu").view
    assert view.camera == camera and len(rays.view.pixels) == len(rays) == 12 * 9
    v, u = np.divmod(view.pixels.numpy(), 24)
    assert (u % 2 == 0).all() and (v % 2 == 0).all()
    in_camera = camera.unproject(np.stack([u + 0.5, v + 0.5], -1))
    assert np.allclose(some.directions.numpy(), in_camera @ view.cam_from_field.rotation, atol=1e-6)
    assert np.allclose(some.origins.numpy(), view.cam_from_field.center, atol=1e-6)
    assert replace(some, near=some.far).view is some.view and len(some[:0].view.pixels) == 0


class Palette(Renderer):
    """One colour for everything; notes what it is given."""

    name, whole_views, iterations = "palette", True, 12

    def setup(self, scene, frame_ids, seed):
        self.colour = torch.nn.Parameter(torch.full((3,), 0.5))
        self.batches, self.looked, self.points = [], [], []

    def start(self, points, colours):
        self.points.append((points, colours))

    def render(self, rays, appearance=None):
        self.looked.append(rays)
        one = rays.near[:, 0].clone()
        return RenderOut(self.colour.expand(len(rays), 3), one, torch.ones_like(one))

    def loss(self, rays, rgb, weight, step, generator):
        self.batches.append((rays, rgb))
        return ((self.colour - rgb) ** 2).mean(), {"psnr_db": 0.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("views")
    mask = np.ones((24, 24), bool)
    mask[4:9, 3:20] = False
    frames, sparse = ball(folder / "data", n=8, size=24, masks={13: mask})
    renderer = Palette(ComponentConfig())
    training = TrainingConfig(max_size_px=24, evaluate_every=6, pyramid=(0.5,), holdout_every=4)
    train(frames, sparse, renderer, training, folder / "out", 0, "cpu", Quiet())
    return folder, frames, sparse, mask, renderer


def test_a_step_sees_all_usable_pixels_of_one_picture(trained):
    folder, frames, _, mask, renderer = trained
    assert len(renderer.batches) == 12
    seen = set()
    for step, (rays, rgb) in enumerate(renderer.batches):
        size = 12 if step < 6 else 24
        frame_id = int(rays.frame_ids[0])
        seen.add(frame_id)
        assert (rays.frame_ids == frame_id).all() and rays.view.camera.width_px == size
        if size == 24:
            usable = mask.ravel() if frame_id == 13 else np.ones(24 * 24, bool)
            assert (rays.view.pixels.numpy() == np.flatnonzero(usable)).all()
            picture = frames.by_id()[frame_id].load_image().reshape(-1, 3)[usable]
            assert ((rgb * 255).round().byte().numpy() == picture).all()
        elif frame_id == 13:  # a reduced pixel is usable if all that it was made from are
            assert len(rays) == 12 * 12 - 3 * 9
    held_out = {int(r.frame_ids[0]) for r in renderer.looked}
    assert len(seen) > 2 and held_out and not seen & held_out
    assert all(len(r) == 24 * 24 for r in renderer.looked)
    history = json.loads((folder / "out" / "history.json").read_text())
    pictures = np.concatenate([frames.by_id()[i].load_image().reshape(-1, 3) for i in sorted(held_out)]) / 255
    mse = ((renderer.colour.detach().numpy() - pictures) ** 2).mean()
    assert history[-1]["heldout_psnr_db"] == pytest.approx(-10 * np.log10(mse), abs=1e-3)


def test_the_sparse_points_come_once_in_the_field_frame(trained):
    _, _, sparse, _, renderer = trained
    ((points, colours),) = renderer.points
    assert len(points) == len(sparse.points) and torch.allclose(colours, torch.tensor(128 / 255))
    centre = points.mean(0)
    radius = (points - points.mean(0)).norm(dim=1).mean()
    true = sparse.points - sparse.points.mean(0)
    scale = float(radius) / np.linalg.norm(true, axis=1).mean()
    assert np.allclose((points - centre).numpy(), true * scale, atol=1e-4) and points.abs().max() <= 1.01


def test_masks_that_hide_everything(tmp_path):
    ids = [10 + 3 * k for k in range(4)]
    frames, sparse = ball(tmp_path, n=4, size=24, masks={i: np.zeros((24, 24), bool) for i in ids})
    with pytest.raises(StageError, match="masks hide everything"):
        train(frames, sparse, Palette(ComponentConfig()), TrainingConfig(), tmp_path / "out", 0, "cpu", Quiet())
