# SPDX-License-Identifier: Apache-2.0
"""fused_field on a real GPU: its precisions, repetition, graphs, streams and torch.compile. Elsewhere skipped."""

import pytest
import torch

from medrecon import ops
from medrecon.ops import backends, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MIPNERF = {"max_deg": 16, "width": 64, "layers": 2, "colour_width": 32, "density_shift": -1.0, "density_gain": 2.0}
SHAPES = {
    "mip-NeRF": (MIPNERF, 133, 64),
    "largest": ({**MIPNERF, "width": 128, "layers": 4, "colour_width": 128}, 37, 50),
    "smallest": ({**MIPNERF, "max_deg": 1, "width": 1, "layers": 1, "colour_width": 1}, 3, 5),
    "long rays": ({**MIPNERF, "max_deg": 5, "width": 24, "colour_width": 12}, 5, 300),
    "many short rays": ({**MIPNERF, "max_deg": 4, "width": 17, "colour_width": 33}, 2001, 3),
}
# precision: largest error of a value, smallest cosine of a gradient
BOUNDS = {"highest": (1e-5, 0.99999), "high": (1e-3, 0.999), "medium": (1e-2, 0.99)}


@pytest.fixture(autouse=True)
def kernels_and_precision():
    if not backends.kernels_for("cuda"):
        pytest.skip(f"no CUDA kernels: {ops.backend().reason}")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def case(shape, n, s, masked=False):
    """float64 tensors on the GPU that float32 holds: rays, what gets gradients, the mask, cotangents."""
    t = torch.linspace(1, 4, s + 1) + torch.rand(n, s + 1) * 2 / (s + 1)
    rays = [t, torch.randn(n, 3) * 0.5, torch.randn(n, 3), torch.rand(n, 1) * 0.01 + 0.001]
    n_in, w, c = 6 * shape["max_deg"], shape["width"], shape["colour_width"]
    sizes = [(w, n_in)] + [(w, w)] * (shape["layers"] - 1)
    shapes = [x for size in sizes for x in (size, (w,))] + [(1, w), (1,), (c, w), (3, c), (3,)]
    parameters = torch.cat([((2 * torch.rand(x) - 1) * (3 / x[-1]) ** 0.5).flatten() for x in shapes])
    leaves = [parameters, torch.randn(n, c) * 0.5, torch.rand(n, 3)]
    mask = (torch.rand(n, s) < 0.4).cuda() if masked else None
    cotangents = [torch.randn(x) for x in ((n, 3), (n,), (n,), (n, s))]
    return (
        *([x.double().cuda() for x in part] for part in (rays, leaves)),
        mask,
        [x.double().cuda() for x in cotangents],
    )


def all_of(rays, leaves, mask, cotangents, shape):
    """Outputs and gradients of fused_field, then of fused_field_loss, with the inputs' dtype."""
    leaves = [x.detach().requires_grad_() for x in leaves]
    given = {"background": leaves[2], "mask": mask, **shape}
    outputs = ops.fused_field(*rays, *leaves[:2], **given)
    grads = torch.autograd.grad(outputs, leaves, cotangents)
    target, weight = cotangents[0].sigmoid(), cotangents[1].sigmoid()
    loss, rgb, weights = ops.fused_field_loss(*rays, *leaves[:2], target, weight, **given)
    return [*outputs, loss, rgb, weights], [*grads, *torch.autograd.grad(loss, leaves)]


def truth_of(rays, leaves, mask, cotangents, shape):
    leaves = [x.detach().requires_grad_() for x in leaves]
    numbers = (0, *(shape[k] for k in MIPNERF))
    outputs = reference.fused_field(*rays, *leaves, mask, *numbers)
    target, weight = cotangents[0].sigmoid(), cotangents[1].sigmoid()
    loss = (weight * ((outputs[0] - target) ** 2).mean(-1)).sum()
    grads = torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True)
    return [*outputs, loss, outputs[0], outputs[3]], [*grads, *torch.autograd.grad(loss, leaves)]


def float32(given):
    rays, leaves, mask, cotangents = given
    return *([x.float() for x in part] for part in (rays, leaves)), mask, [x.float() for x in cotangents]


