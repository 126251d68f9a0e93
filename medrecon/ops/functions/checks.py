# SPDX-License-Identifier: Apache-2.0
"""What every op asks of its arguments; each error names the op and the argument."""

from __future__ import annotations

import torch
from torch import Tensor


def shape(x: Tensor) -> list[int]:
    """For messages."""
    return list(x.shape)


def shaped(op: str, name: str, x: Tensor, expected: tuple[int, ...]) -> None:
    """Raises ValueError unless ``x`` has this shape."""
    if tuple(x.shape) != expected:
        raise ValueError(f"{op}: {name} has shape {shape(x)}, expected {list(expected)}")


def background(op: str, x: Tensor | None, rays: int) -> None:
    """Raises ValueError unless there is none, one colour for all rays or one for each."""
    if x is not None and tuple(x.shape) not in ((3,), (rays, 3)):
        raise ValueError(f"{op}: background has shape {shape(x)}, expected [3] or {[rays, 3]}")


def floating(op: str, optional: dict[str, Tensor | None] | None = None, **tensors: Tensor) -> None:
    """Raises ValueError unless all are tensors of one floating dtype (float32 or float64) on one device.

    Args:
        op: its name.
        optional: those that may be None.
        tensors: the others; at least one.
    """
    first_name, first = next(iter(tensors.items()))
    given = {name: x for name, x in (optional or {}).items() if x is not None}
    for name, x in {**tensors, **given}.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{op}: {name} must be a tensor, is {type(x).__name__}")
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{op}: {name} must be float32 or float64, is {x.dtype}; convert it with .float()")
        if x.dtype != first.dtype:
            raise ValueError(f"{op}: {name} is {x.dtype} but {first_name} is {first.dtype}")
        if x.device != first.device:
            raise ValueError(f"{op}: {name} is on {x.device} but {first_name} is on {first.device}")
