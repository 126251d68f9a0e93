# SPDX-License-Identifier: Apache-2.0
"""log_sinkhorn's kernel: against loops in long double, closed forms, invariances, and autograd through the reference."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from medrecon import ops
from medrecon.ops import reference

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
pytestmark = pytest.mark.usefixtures("kernels")
DTYPES = list(TOLERANCE)
INF = math.inf


def plain(scores, bin_score, iterations):
    return reference.log_sinkhorn(scores, bin_score.reshape(1, 1, 1), iterations)


def in_long_double(scores, bin_score, iterations):
    """Sinkhorn's loop on the logs for one problem, in the widest arithmetic there is."""
    m, n = scores.shape
    z = np.full((m + 1, n + 1), bin_score, np.longdouble)
    z[:m, :n] = scores
    log_a, log_b = np.zeros(m + 1, np.longdouble), np.zeros(n + 1, np.longdouble)
    log_a[m], log_b[n] = np.log(np.longdouble(n)), np.log(np.longdouble(m))
    f, g = np.zeros(m + 1, np.longdouble), np.zeros(n + 1, np.longdouble)
    for _ in range(iterations):
        f = log_a - np.logaddexp.reduce(z + g, axis=1)
        g = log_b - np.logaddexp.reduce(z + f[:, None], axis=0)
    return z + f[:, None] + g


def gradients(function, scores, bin_score, iterations, cotangent):
    leaves = [scores.detach().clone().requires_grad_(), bin_score.detach().clone().requires_grad_()]
    return torch.autograd.grad(function(*leaves, iterations), leaves, cotangent)


def extreme(name):
    torch.manual_seed(1)
    scores, dustbin = torch.randn(2, 45, 38, dtype=torch.float64), 1.0
    if name == "spread 50":
        scores *= 50
    elif name == "spread 1e4":
        scores *= 1e4
    elif name == "rows and columns of -1e30":
        scores[0, 3], scores[1, :, 7], scores[1, 2] = -1e30, -1e30, -1e30
    elif name == "entries of -inf":
        scores[0, 5], scores[0, 8, :20], scores[1, :, 0] = -INF, -INF, -INF
    elif name == "rows 300 apart":
        scores += 300 * torch.arange(45, dtype=torch.float64)[:, None]
    elif name == "nothing for the dustbin":
        dustbin = -1000.0
    elif name == "all for the dustbin":
        dustbin = 200.0
    return scores.float().double(), torch.tensor(dustbin, dtype=torch.float64)


each_extreme = pytest.mark.parametrize(
    "name",
    [
        "spread 50",
        "spread 1e4",
        "rows and columns of -1e30",
        "entries of -inf",
        "rows 300 apart",
        "nothing for the dustbin",
        "all for the dustbin",
    ],
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("iterations", [0, 1, 2, 37])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (34, 1), (5, 4), (31, 15), (64, 33), (67, 129)])
def test_values_are_those_of_the_loop_in_long_double(m, n, iterations, dtype, device):
    scores = (torch.randn(2, m, n) * 5).to(device, dtype)
    found = ops.log_sinkhorn(scores, 0.75, iterations)
    assert found.dtype == dtype and found.is_contiguous()
    for plan, s in zip(found.cpu().double().numpy(), scores.cpu().double().numpy()):
        truth = in_long_double(s, 0.75, iterations)
        assert np.abs(plan - truth).max() <= TOLERANCE[dtype] * max(1.0, np.abs(truth).max())


@pytest.mark.parametrize("dtype", DTYPES)
@each_extreme
def test_extreme_scores_stay_exact(name, dtype, device):
    scores, dustbin = extreme(name)
    found = ops.log_sinkhorn(scores.to(device, dtype), dustbin.to(device, dtype), 60).cpu().double()
    truth = plain(scores, dustbin, 60)
    finite = truth > -1e29
    assert torch.equal(finite, found > -1e29)  # and so no NaN either
    assert torch.allclose(found[~finite], truth[~finite], rtol=1e-6)
    size = max(1.0, truth[finite].abs().max().item(), scores[scores > -1e29].abs().max().item())
    assert (found - truth)[finite].abs().max() <= TOLERANCE[dtype] * size


