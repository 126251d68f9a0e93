# SPDX-License-Identifier: Apache-2.0
"""The kernels against the plain-torch reference: values, gradients, shapes, strides, errors, torch's own checks."""

import math

import pytest
import torch

from medrecon import ops
from medrecon.ops import backends, functions, reference

pytestmark = pytest.mark.usefixtures("kernels")
DTYPES = [torch.float32, torch.float64]


def rays(n, s, dtype=torch.float64, device="cpu"):
    t = (torch.rand(n, s + 1, dtype=dtype) * 4 + 0.1).sort(-1).values
    inputs = t, torch.randn(n, 3, dtype=dtype), torch.randn(n, 3, dtype=dtype), torch.rand(n, 1, dtype=dtype) * 0.1
    return [x.to(device) for x in inputs]


def gaussians(*shape, dtype=torch.float64, device="cpu"):
    mean = torch.randn(*shape, dtype=dtype)
    return [mean.to(device), (torch.rand(*shape, dtype=dtype) * -12).exp().to(device)]


# name, public op, plain twin, inputs maker, trailing integers
OPS = {
    "cast_rays": (functions.cast_rays, reference.cast_rays, lambda **k: rays(13, 7, **k), ()),
    "positional_encoding": (
        functions.positional_encoding,
        reference.positional_encoding,
        lambda **k: gaussians(5, 7, 3, **k)[:1],
        (0, 10),
    ),
    "integrated_positional_encoding": (
        functions.integrated_positional_encoding,
        reference.integrated_positional_encoding,
        lambda **k: gaussians(5, 7, 3, **k),
        (0, 16),
    ),
}
each_op = pytest.mark.parametrize("name", OPS)


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _value_and_grads(function, inputs, integers, cotangents=None):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = _tuple(function(*leaves, *integers))
    if cotangents is None:
        cotangents = [torch.rand_like(x) - 0.5 for x in outputs]
    return outputs, torch.autograd.grad(outputs, leaves, cotangents), cotangents


@each_op
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_equal_the_float64_reference(name, dtype, device):
    op, plain, make, integers = OPS[name]
    inputs = make(dtype=dtype, device=device)
    outputs, grads, cotangents = _value_and_grads(op, inputs, integers)
    in_double = [x.double() for x in inputs], integers, [c.double() for c in cotangents]
    expected, expected_grads, _ = _value_and_grads(plain, *in_double)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for found, truth in zip(outputs, expected):
        assert found.dtype == dtype and found.is_contiguous()
        assert (found - truth).abs().max() <= tolerance * max(1.0, truth.abs().max().item())
    for found, truth in zip(grads, expected_grads):
        assert (found - truth).norm() <= 10 * tolerance * truth.norm()


def test_small_variances_are_right_to_a_part_in_a_hundred_thousand_each(device):
    inputs = rays(200, 33, torch.float32, device)
    _, var = ops.cast_rays(*inputs)
    _, truth = reference.cast_rays(*(x.double() for x in inputs))
    assert ((var - truth).abs() <= 1e-5 * truth).all()


@each_op
def test_gradcheck_first_and_second_order(name):
    op, _, make, integers = OPS[name]
    if name == "cast_rays":
        inputs = rays(3, 2)
    else:
        inputs, integers = [x[0, :2] for x in make()], (-1, 2)
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: op(*x, *integers), leaves)
    assert torch.autograd.gradgradcheck(lambda *x: op(*x, *integers), leaves)


@each_op
def test_opcheck_of_the_operator_and_its_backward(name):
    op, _, make, integers = OPS[name]
    inputs = [x.requires_grad_() for x in make()]
    torch.library.opcheck(getattr(torch.ops.medrecon, name).default, (*inputs, *integers))
    grads = [torch.rand_like(x) for x in _tuple(op(*inputs, *integers))]
    plain_inputs = [x.detach() for x in (*grads, *inputs)]
    torch.library.opcheck(getattr(torch.ops.medrecon, f"{name}_backward").default, (*plain_inputs, *integers))


