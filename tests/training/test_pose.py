# SPDX-License-Identifier: Apache-2.0
"""Two-view pose on tensors, against the truth, the bench's own figures and COLMAP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from medrecon.bench import metrics
from medrecon.training.pose import Pose, auc, estimate_poses, five_point, pose_errors_deg
from medrecon.types import Rigid3

K = torch.tensor([300.0, 310.0, 160.0, 120.0])


def two_views(seed: int, n: int = 120, noise_px: float = 0.0, wrong: float = 0.0):
    """Points in front of two cameras: xy_a, xy_b [N, 2] px, b_from_a [4, 4]."""
    rng = np.random.default_rng(seed)
    x = rng.uniform([-40, -30, 80], [40, 30, 140], (n, 3))
    b_from_a = np.eye(4)
    b_from_a[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.15, 3)).as_matrix()
    b_from_a[:3, 3] = rng.normal(0, 12, 3)
    seen = []
    for points in (x, x @ b_from_a[:3, :3].T + b_from_a[:3, 3]):
        xy = points[:, :2] / points[:, 2:] * K[:2].numpy() + K[2:].numpy()
        seen.append(xy + rng.normal(0, noise_px, xy.shape))
    mixed = rng.random(n) < wrong
    seen[1][mixed] = rng.uniform([0, 0], [320, 240], (int(mixed.sum()), 2))
    return torch.tensor(seen[0]), torch.tensor(seen[1]), torch.tensor(b_from_a)


def stack(rows):
    return [torch.stack(part) for part in zip(*rows)]


def test_five_points_give_the_true_essential_matrix():
    for seed in range(20):
        a, b, b_from_a = two_views(seed, n=5)
        rays = [torch.cat([(xy - K[2:]) / K[:2], torch.ones(5, 1)], 1).double() for xy in (a, b)]
        found = five_point(rays[0][None], rays[1][None])
        t = b_from_a[:3, 3]
        cross = torch.tensor([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
        truth = cross @ b_from_a[:3, :3]
        truth = truth / truth.norm()
        distance = torch.minimum((found - truth).flatten(1).norm(dim=1), (found + truth).flatten(1).norm(dim=1))
        assert distance.min() < 1e-5, seed
        singular = torch.linalg.svdvals(found)  # all are essential: two equal values and a zero
        assert torch.allclose(singular[:, 0], singular[:, 1], atol=1e-6) and singular[:, 2].max() < 1e-6


def test_exact_matches_give_the_exact_pose():
    xy_a, xy_b, truth = stack([two_views(s) for s in range(4)])
    k = K.expand(4, -1)
    pose = estimate_poses(xy_a, xy_b, torch.ones(4, 120, dtype=torch.bool), k, k, 1.0, seed=0, draws=64)
    assert pose.found.all() and pose.inliers.all()
    assert pose_errors_deg(pose, truth).max() < 1e-3


def cost(rotation, translation, xy_a, xy_b, limit=1.5 / 305):
    """Truncated squared Sampson distance of a pose."""
    a, b = (torch.cat([(xy - K[2:]) / K[:2], torch.ones(len(xy), 1)], 1).double().numpy() for xy in (xy_a, xy_b))
    t = (translation / translation.norm()).numpy()
    e = np.cross(t, rotation.numpy(), axisb=0, axisc=0)
    r = np.einsum("ni,ij,nj->n", b, e, a)
    d = r**2 / (((a @ e.T)[:, :2] ** 2).sum(1) + ((b @ e)[:, :2] ** 2).sum(1))
    return np.minimum(d, limit**2).sum()


def test_noise_and_wrong_matches_as_well_as_colmap():
    import pycolmap

    rows = [two_views(s, noise_px=0.5, wrong=0.4) for s in range(12)]
    xy_a, xy_b, truth = stack(rows)
    k = K.expand(12, -1)
    pose = estimate_poses(xy_a, xy_b, torch.ones(12, 120, dtype=torch.bool), k, k, 1.5, seed=0)
    ours = pose_errors_deg(pose, truth)
    camera = pycolmap.Camera(model="PINHOLE", width=320, height=240, params=K.double().tolist())
    theirs, costs = [], []
    options = pycolmap.RANSACOptions(max_error=1.5, random_seed=0)
    for a, b, b_from_a in rows:
        found = pycolmap.estimate_essential_matrix(a.numpy(), b.numpy(), camera, camera, options)["cam2_from_cam1"]
        estimate = Rigid3(found.rotation.matrix(), found.translation)
        i = len(costs)
        costs.append(
            [
                cost(r, t, a, b)
                for r, t in (
                    (pose.rotation[i], pose.translation[i]),
                    (torch.tensor(estimate.rotation), torch.tensor(estimate.translation)),
                )
            ]
        )
        matrix = b_from_a.numpy()
        theirs.append(metrics.pose_error_deg(estimate, Rigid3(matrix[:3, :3], matrix[:3, 3])))
    # Of noisy points the truth is not the best fit: ours must fit as well as COLMAP's, and lie about as near.
    assert float(ours.median()) < 2 * float(np.median(theirs)) + 0.3
    assert np.mean([o for o, _ in costs]) <= 1.05 * np.mean([t for _, t in costs])
    assert (pose.inliers.float().mean(1) > 0.45).all()


def test_the_same_seed_gives_the_same_pose_and_too_few_matches_none():
    xy_a, xy_b, _ = stack([two_views(s, noise_px=1, wrong=0.3) for s in range(2)])
    valid = torch.ones(2, 120, dtype=torch.bool)
    valid[1, 4:] = False
    k = K.expand(2, -1)
    first, again = (estimate_poses(xy_a, xy_b, valid, k, k, 2.0, seed=5) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, again))
    assert first.found.tolist() == [True, False] and not first.inliers[1].any()
    assert pose_errors_deg(first, torch.eye(4).expand(2, -1, -1))[1] == torch.inf


def test_errors_and_auc_are_the_benchmarks():
    rng = np.random.default_rng(1)
    turns = Rotation.from_rotvec(rng.normal(0, 0.1, (30, 3))).as_matrix()
    truth = np.tile(np.eye(4), (30, 1, 1))
    truth[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.1, (30, 3))).as_matrix()
    truth[:, :3, 3] = rng.normal(0, 1, (30, 3))
    t = rng.normal(0, 0.2, (30, 3)) + truth[:, :3, 3]
    t /= np.linalg.norm(t, axis=1)[:, None]
    found = torch.ones(30, dtype=torch.bool)
    found[7] = False
    pose = Pose(torch.tensor(turns), torch.tensor(t), torch.ones(30, 1, dtype=torch.bool), found)
    errors = pose_errors_deg(pose, torch.tensor(truth))
    for i in range(30):
        estimate = Rigid3(turns[i], t[i]) if i != 7 else None
        wanted = metrics.pose_error_deg(estimate, Rigid3(truth[i, :3, :3], truth[i, :3, 3]))
        assert float(errors[i]) == pytest.approx(wanted, abs=1e-5)
    for threshold in (5, 10, 20):
        assert auc(errors, threshold) == pytest.approx(metrics.auc(errors.numpy(), (threshold,))[0], abs=1e-12)
    assert auc(torch.full((3,), torch.inf), 10) == 0
