# SPDX-License-Identifier: Apache-2.0
"""LazyAdam against torch.optim.Adam, which it is where every number has a gradient."""

from copy import deepcopy

import pytest
import torch

from medrecon import ops

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def descend(make, dtype, size, lazy):
    """Three parameters after six steps on random gradients; in the last three, `lazy` rows have none."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(size, 2), (size,), (1, size, 3)]
    leaves = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    optimiser = make(leaves)
    for step in range(6):
        for leaf in leaves:
            grad = torch.randn(leaf.shape, generator=generator).to(dtype)
            leaf.grad = torch.where(grad == 0, torch.ones_like(grad), grad)
            if step >= 3:
                leaf.grad.view(-1)[lazy] = 0
        optimiser.step()
    return [x.detach() for x in leaves]


@pytest.mark.parametrize("size", [1, 17, 100000])
@BOTH
def test_where_all_have_a_gradient_it_is_adam(size, dtype):
    found = descend(lambda p: ops.LazyAdam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-8), dtype, size, [])
    truth = descend(lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-8), dtype, size, [])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(found, truth))


@BOTH
def test_what_has_no_gradient_is_left_alone(dtype):
    lazy = torch.tensor([0, 5, 6, 33])
    stopped = descend(lambda p: ops.LazyAdam(p, lr=0.05), dtype, 40, lazy)
    full = descend(lambda p: ops.LazyAdam(p, lr=0.05), dtype, 40, [])
    rest = torch.ones(40, dtype=torch.bool).index_fill(0, lazy, False)
    assert torch.equal(stopped[1][rest], full[1][rest]) and not torch.equal(stopped[1][lazy], full[1][lazy])
    three = torch.randn(4, dtype=dtype).requires_grad_()
    before, optimiser = three.detach().clone(), ops.LazyAdam([three], lr=0.5)
    for _ in range(3):
        three.grad = torch.tensor([0.0, 1.0, 0.0, -1.0], dtype=dtype)
        optimiser.step()
    assert torch.equal(three[::2], before[::2]) and ((three - before)[1::2].abs() > 1).all()
    state = optimiser.state[three]
    assert not state["exp_avg"][::2].any() and state["exp_avg_sq"][1] > 0


def test_kernel_and_reference_agree(kernels):
    values = torch.randn(2, 3, 1001, dtype=torch.float64)
    values[1, 0, ::3] = 0
    results = []
    for strided in (False, True):  # what is not contiguous goes to the reference
        leaf = (torch.stack([values[0]] * 2, -1)[..., 0] if strided else values[0].clone()).requires_grad_()
        optimiser = ops.LazyAdam([leaf], lr=0.1)
        for _ in range(3):
            leaf.grad = values[1].clone()
            optimiser.step()
        results.append(leaf.detach())
    assert torch.allclose(*results, rtol=1e-12, atol=1e-12)


def test_the_state_goes_into_a_checkpoint_and_back():
    leaf = torch.ones(5, requires_grad=True)
    first = ops.LazyAdam([leaf], lr=0.1)
    leaf.grad = torch.ones(5)
    first.step()
    copy = leaf.detach().clone().requires_grad_()
    second = ops.LazyAdam([copy], lr=0.1)
    second.load_state_dict(deepcopy(first.state_dict()))
    copy.grad = leaf.grad = torch.full((5,), 2.0)
    first.step()
    second.step()
    assert torch.equal(leaf, copy)


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"eps": 0}, {"betas": (1.0, 0.9)}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="LazyAdam"):
        ops.LazyAdam([torch.ones(1, requires_grad=True)], **wrong)


def test_opcheck(kernels):
    tensors = [torch.rand(7) for _ in range(4)]
    torch.library.opcheck(torch.ops.medrecon.lazy_adam_.default, (*tensors, 0.1, 0.9, 0.99, 1e-8, 1))
