# SPDX-License-Identifier: Apache-2.0
"""Every op on memory that is strided or misaligned, and on numbers that are none. Under the address sanitizer
(benchmarks/sanitize.py --tests) this also shows that nothing is read or written out of bounds."""

import math

import pytest
import torch

from medrecon.ops import selftest

CASES = {case.name: case for case in selftest.cases(torch.Generator().manual_seed(0))}


def _misaligned(x):
    """The same numbers, dense, one element away from where the allocator would put them."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


def _strided(x):
    return x.new_full((*x.shape, 3), math.nan).copy_(x[..., None])[..., 1]


def _all_results(case, inputs):
    """Outputs and, where there are, gradients."""
    leaves = [x.detach().requires_grad_(case.grads) for x in inputs]
    outputs = selftest._tuple(case.op(*leaves))
    if not case.grads:
        return outputs
    cotangents = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) for x in outputs]
    return *(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, cotangents)


def _same(found, expected):
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("layout", [_misaligned, _strided])
@pytest.mark.parametrize("name", CASES)
def test_the_layout_in_memory_changes_no_bit(name, layout):
    case = CASES[name]
    dense = [x.float() for x in case.inputs]
    assert _same(_all_results(case, [layout(x) for x in dense]), _all_results(case, dense))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, -3e38])
@pytest.mark.parametrize("name", CASES)
def test_what_is_no_number_anywhere_gives_a_defined_result(name, bad):
    """In each input in turn: nothing ends the program, shapes stay, and the same comes out again."""
    case = CASES[name]
    for i, spoilt in enumerate(case.inputs):
        inputs = [x.float() for x in case.inputs]
        chosen = torch.rand(spoilt.shape, generator=torch.Generator().manual_seed(i)) < max(0.02, 1.5 / spoilt.numel())
        inputs[i] = torch.where(chosen, torch.tensor(bad), inputs[i])
        first = _all_results(case, inputs)
        assert all(x.shape == g.shape for x, g in zip(inputs, first[-len(inputs) :])) or not case.grads
        assert _same(_all_results(case, inputs), first)
