# SPDX-License-Identifier: Apache-2.0
"""Relative pose of calibrated views from matches, many pairs at once: five-point RANSAC on tensors.

Validation on the machine that trains has neither OpenCV nor COLMAP. The minimal solver is H. Stewénius, C. Engels and
D. Nistér, "Recent developments on direct relative orientation", ISPRS J. 60(4), 2006: every essential matrix through
five points is a root of ten cubic equations, read from the eigenvectors of a 10 x 10 matrix.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

# Cubic monomials of (x, y, z, 1) as index triples: the ten that are cubic in x, y, z alone first, then those that span
# the quotient ring, in the order x2 xy xz y2 yz z2 x y z 1.
_LEADING = list(itertools.combinations_with_replacement(range(3), 3))
_BASIS = [(*m, 3) for m in itertools.combinations_with_replacement(range(3), 2)] + [(i, 3, 3) for i in range(4)]
_MONOMIALS = {m: i for i, m in enumerate(_LEADING + _BASIS)}


class Pose(NamedTuple):
    """x_b = rotation @ x_a + translation, up to the translation's length.

    Attributes:
        rotation: float64 [P, 3, 3].
        translation: float64 [P, 3] of unit length.
        inliers: bool [P, N].
        found: bool [P]; False with fewer than five matches, or no solution: then the pose is the identity.
    """

    rotation: Tensor
    translation: Tensor
    inliers: Tensor
    found: Tensor


def estimate_poses(
    xy_a: Tensor,
    xy_b: Tensor,
    valid: Tensor,
    k_a: Tensor,
    k_b: Tensor,
    threshold_px: float,
    seed: int,
    draws: int = 256,
) -> Pose:
    """Poses of P pairs, on the CPU in double precision.

    Args:
        xy_a, xy_b: [P, N, 2] px, matched row by row.
        valid: bool [P, N], the rows that are matches.
        k_a, k_b: [P, 4] (fx, fy, cx, cy) px.
        threshold_px: Sampson distance up to which a match is an inlier.
        draws: five-point samples for each pair.
    """
    generator = torch.Generator().manual_seed(seed)
    poses = [_one(*(t.cpu() for t in row), threshold_px, draws, generator) for row in zip(xy_a, xy_b, valid, k_a, k_b)]
    return Pose(*(torch.stack(parts) for parts in zip(*poses)))


def _one(
    xy_a: Tensor, xy_b: Tensor, valid: Tensor, k_a: Tensor, k_b: Tensor, threshold: float, draws: int, generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none = (
        torch.eye(3, dtype=torch.float64),
        torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
        torch.zeros_like(valid),
        torch.tensor(False),
    )
    a, b = (_rays(xy[valid], k) for xy, k in ((xy_a, k_a), (xy_b, k_b)))
    if len(a) < 5:
        return none
    limit = threshold / float((k_a[:2].mean() + k_b[:2].mean()) / 2)
    sample = torch.rand(draws, len(a), generator=generator).topk(5).indices
    models = five_point(a[sample], b[sample])
    if not len(models):
        return none
    cost = _cost(models, a, b, limit)
    best = models[cost.argmin()]
    near = sampson(best[None], a, b)[0] < limit**2
    rotation, translation = _in_front(best, a[near], b[near])
    for _ in range(2):  # what is an inlier may change with the fit
        rotation, translation = refine(rotation, translation, a[near], b[near])
        near = sampson(_essential(rotation, translation)[None], a, b)[0] < limit**2
    inliers = torch.zeros_like(valid)
    inliers[valid] = near
    return rotation, translation, inliers, torch.tensor(True)


def five_point(a: Tensor, b: Tensor) -> Tensor:
    """Essential matrices float64 [M, 3, 3] (b^T E a = 0, of unit norm), all real solutions of all samples.

    Args:
        a, b: rays float64 [S, 5, 3].
    """
    equations = (b[:, :, :, None] * a[:, :, None, :]).reshape(len(a), 5, 9)
    null = torch.linalg.svd(equations).Vh[:, 5:].reshape(-1, 4, 3, 3)
    cubic = _constraints(null)
    try:
        reduced = torch.linalg.solve(cubic[:, :, :10], cubic[:, :, 10:])
    except torch.linalg.LinAlgError:  # one degenerate sample would spoil all
        reduced = torch.linalg.lstsq(cubic[:, :, :10], cubic[:, :, 10:]).solution
    usable = reduced.isfinite().all(2).all(1)
    reduced, null = reduced[usable], null[usable]
    action = torch.zeros(len(reduced), 10, 10, dtype=torch.float64)
    for row, monomial in enumerate(_BASIS):  # x times the basis: leading monomials are reduced, others are in it
        product = tuple(sorted((0, *monomial[:2]))) if monomial[2] == 3 and monomial[1] != 3 else None
        if product is not None:
            action[:, row] = -reduced[:, _MONOMIALS[product]]
        else:
            action[:, row, _MONOMIALS[tuple(sorted((0, *monomial)))[:3]] - 10] = 1
    values, vectors = torch.linalg.eig(action)
    scale = vectors[:, 9:10]
    point = vectors[:, 6:9] / torch.where(scale.abs() < 1e-12, torch.ones_like(scale), scale)
    real = (values.imag.abs() < 1e-9 * (1 + values.real.abs())) & (scale[:, 0].abs() >= 1e-12)
    weights = torch.cat([point.real, torch.ones_like(point.real[:, :1])], 1).transpose(1, 2)  # [S, 10, 4]
    models = torch.einsum("sqi,siuv->squv", weights, null)[real]
    models = models / models.flatten(1).norm(dim=1)[:, None, None]
    return models[models.isfinite().flatten(1).all(1)]


def refine(rotation: Tensor, translation: Tensor, a: Tensor, b: Tensor, rounds: int = 6) -> tuple[Tensor, Tensor]:
    """The pose that minimises the squared Sampson distances of rays [N, 3] nearby (Gauss-Newton over three angles and
    two directions of the translation, damped: a step that does not help is not made)."""
    if len(a) < 6:
        return rotation, translation

    def moved(step: Tensor) -> tuple[Tensor, Tensor]:
        across = torch.linalg.svd(translation[None]).Vh[1:]  # two directions at right angles to it
        t = translation + step[3:] @ across
        return torch.linalg.matrix_exp(_cross(step[:3])) @ rotation, t / t.norm()

    def residuals(step: Tensor) -> Tensor:
        return _signed(_essential(*moved(step))[None], a, b)[0]

    damping = 1e-3
    for _ in range(rounds):
        zero, width = torch.zeros(5, dtype=torch.float64), 1e-6
        now = residuals(zero)
        tilt = torch.stack([(residuals(d) - residuals(-d)) / (2 * width) for d in width * torch.eye(5).double()], 1)
        normal = tilt.T @ tilt
        step = -torch.linalg.solve(normal + damping * normal.trace() / 5 * torch.eye(5).double(), tilt.T @ now)
        if residuals(step).square().sum() < now.square().sum():
            rotation, translation = moved(step)
            damping /= 10
        else:
            damping *= 100
    return rotation, translation


def sampson(models: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Squared first-order distance [M, N] of matches to the epipolar constraint, in units of the focal length."""
    return _signed(models, a, b).square()


