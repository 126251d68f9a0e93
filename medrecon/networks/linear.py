# SPDX-License-Identifier: Apache-2.0
"""Linear layers and attention for inference: by oneDNN on a CPU, else torch's own."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the table of attention held at once: 1 MiB of float32 stays in the caches, and the allocator hands it out
# again and again; larger blocks it may give back to the system each time, which costs half as much as the products.
_TABLE_ELEMENTS = 1 << 18
# Products of fewer rows than this are slow.
_LEAST_ROWS = 128


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """x @ weight.T + bias, then a ReLU where wanted; without gradients.

    Args:
        x: [N, C], any strides along N.
        weight: [K, C], or the transpose of a contiguous [C, K].
        bias: [K] or None.

    Returns:
        [N, K], contiguous.
    """
    if len(x) and x.device.type == "cpu" and x.dtype == torch.float32 and _onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
    out = F.linear(x, weight, bias)
    return out.relu_() if relu else out


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query @ key.T) @ value for every head; queries come scaled. Memory grows with M + N, not with M * N.

    Args:
        query: [H, M, D] or [B, H, M, D], contiguous.
        key, value: [H, N, D] or [B, H, N, D], contiguous; N >= 1.

    Returns:
        as query.
    """
    if query.device.type != "cpu" or query.dtype != torch.float32 or not _onednn():
        # The fast kernels want a batch.
        batched = (t.unflatten(0, (1, -1)) if t.dim() == 3 else t for t in (query, key, value))
        return F.scaled_dot_product_attention(*batched, scale=1.0).reshape(query.shape)
    out = torch.empty_like(query)
    rows = max(_LEAST_ROWS, _TABLE_ELEMENTS // key.shape[-2])
    for q, k, v, o in zip(*(t.flatten(0, -3) for t in (query, key, value, out))):
        for start in range(0, len(q), rows):
            table = torch.softmax(linear(q[start : start + rows], k), 1)
            o[start : start + rows] = linear(table, v.t())
    return out


@functools.cache
def _onednn() -> bool:
    """Whether torch's door to oneDNN's inner product is there and computes what it should.

    It is two to four times as fast as torch's default for float32 where that is MKL on a processor of another maker,
    and equal elsewhere. The operator is not part of torch's public interface, hence the trial.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.arange(12.0).view(3, 4), torch.arange(-4.0, 4.0).view(2, 4)
    bias = torch.tensor([0.5, -80.0])
    try:
        with torch.inference_mode():
            found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.linear(x, weight, bias).relu())
