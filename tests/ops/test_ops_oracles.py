# SPDX-License-Identifier: Apache-2.0
"""The ops against oracles that share no formula with them: sampling, plain loops, closed forms."""

import math

import numpy as np
import pytest
import torch

from medrecon import ops
from medrecon.ops import reference


def _f64(*shape, low=0.0, high=1.0):
    return torch.rand(*shape, dtype=torch.float64) * (high - low) + low


@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (0.2, 2.0), (1.0, 1.3), (4.0, 4.01)])
def test_frustum_gaussian_is_the_mean_and_variance_of_points_in_the_cone(t0, t1):
    rng = np.random.default_rng(1)
    origin, direction, radius = np.array([0.3, -1.0, 2.0]), np.array([0.4, 1.1, -0.7]), 0.3
    n = 400_000
    t = np.cbrt(rng.uniform(t0**3, t1**3, n))  # the cross-section grows as t^2
    reach, turn = radius * t * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
    a = np.cross(direction, [0.0, 0.0, 1.0])
    a /= np.linalg.norm(a)
    b = np.cross(direction, a) / np.linalg.norm(direction)
    points = origin + t[:, None] * direction
    points += (reach * np.cos(turn))[:, None] * a + (reach * np.sin(turn))[:, None] * b

    mean, var = ops.cast_rays(
        torch.tensor([[t0, t1]], dtype=torch.float64),
        torch.tensor(origin)[None],
        torch.tensor(direction)[None],
        torch.tensor([[radius]], dtype=torch.float64),
    )
    sigma = points.std(0)
    assert np.all(np.abs(mean[0, 0].numpy() - points.mean(0)) < 5 * sigma / math.sqrt(n))
    assert np.allclose(var[0, 0].numpy(), points.var(0), rtol=0.01)


def test_a_narrow_frustum_far_away_keeps_its_variance_in_float32():
    # the textbook form subtracts nearly equal fourth powers here and loses everything
    t = torch.tensor([[1000.0, 1000.5]])
    _, var = ops.cast_rays(t, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1e-3]]))
    assert var[0, 0, 2].item() == pytest.approx(0.5**2 / 12, rel=1e-3)
    assert var[0, 0, 0].item() == pytest.approx((1e-3 * 1000.25) ** 2 / 4, rel=1e-3)
    assert (var >= 0).all()


def test_a_zero_frustum_at_the_apex_is_a_point_with_finite_gradients():
    t = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    origin = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    mean, var = ops.cast_rays(t, origin, torch.ones(1, 3).double(), torch.ones(1, 1).double())
    assert torch.equal(mean[0, 0], origin[0]) and torch.equal(var, torch.zeros_like(var))
    (grad,) = torch.autograd.grad(mean.sum() + var.sum(), t)
    assert grad.isfinite().all()


def test_a_ray_without_direction_spreads_the_same_on_each_axis():
    mean, var = ops.cast_rays(torch.tensor([[1.0, 2.0]]), torch.ones(1, 3), torch.zeros(1, 3), torch.ones(1, 1))
    assert torch.equal(mean, torch.ones(1, 1, 3))
    assert var.unique().numel() == 1 and var.min() > 0.25


def test_positional_encoding_is_a_loop_over_degrees_and_axes():
    x = np.random.default_rng(2).normal(size=(7, 3))
    expected = []
    for row in x:
        sines = [math.sin(2.0**k * value) for k in range(-1, 6) for value in row]
        cosines = [math.cos(2.0**k * value) for k in range(-1, 6) for value in row]
        expected.append(sines + cosines)
    found = ops.positional_encoding(torch.tensor(x), -1, 6)
    assert found.shape == (7, 42)
    assert np.allclose(found.numpy(), expected, atol=1e-12)


def test_integrated_encoding_is_the_average_over_gaussian_samples():
    rng = np.random.default_rng(3)
    mean, var = rng.uniform(-2, 2, (4, 3)), rng.uniform(0.001, 0.5, (4, 3))
    n = 200_000
    samples = mean + np.sqrt(var) * rng.standard_normal((n, 4, 3))
    found = ops.integrated_positional_encoding(torch.tensor(mean), torch.tensor(var), 0, 4).numpy()
    for k in range(4):
        sines, cosines = np.sin(2.0**k * samples).mean(0), np.cos(2.0**k * samples).mean(0)
        assert np.allclose(found[:, 3 * k : 3 * k + 3], sines, atol=5 / math.sqrt(n))
        assert np.allclose(found[:, 12 + 3 * k : 15 + 3 * k], cosines, atol=5 / math.sqrt(n))