@each_op
def test_any_strides_give_the_same_as_dense_ones(name, device):
    op, _, make, integers = OPS[name]
    inputs = make(dtype=torch.float32, device=device)
    strided = [torch.stack([x, x], -1)[..., 0] for x in inputs]
    assert not any(x.is_contiguous() for x in strided)
    dense = _tuple(op(*inputs, *integers))
    strided_out = _tuple(op(*strided, *integers))
    leaves = [x.requires_grad_() for x in strided]
    broad = torch.autograd.grad([x.sum() for x in _tuple(op(*leaves, *integers))], leaves)  # expanded gradients
    _, ones, _ = _value_and_grads(op, inputs, integers, [torch.ones_like(x) for x in dense])
    assert all(torch.equal(a, b) for a, b in zip(dense, strided_out))
    assert all(torch.equal(a, b) for a, b in zip(broad, ones))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "s"), [(0, 4), (1, 1), (3, 0), (0, 0), (1, 129), (517, 3), (70, 15), (7, 16), (5, 17), (2, 33)]
)
def test_cast_rays_of_every_size(n, s, dtype, device):
    inputs = rays(n, s, dtype, device)
    outputs, grads, cotangents = _value_and_grads(ops.cast_rays, inputs, ())
    assert outputs[0].shape == outputs[1].shape == (n, s, 3)
    in_double = [x.double() for x in inputs], (), [c.double() for c in cotangents]
    expected, expected_grads, _ = _value_and_grads(reference.cast_rays, *in_double)
    relative, absolute = (1e-5, 2e-6) if dtype == torch.float32 else (1e-10, 1e-12)
    for found, truth in zip((*outputs, *grads), (*expected, *expected_grads)):
        scale = max(1.0, truth.abs().max().item()) if truth.numel() else 1.0
        assert torch.allclose(found.double(), truth, rtol=relative, atol=absolute * scale)


def test_cast_rays_where_there_is_no_direction_or_no_frustum(device):
    inputs = rays(4, 21, torch.float64, device)
    inputs[0][0, :5] = 0.0  # empty frusta at the apex, then one from the apex
    inputs[0][1, 7:] = inputs[0][1, 7:8]
    inputs[2][2] = 0.0
    inputs[2][3] = torch.tensor([3e-6, 0.0, -2e-6])  # below the floor of |direction|^2
    outputs, grads, cotangents = _value_and_grads(ops.cast_rays, inputs, ())
    expected, expected_grads, _ = _value_and_grads(reference.cast_rays, inputs, (), cotangents)
    for found, truth in zip((*outputs, *grads), (*expected, *expected_grads)):
        assert found.isfinite().all()
        assert torch.allclose(found, truth, rtol=1e-9, atol=1e-11)


def test_cast_rays_keeps_what_is_not_finite_on_its_ray(device):
    inputs = rays(3, 37, torch.float32, device)
    clean = ops.cast_rays(*inputs)
    inputs[0][1, 20] = math.nan
    inputs[2][1, 0] = math.inf
    for found, truth in zip(ops.cast_rays(*inputs), clean):
        assert torch.equal(found[[0, 2]], truth[[0, 2]])
        assert found[1, 19:21].isnan().any(-1).all()


def test_cast_rays_does_not_depend_on_the_number_of_threads():
    inputs = rays(301, 37, torch.float32)
    *_, cotangents = _value_and_grads(ops.cast_rays, inputs, ())
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        outputs, grads, _ = _value_and_grads(ops.cast_rays, inputs, (), cotangents)
        results.append((*outputs, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 1), (5, 0), (2, 0, 3), (1031, 3), (7, 2), (2, 3, 5, 1)])
@pytest.mark.parametrize("degrees", [(0, 4), (2, 2)])
def test_encodings_of_every_size(shape, degrees, device):
    for name in ("positional_encoding", "integrated_positional_encoding"):
        op, plain, _, _ = OPS[name]
        inputs = gaussians(*shape, device=device)[: 1 if name == "positional_encoding" else 2]
        outputs, grads, cotangents = _value_and_grads(op, inputs, degrees)
        assert outputs[0].shape == (*shape[:-1], 2 * shape[-1] * (degrees[1] - degrees[0]))
        expected, expected_grads, _ = _value_and_grads(plain, inputs, degrees, cotangents)
        for found, truth in zip((*outputs, *grads), (*expected, *expected_grads)):
            assert torch.allclose(found, truth, rtol=1e-10, atol=1e-12)


def test_high_frequencies_are_exact_in_float32(device):
    x = (torch.rand(4096, 3) * 20 - 10).to(device)
    found = ops.positional_encoding(x, 0, 16)
    truth = reference.positional_encoding(x.double(), 0, 16)
    assert (found - truth).abs().max() <= 1e-6  # fast-math sines would be wrong by 1e-3 and more


def test_not_a_number_and_infinity_show_where_they_belong(device):
    mean = torch.tensor([[math.nan, 0.5, math.inf]], device=device)
    var = torch.tensor([[0.1, math.inf, 1e30]], device=device)
    found = ops.integrated_positional_encoding(mean, var, 0, 3).reshape(2, 3, 3)
    assert found[..., 0].isnan().all() and found[..., 2].isnan().all()
    assert not found[..., 1].any()
    t = torch.tensor([[0.0, math.nan, 2.0, 3.0]], device=device)
    frusta = ops.cast_rays(t, *(torch.ones(1, k, device=device) for k in (3, 3, 1)))
    assert all(x[0, :2].isnan().all() and x[0, 2].isfinite().all() for x in frusta)


