# SPDX-License-Identifier: Apache-2.0
"""Attenuation: line integrals of a ball and a slab in closed form, the law of Beer and Lambert, gradients, bounds."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon.errors import InputError, StageError
from medrecon.images import write_png
from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.train import train
from medrecon.radiance.view_box import common_box
from medrecon.testing import phantoms
from medrecon.types import Camera, Frame, FrameSet, RayBatch, SparseModel

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import CENTRE, DISTANCE, RADIUS, cameras  # noqa: E402

SMALL = {"levels": 3, "finest": 32, "log2_size": 12, "samples": 64, "samples_per_batch": 4096}
WHITE, MU = 4.0, 0.15  # the ball's greatest line integral is 3


def make(**options):
    return medrecon.create("renderer", "xray", **{**SMALL, **options})


def ready(scene=None, seed=0, **options):
    renderer = make(**options)
    scene = scene or phantoms.scene()
    renderer.setup(scene, scene.train_ids, seed)
    return renderer


def parallel_rays(offsets, slant=1.0):
    """Rays along z at the given distances from the z axis; ``slant`` stretches the direction, t then counts less."""
    n = len(offsets)
    origins = torch.stack([torch.as_tensor(offsets), torch.zeros(n), torch.full((n,), -3.0)], -1)
    direction = torch.tensor([0.0, 0.0, slant]).expand(n, 3)
    column = lambda x: torch.full((n, 1), x)  # noqa: E731
    return RayBatch(origins, direction, column(0.01), column(1.5 / slant), column(4.5 / slant), torch.zeros(n).long())


@pytest.mark.parametrize("slant", [1.0, 2.5])
def test_line_integral_of_a_ball(slant):
    """2 mu sqrt(r^2 - b^2) at distance b from the middle, however long the direction is."""
    renderer, r, mu = ready(samples=1024), 0.7, 3.0
    renderer._attenuation = lambda xyz: mu * (xyz.norm(dim=-1) < r).float()
    b = torch.linspace(0, 0.9, 40)
    found = renderer.line_integrals(parallel_rays(b, slant))
    expected = 2 * mu * (r * r - b * b).clamp_min(0).sqrt()
    assert (found - expected).abs().max() < mu * 2 * 2 / 1024  # a step at either end


def test_law_of_beer_and_lambert():
    """A slab 1.2 thick of mu = 2 leaves exp(-2.4) of the light; half of it is gone ln 2 / 2 behind its face."""
    b, p = torch.zeros(1), 2.4
    slab = lambda xyz: 2.0 * (xyz[:, 2].abs() < 0.6).float()  # noqa: E731
    for options, level in (
        ({"intensity": "transmission"}, math.exp(-p)),
        ({"intensity": "transmission", "air": 0.8}, 0.8 * math.exp(-p)),
        ({"white": WHITE}, p / WHITE),
        ({"white": WHITE, "air": 0.2}, 0.2 + 0.8 * p / WHITE),
        ({"white": 2.0}, 1.0),  # more than white can show
    ):
        renderer = ready(samples=1024, **options)
        renderer._attenuation = slab
        out = renderer.render(parallel_rays(b))
        assert out.rgb[0].tolist() == pytest.approx([level] * 3, abs=2e-3)
        assert float(out.opacity) == pytest.approx(1 - math.exp(-p), abs=2e-3)
        assert float(out.depth_median) == pytest.approx(2.4 + math.log(2) / 2, abs=5e-3)
        # Mean of the exponential distribution cut off at the far face.
        mean = 0.5 - 1.2 * math.exp(-p) / (1 - math.exp(-p))
        assert float(out.depth) == pytest.approx(2.4 + mean, abs=5e-3)
    missing = ready().render(parallel_rays(torch.tensor([5.0])))
    assert missing.rgb.max() == 0 and missing.opacity == 0 and missing.depth == 0


@pytest.mark.parametrize("options", [{}, {"intensity": "transmission", "air": 0.9}])
def test_gradient_is_the_difference_quotient(options):
    scene = phantoms.scene()
    renderer = ready(scene, **options).double()
    rays = scene.rays(0).to(torch.float64)[::7]
    rgb = torch.rand(len(rays), 1, generator=torch.Generator().manual_seed(1)).double().expand(-1, 3)
    rgb = torch.where(rgb > 0.9, 1.0, rgb)  # some are bounds

    def loss():
        return renderer.loss(rays, rgb, torch.ones(len(rays)).double(), 0, torch.Generator().manual_seed(2))[0]

    gradient = torch.autograd.grad(loss(), renderer.table)[0]
    push = torch.randn(renderer.table.shape, generator=torch.Generator().manual_seed(3)).double()
    before = renderer.table.detach().clone()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            renderer.table.copy_(before + sign * 1e-8 * push)
            values.append(float(loss()))
    assert float((gradient * push).sum()) == pytest.approx((values[0] - values[1]) / 2e-8, rel=1e-5)


@pytest.mark.parametrize("options, limit", [({"white": 0.05}, 1.0), ({"intensity": "transmission", "air": 1.0}, 0.0)])
def test_a_saturated_pixel_is_a_bound(options, limit):
    """More attenuation than a pixel can show costs nothing and pulls at nothing; less does."""
    scene = phantoms.scene()
    renderer = ready(scene, smoothness=0, **options)
    rays = scene.rays(0)[150:180]
    pull = {}
    for mu in (0.001, 20.0):
        renderer._attenuation = lambda xyz, mu=mu: mu * torch.ones(len(xyz)) + 0 * renderer.table.sum()
        loss = renderer.loss(rays, torch.full((30, 3), limit), torch.ones(30), 0, torch.Generator().manual_seed(0))[0]
        pull[mu] = float(loss.detach())
    assert pull[20.0] == 0
    assert pull[0.001] > 0 or options.get("intensity") == "transmission"  # 0 counts photons: none, no weight


@pytest.mark.parametrize(
    "options, picture, words",
    [
        ({}, [0.9, 0.2, 0.2], "colour"),
        ({}, [1.0, 1.0, 1.0], "more than half of the pixels are white"),
        ({"intensity": "transmission"}, [0.0, 0.0, 0.0], "more than half of the pixels are black"),
        ({}, [0.0, 0.0, 0.0], "no attenuation to reconstruct"),
        ({"intensity": "transmission"}, [1.0, 1.0, 1.0], "no attenuation to reconstruct"),
    ],
)
def test_pictures_that_are_no_radiographs(options, picture, words):
    scene = phantoms.scene()
    renderer = ready(scene, **options)
    rays, rgb = scene.rays(0), torch.tensor(picture).expand(432, 3)
    with pytest.raises(InputError, match=words) as e:
        for step in range(20):
            renderer.loss(rays, rgb, torch.ones(432), step, torch.Generator().manual_seed(step))
    assert e.value.remedy


def test_grey_pictures_of_little_are_not_refused():
    """A batch that happens to see air alone is no reason to stop."""
    scene = phantoms.scene()
    renderer = ready(scene)
    for step in range(20):
        rgb = torch.full((432, 3), 0.5 if step == 3 else 0.0)
        renderer.loss(scene.rays(0), rgb, torch.ones(432), step, torch.Generator().manual_seed(step))


def test_options_that_contradict_each_other():
    for options in ({"air": 0.95}, {"intensity": "transmission", "air": 0.0}):
        with pytest.raises(medrecon.errors.ConfigError, match="air is almost"):
            make(**options)


def ball_pictures(folder, n=12, size=32, intensity="attenuation", mask=None, spoil=0):
    """Radiographs of a ball in closed form, poses without a point. ``mask`` hides pixels, which ``spoil`` fills."""
    camera = Camera("SIMPLE_PINHOLE", size, size, (1.5 * size, size / 2, size / 2))
    s = 3
    u, v = np.meshgrid((np.arange(size * s) + 0.5) / s, (np.arange(size * s) + 0.5) / s)
    frames, poses = [], dict(enumerate(cameras(n)))
    for i, pose in poses.items():
        d = camera.unproject(np.stack([u, v], -1)) @ pose.rotation
        d /= np.linalg.norm(d, axis=-1, keepdims=True)
        miss = np.linalg.norm(np.cross(d, CENTRE - pose.center), axis=-1)
        p = 2 * MU * np.sqrt(np.maximum(RADIUS**2 - miss**2, 0)).reshape(size, s, size, s).mean((1, 3))
        level = p / WHITE if intensity == "attenuation" else np.exp(-p)
        grey, mask_path = np.rint(255 * level).clip(0, 255).astype(np.uint8), None
        if mask is not None:
            grey, mask_path = np.where(mask, grey, spoil).astype(np.uint8), folder / f"mask{i}.png"
            write_png(mask_path, mask)
        path = folder / f"{i}.png"
        write_png(path, grey)
        frames.append(Frame(i, f"{i:06d}", path, size, size, mask_path))
    nothing = np.zeros(0, np.int64)
    sparse = SparseModel(
        dict.fromkeys(poses, camera), poses, np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), nothing,
        nothing.astype(np.int32), np.zeros(1, np.int64),
    )  # fmt: skip
    return FrameSet(tuple(frames), "ball"), sparse.validate()


def trained(folder, frames, sparse, **options):
    renderer = make(white=WHITE, **{"coarsest": 8, "finest": 32, "log2_size": 16, **options})
    training = TrainingConfig(iterations=150, max_size_px=32, pyramid=(), holdout_every=0, rays_per_batch=128)
    train(frames, sparse, renderer, training, folder, 0, "cpu", Quiet())
    return renderer.eval(), Scene.load(folder / "scene.json")


@pytest.mark.parametrize("intensity", ["attenuation", "transmission"])
def test_a_ball_is_found_from_its_radiographs(intensity, tmp_path):
    """Attenuation within 5 % well inside and near 0 outside, in the pictures' own unit of length."""
    frames, sparse = ball_pictures(tmp_path, intensity=intensity)
    renderer, scene = trained(tmp_path / "field", frames, sparse, intensity=intensity)
    x = np.random.default_rng(0).normal(size=(4000, 3))
    x *= RADIUS * np.random.default_rng(1).uniform(0, 1.5, (4000, 1)) / np.linalg.norm(x, axis=1, keepdims=True)
    r = np.linalg.norm(x, axis=1)
    xyz = torch.from_numpy(scene.field_from_sfm.apply(CENTRE + x).astype(np.float32))
    with torch.no_grad():
        mu = renderer.density(xyz).numpy() * scene.field_from_sfm.scale
    assert mu[r < 0.75 * RADIUS].mean() == pytest.approx(MU, rel=0.05)
    assert mu[r > 1.25 * RADIUS].mean() < 0.1 * MU


