# SPDX-License-Identifier: Apache-2.0
"""The CUDA source of fused_field runs on the CPU, its matrix units imitated, against the float64 reference."""

import ctypes

import cuda_on_host
import numpy as np
import pytest
import torch
from cuda_on_host import call

from medrecon.ops import reference

# sizes: rays, samples, min_deg, degrees, width, layers, colour_width, precision, background_stride (-1: none)
ENTRY = """
using namespace medrecon;
using namespace medrecon::cuda;
namespace {
template <typename T>
int run(const int64_t* n, FieldTask<T> task) {
  const FieldShape shape{n[2], n[3], n[4], n[5], n[6], 0.5, 2.0};
  const auto precision = static_cast<FieldPrecision>(n[7]);
  task.rays = n[0];
  task.samples = n[1];
  task.background_stride = n[8];
  if (n[8] < 0) task.background = nullptr;
  const int64_t size = field_work_size<T>(shape, task, precision);
  std::vector<uint64_t> work(size / 8 + 4, 0x7ff8dead7ff8dead);
  void* begin = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(work.data()) + 15) / 16 * 16);
  const int code = fused_field<T>(nullptr, shape, task, precision, begin);
  const bool beyond = *reinterpret_cast<uint64_t*>(static_cast<char*>(begin) + size) != 0x7ff8dead7ff8dead;
  return beyond ? -1 : code;
}
}  // namespace
extern "C" int64_t most_shared_bytes() {
  int64_t most = 0;
  const FieldShape shape{0, 16, 128, 4, 128, 0, 1};
  for (const bool back : {false, true}) {
    for (const auto& plan : {tile_plan<Exact<float>>(shape, back), tile_plan<Exact<double>>(shape, back),
                             tile_plan<Tf32>(shape, back), tile_plan<Bf16>(shape, back)}) {
      most = std::max(most, plan.bytes());
    }
  }
  return most <= kSharedBytes ? most : -most;
}
#define ENTRY(T)                                                                                                       \\
  extern "C" int forward_##T(const int64_t* n, const bool* mask, const T* t, const T* o, const T* d, const T* r,       \\
                             const T* parameters, const T* ray_bias, const T* background, T* rgb, T* depth,            \\
                             T* opacity, T* weights) {                                                                 \\
    FieldTask<T> task{0, 0, t, o, d, r, parameters, ray_bias, background, 0, mask, rgb, depth, opacity, weights};      \\
    return run(n, task);                                                                                               \\
  }                                                                                                                    \\
  extern "C" int backward_##T(const int64_t* n, const bool* mask, const T* t, const T* o, const T* d, const T* r,      \\
                              const T* parameters, const T* ray_bias, const T* background, const T* g_rgb,             \\
                              const T* g_depth, const T* g_opacity, const T* g_weights, T* o_parameters,               \\
                              T* o_ray_bias, T* o_background) {                                                        \\
    FieldTask<T> task{0, 0, t, o, d, r, parameters, ray_bias, background, 0, mask};                                    \\
    task.grad_rgb = g_rgb;                                                                                             \\
    task.grad_depth = g_depth;                                                                                         \\
    task.grad_opacity = g_opacity;                                                                                     \\
    task.grad_weights = g_weights;                                                                                     \\
    task.grad_parameters = o_parameters;                                                                               \\
    task.grad_ray_bias = o_ray_bias;                                                                                   \\
    task.grad_background = n[8] < 0 ? nullptr : o_background;                                                          \\
    return run(n, task);                                                                                               \\
  }                                                                                                                    \\
  extern "C" int loss_##T(const int64_t* n, const bool* mask, const T* t, const T* o, const T* d, const T* r,          \\
                          const T* parameters, const T* ray_bias, const T* background, const T* target,                \\
                          const T* ray_weight, T* loss, T* rgb, T* weights, T* o_parameters, T* o_ray_bias,            \\
                          T* o_background) {                                                                           \\
    FieldTask<T> task{0, 0, t, o, d, r, parameters, ray_bias, background, 0, mask, rgb, nullptr, nullptr, weights};    \\
    task.target = target;                                                                                              \\
    task.ray_weight = ray_weight;                                                                                      \\
    task.loss = loss;                                                                                                  \\
    task.grad_parameters = o_parameters;                                                                               \\
    task.grad_ray_bias = o_ray_bias;                                                                                   \\
    task.grad_background = n[8] < 0 ? nullptr : o_background;                                                          \\
    return run(n, task);                                                                                               \\
  }
ENTRY(float)
ENTRY(double)
"""
SMALLER = {
    r"\bkFieldThreads = \d+": "kFieldThreads = 64",
    r"\bkParts = \d+": "kParts = 2",
    r"\bkMostRows = \d+": "kMostRows = 32",
}
# name: numbers, largest error of a value, of a gradient (relative, in norm)
PRECISIONS = {
    "double": (np.float64, 0, 1e-12, 1e-12),
    "float": (np.float32, 0, 1e-5, 1e-5),
    "tf32": (np.float32, 1, 1e-3, 2e-2),  # 4e-4 and less, but for a ReLU that rounding turns over
    "bf16": (np.float32, 2, 8e-3, 2e-2),
}
# rays, samples, width, layers, colour_width, min_deg, degrees, background_stride, share of the samples that is kept
CASES = {
    "one of everything": (1, 1, 1, 1, 1, 0, 1, 3, None),
    "ray longer than a tile": (3, 45, 24, 2, 12, 0, 3, 0, None),
    "many short rays": (31, 3, 16, 1, 8, -1, 4, -1, None),
    "masked": (7, 19, 17, 2, 33, 0, 2, 3, 0.4),
    "masked, several tiles": (5, 61, 16, 1, 8, 0, 2, -1, 0.8),
    "masked away": (5, 8, 16, 1, 8, 0, 2, 0, 0.0),
    "deep": (2, 9, 40, 4, 20, 0, 2, 3, 0.8),
    "no rays": (0, 4, 16, 2, 8, 0, 2, -1, None),
    "no samples": (3, 0, 16, 2, 8, 0, 2, 3, None),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    sources = [f"core/{name}.h" for name in ("composite", "encoding", "field", "frustum")] + ["cpu/field.h"]
    sources += [f"cuda/{name}" for name in ("field.h", "field_tile.h", "field_back.h", "multiply.h", "field.cu")]
    made = cuda_on_host.build(tmp_path_factory.mktemp("field_on_host"), sources, ENTRY, cuda_on_host.SMALLER | SMALLER)
    made.lanes_of_a_warp(32)
    return made


def inputs_of(case):
    """float64 tensors that float32 holds, the mask, and the cotangents of the four outputs."""
    n, s, width, layers, colour, _, degrees, _, share = CASES[case]
    generator = torch.Generator().manual_seed(5)
    uniform = lambda low, high, *shape: low + (high - low) * torch.rand(*shape, generator=generator)  # noqa: E731
    t = torch.linspace(1, 3, s + 1) + uniform(0, 1.5 / (s + 1), n, s + 1)
    sizes = [(width, 6 * degrees), *[(width, width)] * (layers - 1)]
    shapes = [shape for size in sizes for shape in (size, (width,))]
    shapes += [(1, width), (1,), (colour, width), (3, colour), (3,)]
    # as large as layers are initialised, that gradients reach the first
    parameters = torch.cat([(uniform(-1, 1, *x) * (3 / x[-1]) ** 0.5).flatten() for x in shapes])
    rays = [t, uniform(-1, 1, n, 3), uniform(-1, 1, n, 3), uniform(0.005, 0.02, n, 1)]
    rest = [parameters, uniform(-0.5, 0.5, n, colour), uniform(0, 1, n, 3)]
    mask = None if share is None else uniform(0, 1, n, s) < share
    cotangents = [uniform(-1, 1, *x) for x in ((n, 3), (n,), (n,), (n, s))]
    return [x.double() for x in (*rays, *rest)], mask, [x.double() for x in cotangents], uniform(0, 1, n, 4).double()


def run(library, name, case, precision, inputs, mask, sizes):
    n, s, width, layers, colour, min_deg, degrees, stride, _ = CASES[case]
    dtype, code, *_ = PRECISIONS[precision]
    numbers = np.array([n, s, min_deg, degrees, width, layers, colour, code, stride])
    flags = None if mask is None else np.ascontiguousarray(mask.numpy())
    function = getattr(library, f"{name}_{'double' if dtype == np.float64 else 'float'}")

    def checked(*arguments):
        where = None if flags is None else ctypes.c_void_p(flags.ctypes.data)
        assert function(ctypes.c_void_p(numbers.ctypes.data), where, *arguments) == 0

    checked.library = library
    return call(checked, (), [x.numpy().astype(dtype) for x in inputs], sizes)


def close(found, truth, relative):
    truth = truth.detach().numpy().ravel()
    assert found.shape == truth.shape and np.isfinite(found).all()
    assert np.linalg.norm(found - truth) <= relative * np.linalg.norm(truth) + 1e-12


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_reference(library, case, precision):
    n, s, width, layers, colour, min_deg, degrees, stride, _ = CASES[case]
    _, _, of_value, of_gradient = PRECISIONS[precision]
    inputs, mask, cotangents, wanted = inputs_of(case)
    if stride == 0:
        inputs[6] = torch.tensor([0.2, 0.5, 0.9]).double()
    leaves = [x.requires_grad_() for x in inputs[4:]]
    background = None if stride < 0 else leaves[2] if stride == 3 else leaves[2].expand(n, 3)
    shape = (min_deg, min_deg + degrees, width, layers, colour, 0.5, 2.0)
    truth = reference.fused_field(*inputs[:6], background, mask, *shape)

    plain = [x.detach() for x in inputs]
    found = run(library, "forward", case, precision, plain, mask, [3 * n, n, n, n * s])
    for a, b in zip(found, truth):
        b = b.detach().numpy().ravel()
        assert np.abs(a - b).max(initial=0) <= of_value * max(1, np.abs(b).max(initial=0))

    sizes = [leaves[0].numel(), n * colour, 0 if background is None else 3 * n]
    found = run(library, "backward", case, precision, [*plain, *cotangents], mask, sizes)
    wrt = leaves[:2] if background is None else [*leaves[:2], background]
    grads = torch.autograd.grad(truth, wrt, cotangents, retain_graph=True, allow_unused=True)
    for a, b, x in zip(found, grads, wrt):
        close(a, torch.zeros_like(x) if b is None else b, of_gradient)

    target, weight = wanted[:, :3], wanted[:, 3]
    loss = (weight * ((truth[0] - target) ** 2).mean(-1)).sum()
    found = run(library, "loss", case, precision, [*plain, target, weight], mask, [1, 3 * n, n * s, *sizes])
    assert abs(found[0][0] - loss.item()) <= of_gradient * max(1e-3, loss.item())
    assert np.abs(found[1] - truth[0].detach().numpy().ravel()).max(initial=0) <= of_value
    grads = torch.autograd.grad(loss, wrt, allow_unused=True)
    for a, b, x in zip(found[3:], grads, wrt):
        close(a, torch.zeros_like(x) if b is None else b, of_gradient)


def test_the_largest_network_fits_into_what_every_gpu_has(library):
    assert 0 < library.most_shared_bytes() <= 98304


@pytest.mark.parametrize("precision", PRECISIONS)
def test_not_a_number_stays_in_its_ray(library, precision):
    case = "many short rays"
    n, s, *_ = CASES[case]
    inputs, mask, _, _ = inputs_of(case)
    for argument, value in ((1, np.nan), (1, np.inf), (0, np.nan), (5, np.nan)):
        broken = [x.detach().clone() for x in inputs]
        broken[argument][4, 0] = value
        rgb, *_ = run(library, "forward", case, precision, broken, mask, [3 * n, n, n, n * s])
        shows = np.isnan(rgb.reshape(n, 3))
        assert shows[4].all() and not np.delete(shows, 4, 0).any()


def test_high_octaves_of_far_points_are_right_in_float32(library):
    case = "fine"
    CASES[case] = (9, 24, 16, 1, 8, 0, 16, -1, None)
    try:
        inputs, mask, _, _ = inputs_of(case)
        inputs[1] += 3
        inputs[3] *= 1e-3
        inputs[0] = 1 + (inputs[0] - 1) * 1e-3
        inputs = [x.float().double() for x in inputs]
        found = run(library, "forward", case, "float", inputs, mask, [27, 9, 9, 9 * 24])
    finally:
        del CASES[case]
    truth = reference.fused_field(*inputs[:6], None, None, 0, 16, 16, 1, 8, 0.5, 2.0)
    for a, b in zip(found, truth):
        assert np.abs(a - b.numpy().ravel()).max() <= 1e-5 * max(1, b.abs().max())
