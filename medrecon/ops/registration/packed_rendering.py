# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``composite_packed``, whose offsets are a tensor without gradient."""

from __future__ import annotations

import torch

from ..reference import composite_packed

NAME = "medrecon::composite_packed"
# of the tensors with gradients: outputs; inputs (rgb, density, t0, t1, directions, background)
OUTPUTS, INPUTS = 4, 6


def register_packed_rendering() -> None:
    """Registers them."""
    torch.library.register_fake(NAME, _fake)
    torch.library.register_fake(f"{NAME}_backward", _fake_backward)
    torch.library.register_autograd(NAME, _backward, setup_context=_setup)
    torch.library.register_autograd(f"{NAME}_backward", _double_backward, setup_context=_setup_backward)


def _fake(rgb, density, t0, t1, directions, background, offsets, stop):
    rays = background.shape[0]
    return background.new_empty((rays, 3)), density.new_empty(rays), density.new_empty(rays), torch.empty_like(density)


def _fake_backward(*arguments):
    tensors = arguments[OUTPUTS + 3 : OUTPUTS + 3 + INPUTS]
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors)


def _setup(ctx, inputs, output):
    *tensors, ctx.stop = inputs
    ctx.save_for_backward(*output[1:], *tensors)


def _backward(ctx, *grads):
    gradients = torch.ops.medrecon.composite_packed_backward.default(*grads, *ctx.saved_tensors, ctx.stop)
    return *gradients, None, None


def _setup_backward(ctx, inputs, output):
    *tensors, ctx.stop = inputs
    ctx.save_for_backward(*tensors[:OUTPUTS], *tensors[OUTPUTS + 3 :])


def _double_backward(ctx, *cotangents):
    *saved, offsets = ctx.saved_tensors
    saved = [x.detach().requires_grad_() for x in saved]
    grads, tensors = saved[:OUTPUTS], saved[OUTPUTS:]
    with torch.enable_grad():
        *samples, directions, background = tensors
        outputs = composite_packed(*samples, offsets, directions, background, ctx.stop)
        first = torch.autograd.grad(outputs, tensors, grads, create_graph=True)
        second = torch.autograd.grad(first, saved, cotangents, allow_unused=True)
    # depth, opacity and weights are functions of the inputs: the derivatives with respect to those hold all there is
    return *second[:OUTPUTS], None, None, None, *second[OUTPUTS:], None, None