def test_what_masks_hide_has_no_influence(tmp_path):
    mask = np.ones((32, 32), bool)
    mask[:6, :20] = False
    fields = []
    for spoil in (0, 255):
        folder = tmp_path / str(spoil)
        folder.mkdir()
        frames, sparse = ball_pictures(folder, mask=mask, spoil=spoil)
        fields.append(trained(folder / "field", frames, sparse)[0].state_dict())
    assert all(torch.equal(fields[0][k], fields[1][k]) for k in fields[0])


def test_the_box_of_cameras_alone_holds_what_all_of_them_see():
    camera, poses = Camera("SIMPLE_PINHOLE", 40, 30, (60.0, 20.0, 15.0)), cameras(15)
    low, high = common_box([camera] * 15, poses)
    # The ball that just fits the shorter side, and no more than the longer side shows at the far end.
    inner = DISTANCE * np.sin(np.arctan(15 / 60))
    assert (low <= CENTRE - inner + 1).all() and (high >= CENTRE + inner - 1).all()
    assert (high - low).max() < 2 * DISTANCE * 20 / 60 * 2


def test_cameras_that_bound_nothing():
    camera, pose = Camera("SIMPLE_PINHOLE", 40, 30, (60.0, 20.0, 15.0)), cameras(1)[0]
    with pytest.raises(StageError, match="one direction"):
        common_box([camera] * 3, [pose] * 3)