@each_op
def test_runs_repeat_bit_for_bit(name, device):
    op, _, make, integers = OPS[name]
    inputs = make(dtype=torch.float32, device=device)
    first, first_grads, cotangents = _value_and_grads(op, inputs, integers)
    again, again_grads, _ = _value_and_grads(op, inputs, integers, cotangents)
    assert all(torch.equal(a, b) for a, b in zip((*first, *first_grads), (*again, *again_grads)))


def test_the_result_does_not_depend_on_the_number_of_threads():
    mean, var = gaussians(20_001, 3, dtype=torch.float32)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(ops.integrated_positional_encoding(mean, var, 0, 8))
    assert torch.equal(*results)


def test_the_core_maths_by_itself():
    core = backends.extension()
    t_mean, t_var, r_var = core.frustum_moments(0.0, 1.0)  # a cone from its apex: density 3 t^2
    assert (t_mean, t_var) == (pytest.approx(3 / 4), pytest.approx(3 / 80))
    assert r_var == pytest.approx(3 / 20)  # a quarter of E[t^2]
    sine, cosine = core.encode_gaussian(0.3, 0.2, 2)
    assert sine == pytest.approx(math.exp(-8 * 0.2) * math.sin(1.2), abs=1e-7)
    assert cosine == pytest.approx(math.exp(-8 * 0.2) * math.cos(1.2), abs=1e-7)
    assert ops.backend().build_info["threading"] in ("openmp", "serial")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: ops.cast_rays(torch.rand(4).double(), *rays(4, 2)[1:]), "t has shape"),
        (lambda: ops.cast_rays(rays(4, 2)[0], *rays(5, 2)[1:]), "origins has shape"),
        (lambda: ops.cast_rays(*rays(4, 2)[:3], torch.rand(4).double()), "radii has shape"),
        (lambda: ops.cast_rays(*rays(4, 2)[:3], torch.rand(4, 1)), "radii is torch.float32 but t is torch.float64"),
        (lambda: ops.positional_encoding(torch.rand(4, 3).half(), 0, 4), "x must be float32 or float64"),
        (lambda: ops.positional_encoding([1.0], 0, 4), "x must be a tensor"),
        (lambda: ops.positional_encoding(torch.tensor(1.0), 0, 4), "x is a single number"),
        (lambda: ops.positional_encoding(torch.rand(3), 4, 1), "min_deg 4"),
        (lambda: ops.positional_encoding(torch.rand(3), 0, 99), "max_deg 99"),
        (lambda: ops.integrated_positional_encoding(torch.rand(4, 3), torch.rand(4, 2), 0, 4), "var has shape"),
        (
            lambda: ops.integrated_positional_encoding(torch.rand(3), torch.rand(3, device="meta"), 0, 4),
            "var is on meta",
        ),
        (lambda: ops.composite(*(torch.rand(2, 3, 3), torch.rand(2, 3), torch.rand(2, 3)), torch.rand(2, 3)), "t has"),
        (lambda: ops.resample(torch.rand(2, 1), torch.rand(2, 0), 4), "weights has shape"),
        (lambda: ops.resample(torch.rand(2, 4), torch.rand(2, 3), 0), "n is 0"),
        (lambda: ops.log_sinkhorn(torch.rand(3, 3), 1.0, 5), "scores has shape"),
        (lambda: ops.log_sinkhorn(torch.rand(1, 3, 3), torch.rand(2), 5), "bin_score has shape"),
    ],
)
def test_errors_name_the_argument(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_the_operators_check_for_themselves():
    with pytest.raises(RuntimeError, match="radii has shape"):
        torch.ops.medrecon.cast_rays(*rays(4, 2)[:3], torch.rand(5, 1).double())
    with pytest.raises(RuntimeError, match="must be float32 or float64"):
        torch.ops.medrecon.positional_encoding(torch.rand(4, 3).half(), 0, 4)
    with pytest.raises(RuntimeError, match="grad has shape"):
        torch.ops.medrecon.positional_encoding_backward(torch.rand(4, 9), torch.rand(4, 3), 0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_takes_the_ops_without_a_graph_break(dynamic):
    def encode(t, origins, directions, radii):
        mean, var = ops.cast_rays(t, origins, directions, radii)
        return (
            ops.integrated_positional_encoding(mean, var, 0, 4).square().sum()
            + ops.positional_encoding(directions, 0, 2).sum()
        )

    torch._dynamo.reset()
    compiled = torch.compile(encode, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n, s in ((6, 4), (9, 5)):
        inputs = [x.requires_grad_() for x in rays(n, s)]
        found = torch.autograd.grad(compiled(*inputs), inputs)
        truth = torch.autograd.grad(encode(*inputs), inputs)
        assert all(torch.allclose(a, b) for a, b in zip(found, truth))
