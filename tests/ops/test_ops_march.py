# SPDX-License-Identifier: Apache-2.0
"""march_rays against dense sampling of the same lattice, written in numpy without any leap; its edges."""

import math

import numpy as np
import pytest
import torch

from medrecon import ops
from medrecon.ops import reference


def packed_bits(cells):
    """bool [x, y, z] -> uint8 with x fastest."""
    return torch.from_numpy(np.packbits(cells.transpose(2, 1, 0).ravel(), bitorder="little"))


def blobs(resolution, share, seed=0):
    """Occupied cells in lumps and alone, and large empty spaces."""
    rng = np.random.default_rng(seed)
    centre = np.stack(np.meshgrid(*[(np.arange(resolution) + 0.5) / resolution] * 3, indexing="ij"), -1)
    cells = rng.random((resolution,) * 3) < share / 10
    for c in rng.random((3, 3)):
        cells |= np.linalg.norm(centre - c, axis=-1) < 0.15
    return cells if resolution > 1 else ~cells


def rays(n, dtype=torch.float64, seed=0):
    """From outside, from inside, missing; one along x, one along a face of cells, one standing still."""
    g = torch.Generator().manual_seed(seed)
    origins = torch.rand(n, 3, generator=g, dtype=dtype) * 2 - 0.5
    target = torch.rand(n, 3, generator=g, dtype=dtype)
    directions = (target - origins) * (torch.rand(n, 1, generator=g, dtype=dtype) + 0.3)
    near = torch.rand(n, generator=g, dtype=dtype) * 0.2
    far = near + torch.rand(n, generator=g, dtype=dtype) * 4
    special = [((-0.2, 0.31, 0.77), (1.0, 0, 0)), ((0.5, -0.1, 0.25), (0, 0.7, 0)), ((0.4, 0.4, 0.4), (0, 0, 0))]
    special += [((0.3, 0.3, 1.5), (0.1, 0.1, -1.0)), ((1.5, 0.5, 0.5), (1.0, 0, 0)), ((0.5, 0.5, 2.0), (1.0, 0, 0))]
    for i, (o, d) in enumerate(special[:n]):
        origins[i], directions[i] = torch.tensor(o, dtype=dtype), torch.tensor(d, dtype=dtype)
    return origins, directions, near, far


def densely(origins, directions, near, far, cells, step, cone, jitter, most):
    """Lists of (t0, t1) per ray: every interval of the lattice, then those whose middle is in an occupied cell."""
    size, found = cells.shape[0], []
    for n in range(len(origins)):
        start = near[n] + (0 if jitter is None else jitter[n]) * max(step, cone * near[n])
        t0, k, kept = start, 0, []
        while len(kept) < most:
            t1 = t0 * (1 + cone) if cone > 0 and t0 > step / cone else start + (k + 1) * step
            middle = (t0 + t1) / 2
            if middle >= far[n] or k > 20_000:
                break
            x = origins[n] + middle * directions[n]
            if (x >= 0).all() and (x < 1).all() and cells[tuple(np.minimum((x * size).astype(int), size - 1))]:
                kept.append((t0, t1))
            t0, k = t1, k + 1
        found.append(kept)
    return found


def as_lists(packed):
    bounds = packed.offsets.tolist()
    pairs = list(zip(packed.t0.tolist(), packed.t1.tolist()))
    assert packed.offsets.dtype == torch.int64 and packed.ray.dtype == torch.int32 and bounds[0] == 0
    assert packed.ray.tolist() == [n for n in range(len(bounds) - 1) for _ in range(bounds[n], bounds[n + 1])]
    return [pairs[a:b] for a, b in zip(bounds, bounds[1:])]


@pytest.fixture(params=["chosen", "reference"])
def march(request):
    if request.param == "chosen":
        return ops.march_rays
    return lambda *a, **k: ops.Packed(*reference.march_rays(*a, **k))


