# SPDX-License-Identifier: Apache-2.0
"""The renderer over a toy rasteriser: its contract, its depths, its cameras."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from medrecon_gsplat import library
from medrecon_gsplat.geometry import median_and_spread
from medrecon_gsplat.options import GsplatRendererConfig
from medrecon_gsplat.pinhole import pinhole_of
from medrecon_gsplat.renderer import GsplatRenderer
from toy_rasteriser import harmonics, project

from medrecon.errors import InputError
from medrecon.testing import RendererConformance, phantoms
from medrecon.types import Camera

pytestmark = pytest.mark.usefixtures("without_gpu")


def make(**options) -> GsplatRenderer:
    small = {"gaussians": 60, "sh_degree": 1, "appearance_size": 6, "depth_slices": 16, "relocate_every": 5}
    return GsplatRenderer(GsplatRendererConfig(**{**small, **options}))


def ready(**options):
    scene = phantoms.scene()
    renderer = make(**options)
    renderer.setup(scene, scene.train_ids, 0)
    return renderer, scene


class TestConformance(RendererConformance):
    def make(self):
        return make()


def test_toy_projection_is_that_of_gsplat():
    """The stand-in against the reference functions in torch that gsplat brings."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics

    g = torch.Generator().manual_seed(0)
    n = 50
    means, quats = torch.randn(n, 3, generator=g) + torch.tensor([0.0, 0.0, 6.0]), torch.randn(n, 4, generator=g)
    scales = 0.05 + 0.3 * torch.rand(n, 3, generator=g)
    view = torch.eye(4)
    view[:3, 3] = torch.tensor([0.1, -0.2, 0.3])
    k = torch.tensor([[80.0, 0, 32], [0, 90, 24], [0, 0, 1]])
    covars, _ = _quat_scale_to_covar_preci(quats, scales)
    _, means2d, depths, conics, factor = _fully_fused_projection(
        means, covars, view[None], k[None], 64, 48, calc_compensations=True
    )
    # gsplat bends what lies far outside the picture; the toy does not.
    seen = ((means2d[0] > 0) & (means2d[0] < torch.tensor([64.0, 48.0]))).all(1)
    centre, z, covariance = project(means, quats, scales, view, k)
    inverse = (covariance + 0.3 * torch.eye(2)).inverse()
    mine = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], -1)
    assert seen.sum() > 20
    torch.testing.assert_close(centre[seen], means2d[0][seen], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(z[seen], depths[0][seen])
    torch.testing.assert_close(mine[seen], conics[0][seen], rtol=1e-3, atol=1e-5)
    compensation = (covariance.det() / (covariance + 0.3 * torch.eye(2)).det()).sqrt()
    torch.testing.assert_close(compensation[seen], factor[0][seen], rtol=1e-3, atol=1e-4)
    coefficients = torch.randn(n, 9, 3, generator=g)
    mine = (harmonics(2, means)[..., None] * coefficients).sum(1)
    torch.testing.assert_close(mine, _spherical_harmonics(2, means, coefficients), rtol=1e-4, atol=1e-5)


def test_gsplat_takes_the_arguments_that_it_is_given(monkeypatch):
    import gsplat

    renderer, scene = ready()
    given = []
    monkeypatch.setattr(library, "rasterise", lambda means, **kw: given.append(kw) or (torch.zeros(1),) * 2)
    view = scene.rays(0).view
    renderer._draw(view, colors=renderer.splats["sh"], sh_degree=1, render_mode="RGB+D")
    renderer._draw(view, colors=renderer.splats["means"], far_plane=1.0)
    signature = inspect.signature(gsplat.rasterization)
    for arguments in given:
        signature.bind(renderer.splats["means"], **arguments)


def test_depths_of_two_gaussians():
    """Two wide Gaussians, one behind the other, on a ray through the middle of both."""
    renderer, scene = ready(depth_slices=400)
    rays = scene.rays(0)
    ray = rays[9 * 24 + 12 : 9 * 24 + 13]
    (a, b), opacities = (2.6, 3.2), (0.6, 0.9)
    s = renderer.splats
    with torch.no_grad():
        s["opacities"].fill_(-20.0)
        for n, (z, o) in enumerate(zip((a, b), opacities)):
            s["means"][n] = ray.origins[0] + z * ray.directions[0]
            s["scales"][n] = math.log(0.5)
            s["opacities"][n] = math.log(o / (1 - o))
    out = renderer.render(ray)
    wa, wb = 0.6, 0.4 * 0.9
    mean = (wa * a + wb * b) / (wa + wb)
    spread = math.sqrt((wa * (a - mean) ** 2 + wb * (b - mean) ** 2) / (wa + wb))
    # A third of a pixel of blur takes some of the opacity.
    assert out.opacity.item() == pytest.approx(wa + wb, abs=0.01)
    assert out.depth.item() == pytest.approx(mean, abs=0.01)
    assert out.depth_median.item() == pytest.approx(a, abs=0.02)
    assert out.depth_std.item() == pytest.approx(spread, abs=0.02)


def test_median_and_spread_of_slices():
    before = torch.tensor([[0.0, 0.25, 0.75, 0.75], [0.9, 0.9, 0.9, 0.9]])
    median, spread = median_and_spread(before, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert median.tolist() == pytest.approx([3.5, 1 + 5 / 9])
    assert spread.tolist() == pytest.approx([math.sqrt(2) / 3, 0.0], abs=1e-6)


def test_density_takes_the_light_that_the_splat_takes():
    renderer, _ = ready()
    s = renderer.splats
    with torch.no_grad():
        s["opacities"].fill_(-30.0)
        s["opacities"][0] = 1.0
        s["means"][0] = 0.1
        s["scales"][0] = math.log(0.05)
    x = torch.linspace(-0.9, 0.9, 2001)
    line = torch.stack([x, torch.full_like(x, 0.1), torch.full_like(x, 0.1)], -1)
    taken = 1 - math.exp(-float(torch.trapezoid(renderer.density(line), x)))
    assert taken == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-4)


def test_a_distorted_camera_sees_the_pinhole_picture_where_it_looks():
    camera = Camera("SIMPLE_RADIAL", 40, 30, (35.0, 20.0, 15.0, -0.25))
    pinhole = pinhole_of(camera)
    k = pinhole.camera
    u, v = np.meshgrid(np.arange(k.width_px) + 0.5, np.arange(k.height_px) + 0.5)
    directions = k.unproject(np.stack([u, v], -1))
    pixels = torch.tensor([0, 39, 15 * 40 + 20, 29 * 40 + 39, 7 * 40 + 31])
    found = pinhole.pick(torch.from_numpy(directions[..., :2].astype(np.float32)), pixels)
    v, u = np.divmod(pixels.numpy(), 40)
    true = camera.unproject(np.stack([u + 0.5, v + 0.5], -1))
    assert np.allclose(found.numpy(), true[:, :2] / true[:, 2:], atol=1e-4)
    with pytest.raises(InputError, match="cannot be splatted"):
        pinhole_of(Camera("OPENCV_FISHEYE", 200, 200, (75.0, 75.0, 100.0, 100.0, 0.0, 0.0, 0.0, 0.0)))


def test_rays_of_no_camera_are_refused():
    renderer, scene = ready()
    with pytest.raises(InputError, match="whose pixels"):
        renderer.render_basic(replace(scene.rays(0), view=None))


def test_a_view_is_drawn_once_for_all_its_parts_and_again_when_the_field_changed(monkeypatch):
    renderer, scene = ready()
    drawn, usual = [], library.rasterise
    monkeypatch.setattr(library, "rasterise", lambda *a, **kw: drawn.append(1) or usual(*a, **kw))
    rays = scene.rays(0)
    with torch.no_grad():
        first = [renderer.render_basic(rays[i : i + 100]).rgb for i in range(0, len(rays), 100)]
        assert len(drawn) == 1
        renderer.splats["means"].add_(0.1)
        assert not torch.equal(renderer.render_basic(rays[:100]).rgb, first[0]) and len(drawn) == 2
