# SPDX-License-Identifier: Apache-2.0
"""The common way to give an operator its shapes and its first and second derivatives."""

from __future__ import annotations

import torch


def register(name, fake, backward_op, plain, n_tensors: int, kept: tuple[int, ...] = ()) -> None:
    """Registers NAME and NAME_backward.

    Args:
        name: operator taking ``n_tensors`` tensors, then integers.
        fake: shapes of its outputs.
        backward_op: (gradients of the outputs, kept outputs, inputs of NAME) -> gradients of the tensors.
        plain: the same function in plain torch; its derivatives give the second derivatives.
        kept: which outputs the backward operator also wants, so as not to compute them again.
    """

    def shapes_of_backward(*arguments):
        tensors = _inputs(arguments, n_tensors)[:n_tensors]
        gradients = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors)
        return gradients if n_tensors > 1 else gradients[0]

    def setup(ctx, inputs, output):
        ctx.save_for_backward(*(output[i] for i in kept), *inputs[:n_tensors])
        ctx.rest = inputs[n_tensors:]

    def backward(ctx, *grads):
        gradients = backward_op(*grads, *ctx.saved_tensors, *ctx.rest)
        return *(gradients if n_tensors > 1 else (gradients,)), *(None for _ in ctx.rest)

    def setup_backward(ctx, inputs, output):
        own = _inputs(inputs, n_tensors)
        ctx.n_grads = len(inputs) - len(own) - len(kept)
        ctx.save_for_backward(*inputs[: ctx.n_grads], *own[:n_tensors])
        ctx.rest = own[n_tensors:]

    def double_backward(ctx, *cotangents):
        saved = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        grads, tensors = saved[: ctx.n_grads], saved[ctx.n_grads :]
        with torch.enable_grad():
            outputs = plain(*tensors, *ctx.rest)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            first = torch.autograd.grad(outputs, tensors, grads, create_graph=True)
            second = torch.autograd.grad(first, saved, cotangents, allow_unused=True)
        # what was kept is a function of the inputs: the derivatives with respect to those hold all there is
        second = *second[: ctx.n_grads], *(None for _ in kept), *second[ctx.n_grads :]
        return *second, *(None for _ in ctx.rest)

    qualified = f"medrecon::{name}"
    torch.library.register_fake(qualified, fake)
    torch.library.register_fake(f"{qualified}_backward", shapes_of_backward)
    torch.library.register_autograd(qualified, backward, setup_context=setup)
    torch.library.register_autograd(f"{qualified}_backward", double_backward, setup_context=setup_backward)


def _inputs(arguments, n_tensors):
    """The inputs of the forward operator among those of the backward: the last tensors and the integers after them."""
    n_integers = sum(not isinstance(a, torch.Tensor) for a in arguments)
    return arguments[len(arguments) - n_integers - n_tensors :]