@pytest.mark.parametrize("dtype", DTYPES)
@each_extreme
def test_gradients_of_extreme_scores_equal_those_through_the_reference(name, dtype, device):
    scores, dustbin = extreme(name)
    if name == "spread 1e4" and dtype == torch.float32:
        scores /= 20  # one unit in the last place of 1e4 alone moves these gradients by a hundredth
    cotangent = torch.randn(2, 46, 39, dtype=torch.float64)
    truth = gradients(plain, scores, dustbin, 25, cotangent)
    here = [x.to(device, dtype) for x in (scores, dustbin, cotangent)]
    found = gradients(ops.log_sinkhorn, *here[:2], 25, here[2])
    bound = 2e-3 if dtype == torch.float32 else 1e-9
    for f, t in zip(found, truth):
        assert (f.cpu().double() - t).norm() <= bound * t.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "iterations"), [((1, 1, 1), 3), ((3, 1, 6), 2), ((2, 35, 1), 4), ((1, 70, 90), 90), ((2, 6, 5), 0)]
)
def test_gradients_equal_those_through_the_reference(shape, iterations, dtype, device):
    scores, dustbin = (torch.randn(shape) * 3).double(), torch.tensor(0.5, dtype=torch.float64)
    cotangent = torch.rand(shape[0], shape[1] + 1, shape[2] + 1).double()
    truth = gradients(plain, scores, dustbin, iterations, cotangent)
    here = [x.to(device, dtype) for x in (scores, dustbin, cotangent)]
    found = gradients(ops.log_sinkhorn, *here[:2], iterations, here[2])
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    scale = max(t.abs().max().item() for t in truth)
    assert all((f.cpu().double() - t).abs().max() <= tolerance * scale for f, t in zip(found, truth))


def test_one_item_on_each_side_has_a_closed_form(device):
    # a doubly stochastic 2 x 2 plan keeps the cross ratio exp(s + d - 2 d) = (p / (1 - p))^2
    scores = torch.linspace(-3, 6, 37, dtype=torch.float64, device=device)[:, None, None]
    plan = ops.log_sinkhorn(scores, 1.5, 400).exp()
    p = torch.sigmoid((scores - 1.5) / 2)
    assert torch.allclose(plan[:, :1, :1], p, atol=1e-12) and torch.allclose(plan[:, 1:, :1], 1 - p, atol=1e-12)


def test_masses_after_convergence(device):
    scores = torch.randn(3, 80, 50, device=device) * 3
    plan = ops.log_sinkhorn(scores, 1.0, 300).exp()
    rows, columns = plan.sum(2), plan.sum(1)
    assert torch.allclose(rows[:, :-1], torch.ones_like(rows[:, :-1]), atol=1e-4)
    assert torch.allclose(columns[:, :-1], torch.ones_like(columns[:, :-1]), atol=1e-4)
    assert torch.allclose(rows[:, -1].cpu(), torch.tensor(50.0), rtol=1e-4)
    assert torch.allclose(columns[:, -1].cpu(), torch.tensor(80.0), rtol=1e-4)


def test_what_must_not_change_the_plan(device):
    scores = (torch.randn(1, 41, 67, dtype=torch.float64) * 4).to(device)
    plan = ops.log_sinkhorn(scores, 1.0, 20)
    rows, columns = torch.randperm(41), torch.randperm(67)
    shuffled = ops.log_sinkhorn(scores[:, rows][:, :, columns], 1.0, 20)
    rows, columns = torch.cat([rows, torch.tensor([41])]), torch.cat([columns, torch.tensor([67])])
    assert torch.allclose(shuffled, plan[:, rows][:, :, columns], atol=1e-11)
    assert torch.allclose(ops.log_sinkhorn(scores + 7, 8.0, 20), plan, atol=1e-11)  # one constant on everything


def test_gradcheck_first_and_second_order():
    leaves = [torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(1, dtype=torch.float64)]
    leaves = [x.requires_grad_() for x in leaves]
    for iterations in (0, 1, 6):
        assert torch.autograd.gradcheck(lambda *x, t=iterations: ops.log_sinkhorn(*x, t), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: ops.log_sinkhorn(*x, 3), leaves)


def test_opcheck_of_the_operator_and_its_backward():
    scores = torch.randn(2, 5, 4, requires_grad=True)
    dustbin = torch.randn(1, 1, 1, requires_grad=True)
    torch.library.opcheck(torch.ops.medrecon.log_sinkhorn.default, (scores, dustbin, 4))
    arguments = torch.randn(2, 6, 5), scores.detach(), dustbin.detach(), 4
    torch.library.opcheck(torch.ops.medrecon.log_sinkhorn_backward.default, arguments)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 0, 0)])