@pytest.mark.parametrize("resolution", [1, 4, 7, 12, 16, 33])
@pytest.mark.parametrize(("step", "cone", "jittered"), [(0.013, 0.0, True), (0.05, 0.0, False), (0.004, 0.01, True)])
def test_equals_dense_sampling_of_the_same_lattice(march, resolution, step, cone, jittered):
    cells, inputs = blobs(resolution, 0.3), rays(60)
    jitter = torch.rand(60, dtype=torch.float64) if jittered else None
    found = march(*inputs, packed_bits(cells), resolution, step, cone, jitter, 200)
    arrays = [x.numpy() for x in inputs]
    truth = densely(*arrays, cells, step, cone, None if jitter is None else jitter.numpy(), 200)
    assert sum(map(len, truth)) > 20
    for a, b in zip(as_lists(found), truth):
        assert len(a) == len(b)
        assert np.allclose(a, b, rtol=1e-11, atol=0) if b else not a


@pytest.mark.parametrize("resolution", [10, 64])
@pytest.mark.parametrize("cone", [0.0, 1 / 128])
def test_float32_kernel_equals_the_reference_that_looks_everywhere(resolution, cone):
    inputs, bits = rays(800, torch.float32), packed_bits(blobs(resolution, 0.2))
    found, truth = (
        as_lists(ops.Packed(*f(*inputs, bits, resolution, 1 / 200, cone)))
        for f in (ops.march_rays, reference.march_rays)
    )
    # Where the compiler fuses multiplications and additions, a middle on the face between two cells may change its cell.
    differing = sum(len(set(a) ^ set(b)) for a, b in zip(found, truth))
    assert differing <= 1e-3 * sum(map(len, truth))


@pytest.mark.parametrize("step", [1 / 60, 1 / 900])  # few and many intervals in a cell
def test_a_small_thing_in_a_large_cube_is_not_leapt_over(step):
    axis = (np.arange(64) + 0.5) / 64
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1) - [0.7, 0.3, 0.55], axis=-1)
    cells = (distance < 0.06) | (distance > 1.05)  # and some corners
    inputs, bits = rays(300), packed_bits(cells)
    found, truth = (as_lists(ops.Packed(*f(*inputs, bits, 64, step))) for f in (ops.march_rays, reference.march_rays))
    assert found == truth and 0 < sum(map(len, truth)) and any(not x for x in truth)


def test_how_many_steps_cross_a_full_cube(march):
    bits = torch.full((64,), 255, dtype=torch.uint8)
    o, d = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
    found = march(o, d, torch.zeros(1), torch.full((1,), math.inf), bits, 8, 1 / 64)
    assert found.offsets.tolist() == [0, 64]
    assert torch.equal(found.t0, 1 + torch.arange(64) / 64) and torch.equal(found.t1, 1 + torch.arange(1, 65) / 64)
    cut = march(o, d, torch.zeros(1), torch.full((1,), math.inf), bits, 8, 1 / 64, max_samples=10)
    assert torch.equal(cut.t0, found.t0[:10])


def test_intervals_grow_with_the_distance(march):
    bits = torch.full((64,), 255, dtype=torch.uint8)
    o, d = torch.tensor([[0.1, 0.5, 0.5]]).double(), torch.tensor([[0.1, 0, 0]]).double()
    zero, far = torch.zeros(1).double(), torch.full((1,), 8.0).double()
    found = march(o, d, zero, far, bits, 8, 0.02, 0.05)
    length = found.t1 - found.t0
    assert torch.allclose(length, (0.05 * found.t0).clamp(min=0.02), rtol=1e-6)
    assert torch.equal(found.t0[1:], found.t1[:-1]) and found.t0[0] == 0 and found.t0[-1] > 7.4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_has_no_interval(march, bad):
    bits = torch.full((1,), 255, dtype=torch.uint8)
    o, d = torch.full((6, 3), 0.5), torch.tensor([[1.0, 0, 0]]).repeat(6, 1)
    near, far = torch.zeros(6), torch.ones(6)
    o[1, 2], d[2, 1], near[3] = bad, bad, bad
    far[4] = math.nan
    near[5] = 1.0
    found = march(o, d, near, far, bits, 2, 0.1)
    assert found.offsets.diff().tolist() == [5, 0, 0, 0, 0, 0]
    assert march(o, d, near, far, torch.zeros(1, dtype=torch.uint8), 2, 0.1).ray.numel() == 0
    assert march(o[:0], d[:0], near[:0], far[:0], bits, 2, 0.1).offsets.tolist() == [0]
    assert march(o, d, near, far, bits, 2, 0.1, max_samples=0).ray.numel() == 0