def pose_errors_deg(pose: Pose, b_from_a: Tensor) -> Tensor:
    """float64 [P]: the larger of the angles between rotations and between directions of translation; infinite where
    there is no pose.

    Args:
        b_from_a: [P, 4, 4], the truth; its translation's length does not matter.
    """
    truth = b_from_a.double().cpu()
    turn = pose.rotation @ truth[:, :3, :3].transpose(1, 2)
    sine = torch.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1)
    rotation = torch.atan2(sine.norm(dim=1), turn.diagonal(dim1=1, dim2=2).sum(1) - 1)
    t, s = pose.translation, truth[:, :3, 3]
    direction = torch.atan2(torch.linalg.cross(t, s).norm(dim=1), (t * s).sum(1))
    error = torch.rad2deg(torch.maximum(rotation, direction))
    return torch.where(pose.found, error, torch.inf)


def auc(errors: Tensor, threshold: float) -> float:
    """Area under the cumulative curve of errors [P] up to the threshold, over the threshold (arXiv 1911.11763, 5.2)."""
    e = errors.double().sort().values
    if not len(e):
        return 0.0
    e = e[e < threshold]
    recall = torch.arange(1, len(e) + 1, dtype=torch.float64) / len(errors)
    x = torch.cat([torch.zeros(1, dtype=torch.float64), e, torch.tensor([threshold], dtype=torch.float64)])
    y = torch.cat([torch.zeros(1, dtype=torch.float64), recall, recall[-1:] if len(e) else torch.zeros(1)])
    return float(torch.trapezoid(y, x) / threshold)


