# SPDX-License-Identifier: Apache-2.0
"""Adam for large tables of which a step touches a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for


class LazyAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) that skips numbers whose gradient is exactly 0, and their moments.

    So instant-ngp trains its tables (Mueller et al. 2022, sec. 4): an entry that no sample has met keeps its value, and
    a step costs what it touches. Where no gradient is 0 it is torch.optim.Adam. float32 and float64, dense tensors.

    Args:
        params: tensors or groups, as for every optimiser of torch.
        lr: > 0.
        betas: decay of the first and second moment, each in [0, 1).
        eps: > 0, added to the root of the second moment.

    Raises:
        ValueError: a number does not fit, or a gradient is neither float32 nor float64.
    """

    def __init__(
        self, params: Iterable, lr: float = 1e-2, betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-15
    ) -> None:
        if not (lr > 0 and eps > 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"LazyAdam: lr is {lr}, betas {betas}, eps {eps}; expected lr, eps > 0 and 0 <= beta < 1")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step with the gradients that are there; returns what ``closure`` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict) -> None:
        grad = parameter.grad
        if grad.dtype != parameter.dtype or grad.dtype not in (torch.float32, torch.float64) or grad.is_sparse:
            raise ValueError(f"LazyAdam: a gradient is {grad.dtype} ({grad.layout}), expected dense float32 or float64")
        state = self.state[parameter]
        if not state:
            # Named as torch.optim.Adam names them.
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            state.update(step=torch.zeros(()), **moments)
        state["step"] += 1
        tensors = (parameter, grad, state["exp_avg"], state["exp_avg_sq"])
        dense = all(x.is_contiguous() for x in tensors)
        kernel = parameter.device.type == "cpu" and kernels_for("cpu") and dense
        call = torch.ops.medrecon.lazy_adam_.default if kernel else reference.lazy_adam
        call(*tensors, float(group["lr"]), *map(float, group["betas"]), float(group["eps"]), int(state["step"]))
