# SPDX-License-Identifier: Apache-2.0
"""gsplat's own ``rasterization``, its CUDA functions replaced by its references in torch, draws what the toy draws."""

import pytest
import torch
import toy_rasteriser
from medrecon_gsplat import library
from test_gsplat_renderer import ready

pytestmark = pytest.mark.usefixtures("without_gpu")


@pytest.fixture
def gsplat_on_cpu(monkeypatch):
    """``rasterise`` over gsplat.rasterization."""
    from gsplat import rendering
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics

    seen = {}

    def projection(means, covars, quats, scales, viewmats, Ks, width, height, **more):
        options = {k: more[k] for k in ("eps2d", "near_plane", "far_plane", "calc_compensations", "camera_model")}
        covars = _quat_scale_to_covar_preci(quats, scales)[0]
        out = _fully_fused_projection(means, covars, viewmats, Ks, width, height, **options)
        seen["radii"], seen["depths"] = out[0], out[2]
        return out

    def pixels(means2d, conics, colors, opacities, width, height, *_, **__):
        order = seen["depths"][0].argsort(stable=True)
        order = order[(seen["radii"][0, order] > 0).all(1)]
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        x, y = (torch.stack([u, v], -1).view(-1, 1, 2) - means2d[0, order]).unbind(-1)
        a, b, c = conics[0, order].unbind(-1)
        alpha = (opacities[0, order] * torch.exp(-0.5 * (a * x * x + 2 * b * x * y + c * y * y))).clamp(max=0.999)
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
        left = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(1)], 1)[:, :-1]
        weight = left * alpha
        return (weight @ colors[0, order]).view(1, height, width, -1), weight.sum(1).view(1, height, width, 1)

    monkeypatch.setattr(rendering, "fully_fused_projection", projection)
    monkeypatch.setattr(rendering, "spherical_harmonics", lambda d, x, c, masks: _spherical_harmonics(d, x, c))
    monkeypatch.setattr(rendering, "isect_tiles", lambda *_, **__: (None, None, None))
    monkeypatch.setattr(rendering, "isect_offset_encode", lambda ids, n, w, h: torch.zeros(n, h, w))
    monkeypatch.setattr(rendering, "rasterize_to_pixels", pixels)

    def rasterise(means, **arguments):
        shown, opacity, _ = rendering.rasterization(means, **arguments)
        return shown[0], opacity[0, ..., 0]

    return rasterise


def test_the_library_draws_what_the_toy_draws(gsplat_on_cpu, monkeypatch):
    renderer, scene = ready(gaussians=40, sh_degree=2)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        s = renderer.splats
        s["means"].mul_(0.3)  # well inside the picture: gsplat bends what lies far outside
        s["sh"].copy_(0.5 * torch.randn(s["sh"].shape, generator=g))
        s["scales"].add_(0.3 * torch.randn(40, 3, generator=g))
        s["opacities"].copy_(torch.randn(40, generator=g))
    view = scene.rays(0).view
    drawn = []
    for how in (toy_rasteriser.rasterise, gsplat_on_cpu):
        monkeypatch.setattr(library, "rasterise", how)
        renderer.zero_grad()
        picture, (before, ends) = renderer._picture(view), renderer._slices(view)
        (picture**2).sum().backward()
        drawn.append((picture.detach(), before, ends, *(p.grad.clone() for p in s.values())))
    assert drawn[0][0].shape == (18, 24, 5) and drawn[0][1].shape == (18, 24, 16) and drawn[0][0].abs().max() > 0.5
    for a, b in zip(*drawn):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3 * float(a.abs().max()))
