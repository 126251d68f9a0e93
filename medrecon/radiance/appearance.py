# SPDX-License-Identifier: Apache-2.0
"""One learned code per training picture (GLO), for what differs between pictures but not in the anatomy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medrecon.errors import InputError

MODES = ("zero", "mean")


class AppearanceCodes(nn.Module):
    """Codes indexed by frame id, never by position in a list.

    Only the colour branch of a field may take them, so light and exposure cannot bend geometry (paper eq. 11; the
    codes are those of Bojanowski 2018).

    Args:
        frame_ids: ids of the training pictures.
        size: numbers per code.
        generator: draws the random start.
    """

    def __init__(self, frame_ids: list[int], size: int, generator: torch.Generator):
        super().__init__()
        ids = sorted(set(frame_ids))
        self.register_buffer("frame_ids", torch.tensor(ids, dtype=torch.int64))
        self.codes = nn.Parameter(0.05 * torch.randn(len(ids), size, generator=generator))

    def rows(self, frame_ids: Tensor) -> Tensor:
        """int64 [N] row of each id in ``codes``; ids that were never trained on get the row after the last."""
        n = len(self.frame_ids)
        if not n:
            return torch.zeros_like(frame_ids)
        row = torch.searchsorted(self.frame_ids, frame_ids).clamp(max=n - 1)
        return torch.where(self.frame_ids[row] == frame_ids, row, n)

    def forward(self, frame_ids: Tensor, appearance: str | Tensor | None = None) -> Tensor:
        """Codes float [N, size] of the pictures with these ids.

        Args:
            frame_ids: int64 [N].
            appearance: what pictures get that were not trained on: None or "zero", "mean" (of all codes). A tensor
                [size] goes to every ray.
        Raises:
            InputError: unknown mode, or a code of another size.
        """
        size = self.codes.shape[1]
        if isinstance(appearance, Tensor):
            if appearance.shape != (size,):
                raise InputError(f"an appearance code has shape ({size},), got {tuple(appearance.shape)}")
            return appearance.to(self.codes).expand(len(frame_ids), size)
        if appearance not in (None, *MODES):
            raise InputError(f"appearance {appearance!r} is not known", f"one of {', '.join(MODES)}")
        rows = self.rows(frame_ids)
        # The row after the last stands for "not trained on": it is built without touching any training row unless
        # the mode asks for them.
        if appearance == "mean" and len(self.codes):
            other = self.codes.mean(0, keepdim=True)
        else:
            other = self.codes.new_zeros(1, size)
        return torch.cat([self.codes, other]).index_select(0, rows)