def cosine(a, b):
    a, b = a.double().flatten(), b.flatten()
    return float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300)) if b.any() else float(not a.any())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_cuda_kernels_are_the_float64_reference(name, masked):
    shape, n, s = SHAPES[name]
    given = case(shape, n, s, masked)
    values, grads = truth_of(*given, shape)
    found, found_grads = all_of(*given, shape)
    for a, b in zip(found, values):
        assert (a - b).abs().max() <= 1e-11 * max(1.0, b.abs().max().item())
    for a, b in zip(found_grads, grads):
        assert (a - b).norm() <= 1e-9 * b.norm() + 1e-12
    for precision, (bound, smallest) in BOUNDS.items():
        torch.set_float32_matmul_precision(precision)
        found, found_grads = all_of(*float32(given), shape)
        for a, b in zip(found, values):
            assert (a - b).abs().max() <= bound * max(1.0, b.abs().max().item()), precision
        for a, b in zip(found_grads, grads):
            assert cosine(a, b) >= smallest, precision


@pytest.mark.parametrize("precision", BOUNDS)
def test_cuda_results_repeat_bit_for_bit_also_on_two_streams(precision):
    torch.set_float32_matmul_precision(precision)
    shape, n, s = SHAPES["mip-NeRF"]
    given = float32(case(shape, n, s, masked=True))
    first = [x.clone() for part in all_of(*given, shape) for x in part]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for k in range(6):
        with torch.cuda.stream(streams[k % 2]):
            results.append([x for part in all_of(*given, shape) for x in part])
    torch.cuda.synchronize()
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(first, result))


def test_cuda_graph_captures_a_training_step():
    shape, n, s = SHAPES["mip-NeRF"]
    rays, leaves, mask, cotangents = float32(case(shape, n, s))
    parameters, ray_bias, background = (x.requires_grad_() for x in leaves)
    target, weight = cotangents[0].sigmoid(), cotangents[1].sigmoid()

    def step():
        loss, *_ = ops.fused_field_loss(*rays, parameters, ray_bias, target, weight, background=background, **shape)
        rgb, *_ = ops.fused_field(*rays, parameters, ray_bias, background=background, **shape)
        return loss, rgb, *torch.autograd.grad(loss + rgb.square().sum(), (parameters, ray_bias, background))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for shift in (0.0, 0.25):
        with torch.no_grad():
            rays[1].add_(shift)
            parameters.mul_(1 - shift)
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, step()))


def test_cuda_kernels_under_torch_compile():
    shape, n, s = SHAPES["long rays"]
    rays, leaves, _, _ = float32(case(shape, n, s))
    leaves = [x.requires_grad_() for x in leaves]

    def render(parameters, ray_bias, background):
        rgb, depth, *_ = ops.fused_field(*rays, parameters, ray_bias, background=background, **shape)
        return rgb.square().sum() + depth.sum()

    torch._dynamo.reset()
    compiled = torch.compile(render, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves), leaves)
    assert all(torch.equal(a, b) for a, b in zip(found, torch.autograd.grad(render(*leaves), leaves)))


def test_cuda_tensors_that_do_not_fit_go_to_the_reference():
    shape = {**MIPNERF, "width": 144, "max_deg": 3}
    given = float32(case(shape, 7, 9))
    values, _ = truth_of(*case_in_double(given), shape)
    found, _ = all_of(*given, shape)
    assert all((a - b).abs().max() <= 1e-4 * max(1.0, b.abs().max().item()) for a, b in zip(found, values))


def case_in_double(given):
    rays, leaves, mask, cotangents = given
    return *([x.double() for x in part] for part in (rays, leaves)), mask, [x.double() for x in cotangents]


@pytest.mark.parametrize(("n", "s"), [(0, 4), (3, 0), (0, 0), (1, 1), (1, 129)])
def test_cuda_kernels_of_every_size(n, s):
    shape = {**MIPNERF, "max_deg": 4}
    given = case(shape, n, s, masked=True)
    values, grads = truth_of(*given, shape)
    found, found_grads = all_of(*given, shape)
    for a, b in zip((*found, *found_grads), (*values, *grads)):
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-12)