def test_nothing_to_assign(shape, device):
    scores = torch.zeros(shape, device=device, requires_grad=True)
    dustbin = torch.tensor(1.0, device=device, requires_grad=True)
    plan = ops.log_sinkhorn(scores, dustbin, 5)
    expected = plain(scores, dustbin, 5)
    assert plan.shape == expected.shape and torch.equal(plan, expected)
    by_scores, by_bin = torch.autograd.grad(plan.exp().sum(), [scores, dustbin])
    assert by_scores.shape == shape and by_bin == 0


def test_any_strides_give_the_same_as_dense_ones(device):
    scores = torch.randn(2, 20, 33, device=device)
    strided = torch.stack([scores, scores], -1)[..., 0]
    turned = scores.transpose(1, 2).contiguous().transpose(1, 2)
    dense = ops.log_sinkhorn(scores, 1.0, 9)
    assert torch.equal(ops.log_sinkhorn(strided, 1.0, 9), dense)
    assert torch.equal(ops.log_sinkhorn(turned, 1.0, 9), dense)
    dustbin = torch.tensor(1.0, device=device)
    broad = gradients(ops.log_sinkhorn, turned, dustbin, 9, torch.ones(1, 1, 1, device=device).expand(2, 21, 34))
    ones = gradients(ops.log_sinkhorn, scores, dustbin, 9, torch.ones(2, 21, 34, device=device))
    assert all(torch.equal(a, b) for a, b in zip(broad, ones))


def test_not_a_number_spoils_its_own_problem_and_no_other(device):
    scores = torch.randn(3, 40, 40, device=device)
    clean = ops.log_sinkhorn(scores, 1.0, 8)
    scores[1, 17, 4] = math.nan
    plan = ops.log_sinkhorn(scores, 1.0, 8)
    assert plan[1].isnan().all()
    assert torch.equal(plan[::2], clean[::2])


@pytest.mark.parametrize("batch", [1, 5])
def test_neither_threads_nor_the_batch_change_a_bit(batch):
    scores, dustbin, cotangent = torch.randn(batch, 150, 90) * 4, torch.tensor(1.0), torch.randn(batch, 151, 91)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(
            [ops.log_sinkhorn(scores, dustbin, 30), *gradients(ops.log_sinkhorn, scores, dustbin, 30, cotangent)]
        )
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))
    alone = torch.cat([ops.log_sinkhorn(scores[b : b + 1], dustbin, 30) for b in range(batch)])
    assert torch.equal(alone, results[0][0])


PROGRAM = """
import torch
from medrecon import ops
from medrecon.ops import reference
torch.manual_seed(0)
worst = 0.0
for scale in (4, 1000):
    for dtype, unit in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        scores = (torch.randn(1, 70, 51) * scale).to(dtype)
        truth = reference.log_sinkhorn(scores.double(), torch.ones(1, 1, 1).double(), 20)
        error = (ops.log_sinkhorn(scores, 1.0, 20) - truth).abs().max() / truth.abs().max()
        worst = max(worst, error.item() / unit)
print(ops.backend().build_info["simd"], worst)
"""


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_each_instruction_set_is_right(name):
    environment = os.environ | {"MEDRECON_SIMD": name}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    used, worst = result.stdout.split()
    assert float(worst) <= 1
    if used != name:
        pytest.skip(f"this processor has only {used}")


def test_the_operators_check_for_themselves():
    scores, dustbin = torch.randn(2, 3, 4), torch.ones(1)
    op, backward = torch.ops.medrecon.log_sinkhorn, torch.ops.medrecon.log_sinkhorn_backward
    with pytest.raises(RuntimeError, match="scores has shape"):
        op(scores[0], dustbin, 5)
    with pytest.raises(RuntimeError, match="bin_score has shape"):
        op(scores, torch.ones(2), 5)
    with pytest.raises(RuntimeError, match="iterations is -1"):
        op(scores, dustbin, -1)
    with pytest.raises(RuntimeError, match="grad has shape"):
        backward(torch.randn(2, 3, 4), scores, dustbin, 5)
