# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``fused_field`` and ``fused_field_loss``."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from .. import reference

N_RAYS = 4  # t, origins, directions, radii: no gradients from the kernels
N_TENSORS = 8  # with the mask
N_NUMBERS = 7


def register_field() -> None:
    """Registers them."""
    library = torch.library
    library.register_fake("medrecon::fused_field", _fake_field)
    library.register_fake("medrecon::fused_field_backward", _fake_backward)
    library.register_fake("medrecon::fused_field_loss", _fake_loss)
    library.register_autograd("medrecon::fused_field", _backward, setup_context=_setup)
    library.register_autograd("medrecon::fused_field_backward", _double_backward, setup_context=_setup_backward)
    library.register_autograd("medrecon::fused_field_loss", _loss_backward, setup_context=_setup_loss)


def _fake_field(t, *rest):
    n, s = t.shape[0], t.shape[1] - 1
    return t.new_empty((n, 3)), t.new_empty((n,)), t.new_empty((n,)), t.new_empty((n, s))


def _fake_gradients(t, origins, directions, radii, parameters, ray_bias, background, *rest):
    n = 0 if background is None else t.shape[0]
    return t.new_empty(parameters.shape), t.new_empty(ray_bias.shape), t.new_empty((n, 3))


def _fake_backward(grad_rgb, grad_depth, grad_opacity, grad_weights, *inputs):
    return _fake_gradients(*inputs)


def _fake_loss(t, *rest):
    rgb, _, _, weights = _fake_field(t)
    return t.new_empty(()), rgb, weights, *_fake_gradients(t, *rest)


def _refuse_rays(ctx) -> None:
    if any(ctx.needs_input_grad[:N_RAYS]):
        raise RuntimeError(
            "medrecon::fused_field has no gradients for t, origins, directions and radii; "
            "medrecon.ops.fused_field takes another way where they require them"
        )


def _of_background(per_ray, background):
    """The gradient in the shape of ``background``: that of each ray, or their sum."""
    if background is None:
        return None
    return per_ray if background.dim() == 2 else per_ray.sum(0)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:N_TENSORS])
    ctx.numbers = inputs[N_TENSORS:]


def _backward(ctx, *grads):
    _refuse_rays(ctx)
    inputs = ctx.saved_tensors
    parameters, ray_bias, background = torch.ops.medrecon.fused_field_backward.default(*grads, *inputs, *ctx.numbers)
    background = _of_background(background, inputs[6])
    return *(None,) * N_RAYS, parameters, ray_bias, background, None, *(None,) * N_NUMBERS


def _setup_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[: 4 + N_TENSORS])
    ctx.numbers = inputs[4 + N_TENSORS :]


def _double_backward(ctx, *cotangents):
    """Second derivatives are those of the plain-torch twin."""
    saved = [x if x is None else x.detach() for x in ctx.saved_tensors]
    grads, inputs = saved[:4], saved[4:]
    rays, background, mask = inputs[:N_RAYS], inputs[6], inputs[7]
    parameters, ray_bias = (x.requires_grad_() for x in inputs[4:6])
    grads = [x.requires_grad_() for x in grads]
    leaves = [parameters, ray_bias]
    with torch.enable_grad():
        per_ray = None
        if background is not None:
            background.requires_grad_()
            per_ray = background.expand(rays[0].shape[0], 3)
            leaves.append(per_ray)
        outputs = reference.fused_field(*rays, parameters, ray_bias, per_ray, mask, *ctx.numbers)
        first = torch.autograd.grad(outputs, leaves, grads, create_graph=True)
        wanted = [*grads, parameters, ray_bias, *([] if background is None else [background])]
        second = list(torch.autograd.grad(first, wanted, cotangents[: len(first)], allow_unused=True))
    of_background = None if background is None else second.pop()
    return *second[:4], *(None,) * N_RAYS, *second[4:], of_background, None, *(None,) * N_NUMBERS


def _setup_loss(ctx, inputs, output):
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(inputs[6], *output[3:])


@once_differentiable
def _loss_backward(ctx, grad, *_):
    _refuse_rays(ctx)
    background, of_parameters, of_ray_bias, of_background = ctx.saved_tensors
    of_background = None if background is None else grad * _of_background(of_background, background)
    gradients = (grad * of_parameters, grad * of_ray_bias, of_background)
    return *(None,) * N_RAYS, *gradients, *(None,) * (3 + N_NUMBERS)
