# SPDX-License-Identifier: Apache-2.0
"""The options ``device`` and ``precision`` of learned components: what they mean on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from medrecon.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


def refuse_half_on_cpu(device: str, precision: str) -> None:
    """Raises ValueError, which a config's validator turns into a message: a CPU gains nothing from half precision."""
    if device == "cpu" and precision in ("fp16", "bf16"):
        raise ValueError(f"precision {precision} is for GPUs; device cpu computes in fp32")


def place(who: str, device: str, precision: str) -> tuple["torch.device", "torch.dtype"]:
    """Where to compute, and in which type the large products; auto is fp16 on a GPU where there is one, else fp32.

    Args:
        who: the component's name, for the message.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ConfigError(f"{who}: device cuda is asked for, but torch finds no GPU", "set device: auto or cpu")
    on_gpu = there and device != "cpu"
    choice = ("fp16" if precision == "auto" else precision) if on_gpu else "fp32"
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[choice]
    return torch.device("cuda" if on_gpu else "cpu"), dtype