def test_integrated_encoding_without_variance_is_the_plain_encoding():
    x = torch.randn(11, 3)
    found = ops.integrated_positional_encoding(x, torch.zeros_like(x), 0, 12)
    assert torch.equal(found, ops.positional_encoding(x, 0, 12))


def test_composite_is_the_loop_over_samples():
    n, s = 5, 9
    rgb, density, directions = _f64(n, s, 3), _f64(n, s, high=5), _f64(n, 3, low=-2, high=2)
    t = _f64(n, s + 1, low=1, high=3).sort(-1).values
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    colour, depth, opacity, weights = ops.composite(rgb, density, t, directions, background)
    for i in range(n):
        light, c, reach, total = 1.0, np.zeros(3), 0.0, 0.0
        for j in range(s):
            length = (t[i, j + 1] - t[i, j]).item() * math.hypot(*directions[i].tolist())
            alpha = 1 - math.exp(-density[i, j].item() * length)
            w = light * alpha
            assert weights[i, j].item() == pytest.approx(w, abs=1e-13)
            c += w * rgb[i, j].numpy()
            reach += w * (t[i, j] + t[i, j + 1]).item() / 2
            total += w
            light *= 1 - alpha
        assert np.allclose(colour[i].numpy(), c + light * background.numpy(), atol=1e-12)
        assert opacity[i].item() == pytest.approx(total, abs=1e-12)
        assert depth[i].item() == pytest.approx(reach / total, abs=1e-12)


def test_composite_of_constant_density_is_beer_lambert():
    t = torch.linspace(2, 5, 301, dtype=torch.float64)[None]
    direction = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    rgb, density = torch.full((1, 300, 3), 0.7).double(), torch.full((1, 300), 0.4, dtype=torch.float64)
    colour, depth, opacity, _ = ops.composite(rgb, density, t, direction)
    k = 0.4 * 2  # attenuation per unit of t
    seen = 1 - math.exp(-k * 3)
    expected_depth = 2 + (1 / k - 3 * math.exp(-k * 3) / seen)  # mean of the truncated exponential
    assert opacity.item() == pytest.approx(seen, rel=1e-12)
    assert colour[0, 1].item() == pytest.approx(float(np.float32(0.7)) * seen, rel=1e-12)
    assert depth.item() == pytest.approx(expected_depth, rel=1e-4)


def test_composite_of_nothing_shows_the_background_and_no_depth():
    n, s = 3, 4
    density = torch.zeros(n, s, requires_grad=True)
    t = torch.linspace(1, 2, s + 1).expand(n, s + 1)
    background = torch.rand(n, 3)
    colour, depth, opacity, weights = ops.composite(torch.rand(n, s, 3), density, t, torch.ones(n, 3), background)
    assert torch.equal(colour, background) and not depth.any() and not opacity.any() and not weights.any()
    (grad,) = torch.autograd.grad(colour.sum() + depth.sum() + opacity.sum(), density)
    assert grad.isfinite().all() and grad.any()


def test_resample_goes_where_the_weight_is():
    t = torch.linspace(0, 10, 11).expand(2, 11)
    weights = torch.zeros(2, 10)
    weights[0, 3] = weights[1, 8] = 1.0
    for deterministic in (True, False):
        found = ops.resample(t, weights, 200, padding=0.0, deterministic=deterministic)
        # the blur spreads a single bin over its two neighbours, half as high
        assert found[0].min() >= 2 and found[0].max() <= 5 and found[1].min() >= 7 and found[1].max() <= 10
        middle = ((found[0] >= 3) & (found[0] < 4)).float().mean().item()
        assert middle == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("deterministic", [True, False])
def test_resample_is_ascending_within_the_ray_for_any_weights(deterministic):
    t = (torch.rand(50, 18) * 5).sort(-1).values
    t[0] = 1.0  # a ray of zero length
    weights = torch.rand(50, 17) ** 8
    weights[1] = 0.0
    weights[2, :] = 1e-30
    found = ops.resample(t, weights, 33, padding=0.0, deterministic=deterministic)
    assert found.isfinite().all() and (found.diff(dim=-1) >= 0).all()
    assert (found >= t[:, :1]).all() and (found <= t[:, -1:]).all()


