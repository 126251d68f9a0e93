# SPDX-License-Identifier: Apache-2.0
"""Gaussian splatting in a few lines of torch: every Gaussian at every pixel. Stands in for gsplat's CUDA rasteriser."""

from __future__ import annotations

import torch
from torch import Tensor

EPS2D = 0.3  # px^2, as gsplat's default


def harmonics(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics [N, (degree + 1)^2], in the order and with the signs that splats use."""
    x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
    basis = [0.28209479177387814 * torch.ones_like(x)]
    if degree > 0:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        basis += [
            1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y),
        ]  # fmt: skip
    return torch.stack(basis, -1)


def project(means: Tensor, quats: Tensor, scales: Tensor, view: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of N Gaussians: centres [N, 2] in px, z-depths [N], covariances [N, 2, 2] in px^2, without blur."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    turn = torch.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
         2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
         2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1,
    ).view(-1, 3, 3)  # fmt: skip
    px, py, pz = (means @ view[:3, :3].T + view[:3, 3]).unbind(-1)
    safe = torch.where(pz > 1e-6, pz, 1.0)
    zero = torch.zeros_like(px)
    jacobian = torch.stack(
        [k[0, 0] / safe, zero, -k[0, 0] * px / safe**2, zero, k[1, 1] / safe, -k[1, 1] * py / safe**2], -1
    ).view(-1, 2, 3)
    m = jacobian @ view[:3, :3] @ turn * scales[:, None]
    centre = torch.stack([k[0, 0] * px / safe + k[0, 2], k[1, 1] * py / safe + k[1, 2]], -1)
    return centre, pz, m @ m.mT


def rasterise(
    means, *, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, rasterize_mode, packed,
    far_plane=1e10, sh_degree=None, render_mode="RGB",
):  # fmt: skip
    """As ``medrecon_gsplat.library.rasterise``."""
    assert rasterize_mode == "antialiased" and not packed
    view, k = viewmats[0], Ks[0]
    if sh_degree is not None:
        eye = -view[:3, :3].T @ view[:3, 3]
        basis = harmonics(sh_degree, means - eye)
        colors = ((basis[..., None] * colors).sum(1) + 0.5).clamp_min(0)
    centre, z, covariance = project(means, quats, scales, view, k)
    if render_mode == "RGB+D":
        colors = torch.cat([colors, z[:, None]], -1)
    blurred = covariance + EPS2D * torch.eye(2)
    opacities = opacities * (covariance.det().clamp_min(0) / blurred.det()).clamp_min(1e-12).sqrt()
    order = z.argsort(stable=True)
    order = order[(z[order] > near_plane) & (z[order] < far_plane)]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    apart = torch.stack([u, v], -1).view(-1, 1, 2) - centre[order]
    power = 0.5 * torch.einsum("pni,nij,pnj->pn", apart, blurred[order].inverse(), apart)
    alpha = (opacities[order] * torch.exp(-power)).clamp(max=0.999)
    alpha = torch.where(alpha < 1 / 255, 0.0, alpha)
    left = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(1)], 1)
    weight = left[:, :-1] * alpha
    return (weight @ colors[order]).view(height, width, -1), weight.sum(1).view(height, width)
