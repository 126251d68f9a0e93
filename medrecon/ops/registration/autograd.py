# SPDX-License-Identifier: Apache-2.0
"""The common way to shapes and second derivatives of an operator; the first are in csrc/operators/autograd.cpp."""

from __future__ import annotations

import torch


def register(name, fake, plain) -> None:
    """Registers what NAME and NAME_backward lack. What they take, and in which order, is said in autograd.cpp.

    Args:
        name: the operator.
        fake: shapes of its outputs.
        plain: the same function in plain torch; its derivatives give the second derivatives.
    """
    forward, backward = (getattr(torch.ops.medrecon, x).default._schema for x in (name, f"{name}_backward"))
    n_grads, n_inputs, n_leaves = len(forward.returns), len(forward.arguments), len(backward.returns)
    n_tensors = sum(isinstance(x.type, torch.TensorType) for x in forward.arguments)
    n_kept = len(backward.arguments) - n_grads - n_inputs

    def shapes_of_backward(*arguments):
        leaves = arguments[-n_inputs:][:n_leaves]
        gradients = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in leaves)
        return gradients if n_leaves > 1 else gradients[0]

    def setup(ctx, inputs, output):
        own = inputs[-n_inputs:]
        ctx.save_for_backward(*inputs[:n_grads], *own[:n_tensors])
        ctx.numbers = own[n_tensors:]

    def double_backward(ctx, *cotangents):
        saved = [x.detach().requires_grad_() for x in ctx.saved_tensors[: n_grads + n_leaves]]
        grads, leaves, others = saved[:n_grads], saved[n_grads:], ctx.saved_tensors[n_grads + n_leaves :]
        with torch.enable_grad():
            outputs = plain(*leaves, *others, *ctx.numbers)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            first = torch.autograd.grad(outputs, leaves, grads, create_graph=True)
            second = torch.autograd.grad(first, saved, cotangents, allow_unused=True)
        # what was kept is a function of the inputs: the derivatives with respect to those hold all there is
        second = *second[:n_grads], *(None,) * n_kept, *second[n_grads:]
        return *second, *(None for _ in (*others, *ctx.numbers))

    torch.library.register_fake(f"medrecon::{name}", fake)
    torch.library.register_fake(f"medrecon::{name}_backward", shapes_of_backward)
    torch.library.register_autograd(f"medrecon::{name}_backward", double_backward, setup_context=setup)
