# SPDX-License-Identifier: Apache-2.0
"""A step of Adam (Kingma and Ba 2015, algorithm 1) that leaves alone what got no gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def lazy_adam(
    parameter: Tensor, grad: Tensor, mean: Tensor, square: Tensor, lr: float, beta1: float, beta2: float, eps: float,
    step: int,
) -> None:  # fmt: skip
    """In place; see functions.LazyAdam."""
    touched = grad != 0
    mean.copy_(torch.where(touched, mean.lerp(grad, 1 - beta1), mean))
    square.copy_(torch.where(touched, beta2 * square + (1 - beta2) * grad * grad, square))
    root = square.sqrt() / math.sqrt(1 - beta2**step) + eps
    parameter.sub_(torch.where(touched, lr / (1 - beta1**step) * mean / root, torch.zeros_like(grad)))