def test_steps_too_small_to_move_end_the_ray(march):
    bits = torch.full((1,), 255, dtype=torch.uint8)
    still = torch.full((1, 3), 0.5), torch.tensor([[0.0, 0.0, 1e-3]]), torch.ones(1), torch.full((1,), 9.0)
    assert march(*still, bits, 2, 1e-12).ray.numel() == 0
    assert march(*still, torch.zeros(1, dtype=torch.uint8), 2, 1e-9).ray.numel() == 0


def test_rays_along_the_faces_of_cells_belong_to_the_upper_cell(march):
    cells = np.zeros((4, 4, 4), bool)
    cells[:, 2, 1] = True
    o = torch.tensor([[0.0, 0.5, 0.25], [0.0, 0.49999, 0.25], [0.0, 0.75, 0.25], [0.99999, 0.5, 0.49999]])
    d = torch.tensor([[1.0, 0, 0]] * 3 + [[-1.0, 0, 0]])
    found = march(o, d, torch.zeros(4), torch.full((4,), 5.0), packed_bits(cells), 4, 0.125)
    assert found.offsets.diff().tolist() == [8, 0, 0, 8]


def test_the_result_does_not_depend_on_the_number_of_threads():
    inputs, bits = rays(2000, torch.float32), packed_bits(blobs(16, 0.2))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(ops.march_rays(*inputs, bits, 16, 0.01))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_any_strides_and_no_gradient():
    inputs, bits = rays(20), packed_bits(blobs(8, 0.2))
    strided = [torch.stack([x, x], -1)[..., 0].requires_grad_() for x in inputs]
    found = ops.march_rays(*strided, torch.stack([bits, bits], -1)[..., 0], 8, 0.05)
    truth = ops.march_rays(*inputs, bits, 8, 0.05)
    assert all(torch.equal(a, b) for a, b in zip(found, truth))
    assert not any(x.requires_grad for x in found)


def test_opcheck(kernels):
    inputs, bits = rays(7), packed_bits(blobs(6, 0.2))
    for jitter in (None, torch.rand(7, dtype=torch.float64)):
        torch.library.opcheck(torch.ops.medrecon.march_rays.default, (*inputs, bits, 6, 0.05, 0.0, jitter, 100))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"origins": torch.rand(5, 2)}, "origins has shape"),
        ({"directions": torch.rand(4, 3)}, "directions has shape"),
        ({"near": torch.rand(5, 1)}, "near has shape"),
        ({"far": torch.rand(5).double()}, "far is torch.float64"),
        ({"jitter": torch.rand(4)}, "jitter has shape"),
        ({"occupancy": torch.zeros(7)}, "occupancy must be"),
        ({"occupancy": torch.zeros(7, dtype=torch.uint8)}, "occupancy has shape"),
        ({"resolution": 0}, "resolution is 0"),
        ({"step": 0.0}, "step is 0"),
        ({"cone": -1.0}, "cone -1"),
        ({"max_samples": -1}, "max_samples is -1"),
    ],
)
def test_errors_name_the_argument(change, named):
    right = {"origins": torch.rand(5, 3), "directions": torch.rand(5, 3), "near": torch.zeros(5), "far": torch.ones(5)}
    right |= {"occupancy": torch.zeros(8, dtype=torch.uint8), "resolution": 4, "step": 0.1}
    ops.march_rays(**right)
    with pytest.raises(ValueError, match=named):
        ops.march_rays(**right | change)