def test_resample_keeps_a_uniform_distribution():
    t = torch.linspace(1, 3, 33, dtype=torch.float64)[None]
    weights = torch.ones(1, 32, dtype=torch.float64)
    assert torch.allclose(ops.resample(t, weights, 33), t, atol=1e-6)
    drawn = ops.resample(t, weights, 20_000, deterministic=False)[0].numpy()
    assert np.abs(np.quantile(drawn, [0.1, 0.5, 0.9]) - [1.2, 2.0, 2.8]).max() < 1e-3


def test_resample_is_the_inverse_of_the_cumulative_histogram():
    rng = np.random.default_rng(5)
    t, w = np.sort(rng.uniform(0, 4, 13)), rng.uniform(size=12) ** 3
    around = np.concatenate([w[:1], w, w[-1:]])
    blurred = np.array([(max(around[i : i + 2]) + max(around[i + 1 : i + 3])) / 2 for i in range(12)]) + 0.01
    cdf = np.concatenate([[0], np.cumsum(blurred / blurred.sum())])
    expected = np.interp(np.linspace(0, 1, 40), cdf, t)
    found = ops.resample(torch.tensor(t)[None], torch.tensor(w)[None], 40)[0].numpy()
    assert np.allclose(found, expected, atol=1e-9)


def test_resample_with_a_generator_repeats_itself():
    t, weights = torch.linspace(0, 1, 9).expand(4, 9), torch.rand(4, 8)
    draws = [
        ops.resample(t, weights, 16, deterministic=False, generator=torch.Generator().manual_seed(seed))
        for seed in (7, 7, 8)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not ops.resample(t, weights.requires_grad_(), 16).requires_grad


@pytest.mark.parametrize(("m", "n"), [(1, 1), (6, 4), (3, 9)])
def test_log_sinkhorn_is_sinkhorn(m, n):
    rng = np.random.default_rng(6)
    scores, dustbin = rng.normal(size=(2, m, n)) * 2, 0.7
    found = ops.log_sinkhorn(torch.tensor(scores), dustbin, 30).exp().numpy()
    for plan, s in zip(found, scores):
        kernel = np.full((m + 1, n + 1), math.exp(dustbin))
        kernel[:m, :n] = np.exp(s)
        rows, columns = np.array([1.0] * m + [n]), np.array([1.0] * n + [m])
        left, right = np.ones(m + 1), np.ones(n + 1)
        for _ in range(30):
            left = rows / (kernel @ right)
            right = columns / (kernel.T @ left)
        assert np.allclose(plan, left[:, None] * kernel * right[None], rtol=1e-9)


def test_log_sinkhorn_keeps_the_marginals_with_huge_scores():
    scores = torch.randn(1, 40, 30) * 50  # exp() of these overflows float32
    plan = ops.log_sinkhorn(scores, torch.tensor(1.0), 200).exp()
    assert plan.isfinite().all()
    assert torch.allclose(plan.sum(1)[:, :-1], torch.ones(1, 30), atol=1e-4)
    assert torch.allclose(plan.sum(1)[:, -1], torch.tensor([40.0]), atol=1e-2)


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0), (0, 0)])
def test_log_sinkhorn_sends_everything_to_the_dustbin_when_one_side_is_empty(m, n):
    plan = ops.log_sinkhorn(torch.zeros(2, m, n), 1.0, 5).exp()
    assert plan.shape == (2, m + 1, n + 1)
    assert torch.equal(plan.sum((1, 2)), torch.full((2,), float(m + n))) and not plan[:, m, n].any()


@pytest.mark.parametrize("op", ["composite", "log_sinkhorn"])
def test_gradients_of_the_composed_ops(op):
    if op == "composite":
        t = torch.linspace(1, 2, 5, dtype=torch.float64).expand(3, 5).clone()
        inputs = [_f64(3, 4, 3), _f64(3, 4, high=3), t, _f64(3, 3, low=0.5), _f64(3)]
        function = ops.composite
    else:
        inputs = [_f64(2, 3, 4), _f64(1)]
        function = lambda s, b: ops.log_sinkhorn(s, b, 7)
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs])


def test_the_reference_itself_passes_the_sampling_oracle_of_the_encoding():
    # the fallback must be right on its own, not only equal to the kernels
    samples = 0.4 + math.sqrt(0.09) * torch.randn(400_000, dtype=torch.float64)
    one = lambda value: torch.tensor([[value]], dtype=torch.float64)
    found = reference.integrated_positional_encoding(one(0.4), one(0.09), 0, 3)[0]
    expected = [f(2.0**k * samples).mean().item() for f in (torch.sin, torch.cos) for k in range(3)]
    assert np.allclose(found.numpy(), expected, atol=8e-3)
