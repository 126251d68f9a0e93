# SPDX-License-Identifier: Apache-2.0
"""How it starts, learns in medrecon's trainer, moves Gaussians (by gsplat's own strategy) and resumes."""

import json

import numpy as np
import pytest
import torch
from medrecon_gsplat.ssim import ssim
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from test_gsplat_renderer import make, ready

from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.train import train
from medrecon.radiance.view_pool import ViewPool
from medrecon.testing import phantoms
from medrecon.types import SparseModel

pytestmark = pytest.mark.usefixtures("without_gpu")


def test_it_starts_at_the_points_with_their_colours():
    g = torch.Generator().manual_seed(1)
    for n_points, n in ((40, 60), (80, 60)):
        renderer, _ = ready(gaussians=n, sh_degree=0)
        points = 0.7 * torch.nn.functional.normalize(torch.randn(n_points, 3, generator=g), dim=1)
        colours = torch.rand(n_points, 3, generator=g)
        outside = torch.full((1, 3), 7.0)
        renderer.start(torch.cat([points, outside]), torch.cat([colours, outside]))
        apart = (renderer.splats["means"].detach()[:, None] - points).norm(dim=-1)
        once = min(n, n_points)
        first, nearest = apart[:once].min(1)
        assert first.max() == 0 and len(nearest.unique()) == once
        shown = 0.5 + 0.28209479177387814 * renderer.splats["sh"].detach()[:once, 0]
        torch.testing.assert_close(shown, colours[nearest])
        assert apart.min(1).values.max() < 0.5
    before = renderer.splats["means"].detach().clone()
    renderer.start(torch.zeros(0, 3), torch.zeros(0, 3))
    assert torch.equal(before, renderer.splats["means"])


def relocated():
    renderer, scene = ready(relocate_every=1)
    optimiser = renderer.optimiser(1e-9)
    with torch.no_grad():
        renderer.splats["opacities"].fill_(3.0)
        renderer.splats["opacities"][7] = -9.0
    rays = scene.rays(0)
    rgb = torch.full((len(rays), 3), 0.3)
    renderer.loss(rays, rgb, torch.ones(len(rays)), 0, torch.Generator())[0].backward()
    optimiser.step()
    before = renderer.splats["means"].detach().clone()
    renderer._relocate(600)
    return renderer, optimiser, before


def test_a_faded_gaussian_moves_to_an_opaque_one():
    torch.manual_seed(1)
    renderer, optimiser, before = relocated()
    s = renderer.splats
    home = int((before - s["means"][7].detach()).norm(dim=1).argmin())
    # (Opaque ones do not tremble, nearly.)
    assert home != 7 and torch.allclose(s["means"][7], before[home], atol=1e-4)
    pair = torch.sigmoid(s["opacities"][[7, home]].detach())
    assert torch.allclose(1 - (1 - pair[0]) * (1 - pair[1]), torch.sigmoid(torch.tensor(3.0)), atol=1e-4)
    assert optimiser.state[s["means"]]["exp_avg"][home].abs().max() == 0  # it learns anew
    assert set(optimiser.state) == set(renderer.parameters())
    torch.manual_seed(2)
    again, _, _ = relocated()
    assert all(torch.equal(s[k], again.splats[k]) for k in s)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six pictures of the textured sphere, and the sparse model a perfect structure from motion would give."""
    torch.set_num_threads(1)
    body = phantoms.views("sphere", 6, 24, 18)
    frames = phantoms.frame_set(tmp_path_factory.mktemp("sphere"), body)
    x = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    ids = [f.frame_id for f in frames.frames]
    sparse = SparseModel(
        cameras=dict.fromkeys(ids, body.camera), cam_from_world=dict(zip(ids, body.cam_from_world_mm)),
        points=10 * x.double().numpy(), colors=np.full((200, 3), 128, np.uint8), errors_px=np.full(200, 0.3),
        track_frame_ids=np.tile(np.array(ids[:2], np.int64), 200), track_keypoint_idx=np.zeros(400, np.int32),
        track_offsets=np.arange(0, 401, 2),
    )  # fmt: skip
    return frames, sparse.validate()


class Stop(Quiet):
    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def advance(self, n=1, **figures):
        self.left -= n
        if self.left == 0:
            raise KeyboardInterrupt


def test_it_fits_a_picture(data):
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24))
    rays, rgb = ViewPool.build(scene, frames, scene.train_ids).views[0]
    renderer = make(gaussians=200)
    renderer.setup(scene, scene.train_ids, 0)
    renderer.start(torch.from_numpy(scene.field_from_sfm.apply(sparse.points)).float(), torch.full((200, 3), 0.5))
    optimiser = renderer.optimiser(0.1)
    for group in optimiser.param_groups:
        group["lr"] *= group["rate"]
    figures = []
    for _ in range(60):
        loss, found = renderer.loss(rays, rgb.float() / 255, torch.ones(len(rays)), 0, torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        figures.append(found["psnr_db"])
    assert figures[-1] > figures[0] + 4 and figures[-1] > 16.5


def test_the_trainer_trains_it_and_a_stopped_training_goes_on_bit_for_bit(tmp_path, data):
    training = TrainingConfig(
        iterations=60, max_size_px=24, evaluate_every=20, holdout_every=6, pyramid=(), warmup_steps=0,
        learning_rate=0.1,
    )  # fmt: skip

    def renderer():
        made = make(gaussians=200, relocate_every=7)
        made._chain.refine_start_iter = 5
        return made

    train(*data, renderer(), training, tmp_path / "whole", 3, "cpu", Quiet())
    history = json.loads((tmp_path / "whole" / "history.json").read_text())
    losses = [h["loss"] for h in history]
    assert sum("heldout_psnr_db" in h for h in history) == 3 and sum(losses[-10:]) < 0.9 * sum(losses[:10])
    with pytest.raises(KeyboardInterrupt):
        train(*data, renderer(), training, tmp_path / "part", 3, "cpu", Stop(37))
    train(*data, renderer(), training, tmp_path / "part", 3, "cpu", Quiet())
    a, b = (load_file(tmp_path / d / "field.safetensors") for d in ("whole", "part"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_ssim_is_that_of_scikit_image():
    g = torch.Generator().manual_seed(0)
    a = torch.rand(40, 30, 3, generator=g)
    b = (a + 0.1 * torch.randn(40, 30, 3, generator=g)).clamp(0, 1)
    assert float(ssim(a, a)) == pytest.approx(1)
    # Amid black, so that both see the same beyond the border.
    a, b = (torch.nn.functional.pad(x, (0, 0, 12, 12, 12, 12)) for x in (a, b))
    true = structural_similarity(
        a.double().numpy(), b.double().numpy(), channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=1.0, full=True,
    )[1].mean()  # fmt: skip
    assert float(ssim(a, b)) == pytest.approx(true, abs=1e-4)
