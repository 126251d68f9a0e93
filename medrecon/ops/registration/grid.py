# SPDX-License-Identifier: Apache-2.0
"""Shapes and gradients of ``grid_encode``.

Of its own kind, because table gradients and position gradients are two operators: most training needs only the first.
"""

from __future__ import annotations

import torch

from ..reference import grid_encode, grid_levels


def register_grid() -> None:
    """Registers them."""
    library = torch.library
    library.register_fake("medrecon::grid_encode", _fake)
    library.register_fake("medrecon::grid_encode_backward_table", _fake_backward_table)
    library.register_fake("medrecon::grid_encode_backward_inputs", _fake_backward_inputs)
    library.register_autograd("medrecon::grid_encode", _backward, setup_context=_setup)
    library.register_autograd("medrecon::grid_encode_backward_table", _backward_of_table, setup_context=_setup_of_table)
    library.register_autograd(
        "medrecon::grid_encode_backward_inputs", _backward_of_inputs, setup_context=_setup_of_inputs
    )


def _fake(x, sigma, table, resolutions, log2_size):
    return x.new_empty((x.shape[0], len(resolutions) * table.shape[1]))


def _fake_backward_table(grad, x, sigma, features, resolutions, log2_size):
    return grad.new_empty((grid_levels(tuple(resolutions), log2_size)[-1], features))


def _fake_backward_inputs(grad, x, sigma, table, resolutions, log2_size):
    return grad.new_empty((x.shape[0], 3)), grad.new_empty((0 if sigma is None else x.shape[0],))


def _setup(ctx, inputs, output):
    x, sigma, table, *ctx.rest = inputs
    ctx.save_for_backward(x, sigma, table)


def _backward(ctx, grad):
    x, sigma, table = ctx.saved_tensors
    ops = torch.ops.medrecon
    needs_x, needs_sigma, needs_table = ctx.needs_input_grad[:3]
    of_x = of_sigma = of_table = None
    if needs_x or needs_sigma:
        of_x, of_sigma = ops.grid_encode_backward_inputs.default(grad, x, sigma, table, *ctx.rest)
    if needs_table:
        of_table = ops.grid_encode_backward_table.default(grad, x, sigma, table.shape[1], *ctx.rest)
    return of_x if needs_x else None, of_sigma if needs_sigma else None, of_table, None, None


def _setup_of_table(ctx, inputs, output):
    grad, x, sigma, ctx.features, *ctx.rest = inputs
    ctx.save_for_backward(grad, x, sigma)


def _backward_of_table(ctx, cotangent):
    # <cotangent, gradient of the table> = <grad, features looked up in a table that holds the cotangent>
    grad, x, sigma = _leaves(ctx.saved_tensors)
    with torch.enable_grad():
        value = (grid_encode(x, sigma, cotangent, *ctx.rest) * grad).sum()
        of_grad, of_x, of_sigma = _gradients(value, (grad, x, sigma))
    return of_grad, of_x, of_sigma, None, None, None


def _setup_of_inputs(ctx, inputs, output):
    grad, x, sigma, table, *ctx.rest = inputs
    ctx.save_for_backward(grad, x, sigma, table)


def _backward_of_inputs(ctx, for_x, for_sigma):
    leaves = grad, x, sigma, table = _leaves(ctx.saved_tensors)
    with torch.enable_grad():
        inputs = [x] if sigma is None else [x, sigma]
        first = torch.autograd.grad(grid_encode(x, sigma, table, *ctx.rest), inputs, grad, create_graph=True)
        value = sum((f * c).sum() for f, c in zip(first, (for_x, for_sigma)))
        of_grad, of_x, of_sigma, of_table = _gradients(value, leaves)
    return of_grad, of_x, of_sigma, of_table, None, None


def _leaves(tensors):
    return tuple(None if x is None else x.detach().requires_grad_() for x in tensors)


def _gradients(value, leaves):
    wanted = [x for x in leaves if x is not None]
    found = iter(torch.autograd.grad(value, wanted, allow_unused=True))
    return tuple(None if x is None else next(found) for x in leaves)
