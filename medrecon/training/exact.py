# SPDX-License-Identifier: Apache-2.0
"""Small matrix products for coordinates, in full precision whatever the training has chosen for its matrices.

Autocast and TF32 round what enters a matrix product to 8 or 11 bits: half a pixel at x = 500. Sums of products written
out are never rounded.
"""

from __future__ import annotations

from torch import Tensor


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Every vector under the matrix: [..., M, K] and [..., N, K] give [..., N, M]; K is 2, 3 or 4."""
    columns = matrix.unsqueeze(-3)
    out = columns[..., 0] * vectors[..., :1]
    for k in range(1, matrix.shape[-1]):
        out = out + columns[..., k] * vectors[..., k : k + 1]
    return out


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b for small matrices [..., M, K] and [..., K, N]."""
    return times(b.transpose(-1, -2), a)


def rigid_inverse(pose: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4]."""
    out = pose.clone()
    out[..., :3, :3] = pose[..., :3, :3].transpose(-1, -2)
    out[..., :3, 3:] = -product(out[..., :3, :3], pose[..., :3, 3:])
    return out