def _rays(xy: Tensor, k: Tensor) -> Tensor:
    xy, k = xy.double(), k.double()
    return torch.cat([(xy - k[2:]) / k[:2], torch.ones(len(xy), 1, dtype=torch.float64)], 1)


def _signed(models: Tensor, a: Tensor, b: Tensor) -> Tensor:
    line_b, line_a = a @ models.transpose(1, 2), b @ models
    slope = line_b[..., :2].square().sum(2) + line_a[..., :2].square().sum(2)
    return (line_b * b).sum(2) / slope.clamp(min=1e-18).sqrt()


def _cross(v: Tensor) -> Tensor:
    zero = torch.zeros_like(v[0])
    return torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).view(3, 3)


def _essential(rotation: Tensor, translation: Tensor) -> Tensor:
    return _cross(translation) @ rotation


def _constraints(null: Tensor) -> Tensor:
    """Coefficients [S, 10, 20] of 2 E E^T E - tr(E E^T) E = 0 and det E = 0 for E = x E_0 + y E_1 + z E_2 + E_3."""
    inner = torch.einsum("siab,sjcb->sijac", null, null)
    trace = inner.diagonal(dim1=3, dim2=4).sum(-1)
    cubic = 2 * torch.einsum("sijac,skcd->sijkad", inner, null) - torch.einsum("sij,skad->sijkad", trace, null)
    rows = null[:, :, 0], null[:, :, 1], null[:, :, 2]
    minors = torch.linalg.cross(rows[1][:, :, None], rows[2][:, None, :], dim=-1)
    det = torch.einsum("sia,sjka->sijk", rows[0], minors)
    every = torch.cat([cubic.flatten(4), det[..., None]], 4).flatten(1, 3)  # [S, 64, 10]
    out = torch.zeros(len(null), 20, 10, dtype=torch.float64)
    index = torch.tensor([_MONOMIALS[tuple(sorted(t))] for t in itertools.product(range(4), repeat=3)])
    return out.index_add(1, index, every).transpose(1, 2)


def _cost(models: Tensor, a: Tensor, b: Tensor, limit: float) -> Tensor:
    """Truncated sum of squared distances [M] (MSAC: P. Torr and A. Zisserman, CVIU 78(1), 2000)."""
    parts = [sampson(m, a, b).clamp(max=limit**2).sum(1) for m in models.split(512)]
    return torch.cat(parts)


def _in_front(e: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Of the four poses of an essential matrix the one that has most points before both cameras."""
    u, _, vh = torch.linalg.svd(e)
    u, vh = u * torch.linalg.det(u).sign(), vh * torch.linalg.det(vh).sign()
    w = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    best, most = (torch.eye(3, dtype=torch.float64), u[:, 2]), -1
    for rotation in (u @ w @ vh, u @ w.T @ vh):
        for translation in (u[:, 2], -u[:, 2]):
            # depth_b b = depth_a R a + t, by least squares for the two depths
            ra = a @ rotation.T
            aa, bb, ab = (ra * ra).sum(1), (b * b).sum(1), (ra * b).sum(1)
            at, bt = ra @ translation, b @ translation
            determinant = (aa * bb - ab * ab).clamp(min=1e-18)
            depth_a, depth_b = (ab * bt - bb * at) / determinant, (aa * bt - ab * at) / determinant
            count = int(((depth_a > 0) & (depth_b > 0)).sum())
            if count > most:
                best, most = (rotation, translation), count
    return best
