# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one field together (data parallel): what they tell each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from medrecon.errors import MedreconError, TeamError

MESSAGE_BYTES = 2000
NUMBERS = 3  # exchanged at once, at most


@contextmanager
def process_group(backend: str, **place: Any) -> Iterator[None]:
    """torch.distributed's process group, within the block; its threads are gone afterwards.

    Args:
        backend, place: arguments of ``torch.distributed.init_process_group``.
    """
    # Optimisers import it. What it brings along keeps the group that it finds, whose threads then abort the process at
    # its end: they ask for an interpreter that is gone.
    import torch._dynamo

    torch.distributed.init_process_group(backend, **place)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@dataclass(slots=True)
class Team:
    """This process among those that train together; alone by default.

    The block ``with team:`` is the training. All processes go through it in step: they meet whenever one of the methods
    is called, and at the end of the block. An error of one of them is told to the others where they meet next, and all
    of them end.

    Attributes:
        rank: number of this process, from 0. Process 0 leads: it alone writes files and says where the training stands.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @staticmethod
    def present() -> "Team":
        """Of the processes that ``torch.distributed`` was initialised for, if it was.

        With a GPU they need its default backends, nccl for tensors and gloo for what they tell each other.
        """
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized()):
            return Team()
        return Team(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.sum()
        elif isinstance(error, Exception) and not isinstance(error, TeamError):
            self._meet([], error)

    def sum(self, *numbers: float) -> list[float]:
        """Over all processes.  Raises TeamError where one of them failed."""
        return self._meet(list(numbers), None)

    def of_leader(self, *numbers: float) -> list[float]:
        """The leader's numbers; those of the others are of no meaning.  Raises TeamError as `sum`."""
        return self.sum(*(x if self.leads else 0.0 for x in numbers))

    def average(self, parameters: list[Tensor]) -> None:
        """Replaces the gradients by their mean over all processes; a missing one counts as 0.

        Dense: entries of a table that one process has touched get their gradient in all of them, so that `ops.LazyAdam`
        moves the same ones everywhere.
        """
        if self.size == 1:
            return
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.flatten() for p in parameters])
        self._call(torch.distributed.all_reduce, flat)
        flat /= self.size
        for p, mean in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad.copy_(mean.view_as(p))

    def follow(self, buffers: "Buffers") -> None:
        """Takes over the leader's buffers where the last step wrote some: each process has seen its own rays."""
        if self.size == 1:
            return
        for buffer in buffers.written():
            value = buffer.clone()
            self._call(torch.distributed.broadcast, value, 0)
            if not self.leads:
                buffer.copy_(value)
        buffers.note()

    def _meet(self, numbers: list[float], error: Exception | None) -> list[float]:
        if self.size == 1:
            return numbers
        # Always of one shape, so that one that fails meets those that are elsewhere in their work.
        told = torch.zeros(1 + NUMBERS, dtype=torch.float64)
        told[: 1 + len(numbers)] = torch.tensor([float(error is not None), *numbers], dtype=torch.float64)
        self._call(torch.distributed.all_reduce, told)
        if told[0] == 0:
            return told[1 : 1 + len(numbers)].tolist()
        messages = torch.zeros(self.size, MESSAGE_BYTES, dtype=torch.uint8)
        if error is not None:
            text = _told(error).encode()[:MESSAGE_BYTES]
            messages[self.rank, : len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._call(torch.distributed.all_reduce, messages)
        if error is not None:
            return []  # it is on its way up already
        rank = int(messages.any(1).nonzero()[0])
        text = bytes(messages[rank].tolist()).rstrip(b"\0").decode("utf-8", "replace")
        raise TeamError(f"process {rank} of {self.size}: {text}")

    def _call(self, collective, *arguments) -> None:
        try:
            collective(*arguments)
        except RuntimeError as e:
            raise TeamError(
                f"another process of the training is gone ({type(e).__name__})",
                "see what it or the system said (out of memory?); the same command goes on from the last checkpoint",
            ) from e


class Buffers:
    """A module's buffers, and which of them were written since `note`.

    What a step writes must not depend on its rays (their values may): the processes would wait for different things.
    """

    def __init__(self, module: torch.nn.Module):
        self._module = module
        self.note()

    def note(self) -> None:
        self._known = {k: (b, b._version) for k, b in self._module.named_buffers()}

    def written(self) -> list[Tensor]:
        new = (None, None)
        now = self._module.named_buffers()
        return [b for k, b in now if self._known.get(k, new)[0] is not b or self._known[k][1] != b._version]


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, MedreconError) else f"{type(error).__name__}: {error}"
