# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``fused_grid`` and ``fused_grid_loss``."""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable

from .. import reference

N_TENSORS, N_NUMBERS = 11, 12
TABLE, PARAMETERS, RAY_BIAS, BACKGROUND = 5, 6, 7, 10
FIXED = (0, 1, 2, 3, 8, 9)  # rays, jitter and radii: no gradients from the kernels


def register_fused_grid() -> None:
    """Registers them."""
    library = torch.library
    library.register_fake("medrecon::fused_grid", _fake)
    library.register_fake("medrecon::fused_grid_backward", _fake_backward)
    library.register_fake("medrecon::fused_grid_loss", _fake_loss)
    library.register_autograd("medrecon::fused_grid", _backward, setup_context=_setup)
    library.register_autograd("medrecon::fused_grid_backward", _double_backward, setup_context=_setup_backward)
    library.register_autograd("medrecon::fused_grid_loss", _loss_backward, setup_context=_setup_loss)


def _fake(origins, *rest):
    n = origins.shape[0]
    seen = origins.new_empty((n,), dtype=torch.int64)
    return origins.new_empty((n, 3)), origins.new_empty((n,)), origins.new_empty((n,)), seen


def _fake_gradients(*inputs):
    leaves = tuple(
        torch.empty_like(inputs[i], memory_format=torch.contiguous_format) for i in range(TABLE, RAY_BIAS + 1)
    )
    n = 0 if inputs[BACKGROUND] is None else inputs[0].shape[0]
    return *leaves, inputs[0].new_empty((n, 3))


def _fake_backward(grad_rgb, grad_depth, grad_opacity, *inputs):
    return _fake_gradients(*inputs)


def _fake_loss(origins, *rest):
    rgb, _, _, seen = _fake(origins)
    return origins.new_empty(()), rgb, seen, *_fake_gradients(origins, *rest)


def _refuse_rays(ctx) -> None:
    if any(ctx.needs_input_grad[i] for i in FIXED):
        raise RuntimeError(
            "medrecon::fused_grid has no gradients for rays, jitter and radii; medrecon.ops.fused_grid takes another "
            "way where origins, directions or radii require them"
        )


def _placed(table, parameters, ray_bias, per_ray, background):
    """Gradients of the tensor arguments; that of the background is of each ray, or their sum."""
    if background is None:
        per_ray = None
    elif background.dim() == 1:
        per_ray = per_ray.sum(0)
    return *(None,) * TABLE, table, parameters, ray_bias, None, None, per_ray


def _setup(ctx, inputs, output):
    ctx.mark_non_differentiable(output[3])
    ctx.save_for_backward(*inputs[:N_TENSORS])
    ctx.numbers = inputs[N_TENSORS:]


def _backward(ctx, grad_rgb, grad_depth, grad_opacity, _):
    _refuse_rays(ctx)
    inputs, grads = ctx.saved_tensors, (grad_rgb, grad_depth, grad_opacity)
    gradients = torch.ops.medrecon.fused_grid_backward.default(*grads, *inputs, *ctx.numbers)
    return *_placed(*gradients, inputs[BACKGROUND]), *(None,) * N_NUMBERS


def _setup_backward(ctx, inputs, output):
    ctx.save_for_backward(*inputs[: 3 + N_TENSORS])
    ctx.numbers = inputs[3 + N_TENSORS :]


def _double_backward(ctx, *cotangents):
    """Second derivatives are those of the plain-torch twin."""
    saved = [x if x is None else x.detach() for x in ctx.saved_tensors]
    grads, inputs = [x.requires_grad_() for x in saved[:3]], saved[3:]
    leaves = [inputs[i].requires_grad_() for i in range(TABLE, RAY_BIAS + 1)]
    background = inputs[BACKGROUND]
    with torch.enable_grad():
        wanted = [*grads, *leaves]
        if background is not None:
            wanted.append(background.requires_grad_())
            inputs[BACKGROUND] = background.expand(inputs[0].shape[0], 3)
            leaves.append(inputs[BACKGROUND])
        outputs = reference.fused_grid(*inputs, *ctx.numbers)[:3]
        first = torch.autograd.grad(outputs, leaves, grads, create_graph=True)
        second = list(torch.autograd.grad(first, wanted, cotangents[: len(first)], allow_unused=True))
    of_background = None if background is None else second.pop()
    nothing = (None,) * N_NUMBERS
    return *second[:3], *(None,) * TABLE, *second[3:], None, None, of_background, *nothing


def _setup_loss(ctx, inputs, output):
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(inputs[BACKGROUND], *output[3:])


@once_differentiable
def _loss_backward(ctx, grad, *_):
    _refuse_rays(ctx)
    background, *gradients = ctx.saved_tensors
    return *_placed(*(_times(grad, x) for x in gradients), background), *(None,) * (2 + N_NUMBERS)


def _times(grad, x):
    """grad * x; where grad is 1, as that of a loss nearly always is, x itself: a table is large."""
    here = type(grad) is torch.Tensor and grad.device.type == "cpu"  # neither traced nor on another device
    return x if here and grad.item() == 1 else grad * x
