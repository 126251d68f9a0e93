# SPDX-License-Identifier: Apache-2.0
"""The same ops by JAX and by nerfacc, where those are installed; otherwise the reason why there is no row."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor


def makers(op: str, inputs: tuple[Tensor, ...], backward: bool) -> dict[str, Any]:
    """Makers of calls (or why not) of the libraries that have this op."""
    found: dict[str, Any] = {}
    if op in JAX:
        missing = importlib.util.find_spec("jax") is None
        found["jax"] = "jax is not installed" if missing else partial(_jax_call, JAX[op], inputs, backward)
    if op == "composite":
        found["nerfacc"] = _nerfacc_missing(inputs) or partial(_nerfacc_call, inputs, backward)
    return found


def _jax_call(function: Callable, inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], Any]:
    import jax

    arrays = [jax.numpy.asarray(x.detach().cpu().numpy()) for x in inputs]

    def both(*leaves):
        outputs, back = jax.vjp(function, *leaves)
        return outputs, back(jax.tree_util.tree_map(jax.numpy.ones_like, outputs))

    ready = jax.jit(both if backward else function)
    jax.block_until_ready(ready(*arrays))
    return lambda: jax.block_until_ready(ready(*arrays))


def _jax_encoding(mean, var):
    import jax.numpy as jnp

    scales = 2.0 ** jnp.arange(16)
    angles = (mean[:, None, :] * scales[:, None]).reshape(len(mean), -1)
    damping = jnp.exp(-0.5 * (var[:, None, :] * scales[:, None] ** 2).reshape(len(mean), -1))
    return jnp.concatenate([damping * jnp.sin(angles), damping * jnp.cos(angles)], -1)


def _jax_composite(rgb, density, t, directions):
    import jax.numpy as jnp

    depth = density * (t[:, 1:] - t[:, :-1]) * jnp.linalg.norm(directions, axis=-1, keepdims=True)
    before = jnp.concatenate([jnp.zeros_like(depth[:, :1]), jnp.cumsum(depth, 1)[:, :-1]], 1)
    weights = -jnp.expm1(-depth) * jnp.exp(-before)
    opacity = weights.sum(1)
    middle = (weights * (t[:, 1:] + t[:, :-1]) / 2).sum(1) / jnp.maximum(opacity, 1e-10)
    return (weights[..., None] * rgb).sum(1) + (1 - opacity)[:, None], middle, opacity, weights


def _jax_sinkhorn(scores, bin_score):
    import jax
    import jax.numpy as jnp

    z = jnp.pad(scores, ((0, 0), (0, 1), (0, 1)))
    z = z.at[:, -1, :].set(bin_score[0]).at[:, :, -1].set(bin_score[0])
    m, n = scores.shape[1:]
    log_a, log_b = jnp.zeros(m + 1).at[-1].set(jnp.log(n)), jnp.zeros(n + 1).at[-1].set(jnp.log(m))

    def iterate(carry, _):
        u = log_a - jax.nn.logsumexp(z + carry[1][:, None, :], 2)
        return (u, log_b - jax.nn.logsumexp(z + u[:, :, None], 1)), None

    (u, v), _ = jax.lax.scan(iterate, (jnp.zeros((len(z), m + 1)), jnp.zeros((len(z), n + 1))), length=100)
    return z + u[:, :, None] + v[:, None, :]


JAX = {
    "integrated_positional_encoding": _jax_encoding,
    "composite": _jax_composite,
    "log_sinkhorn": _jax_sinkhorn,
}


def _nerfacc_missing(inputs: tuple[Tensor, ...]) -> str:
    if importlib.util.find_spec("nerfacc") is None:
        return "nerfacc is not installed"
    return "" if inputs[0].is_cuda else "nerfacc computes on CUDA only"


def _nerfacc_call(inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], Any]:
    import nerfacc

    rgb, density, t, directions = inputs
    length = directions.norm(dim=-1, keepdim=True)
    leaves = [x.clone().requires_grad_(backward) for x in (rgb, density)]

    def call() -> None:
        weights = nerfacc.render_weight_from_density(t[:, :-1] * length, t[:, 1:] * length, leaves[1])[0]
        colour = nerfacc.accumulate_along_rays(weights, leaves[0])
        if backward:
            torch.autograd.grad(colour.sum(), leaves)

    return call
