# SPDX-License-Identifier: Apache-2.0
"""Several processes of one run, started by ``torchrun``: process 0 runs the street, the others help in one stage.

    torchrun --nproc-per-node 4 -m medrecon reconstruct clip.mp4 --out runs/1

All run the same command and see the same folder. Process 0 calls the others through torchrun's key-value store; a
process group exists while a stage is shared, so that waiting for hours runs into no time limit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

from medrecon.errors import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_runs = count()


def rank() -> int:
    """Number of this process, 0 when it is alone."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def processes() -> int:
    """How many processes this run has, by what torchrun puts into the environment."""
    return int(os.environ["WORLD_SIZE"]) if all(v in os.environ for v in VARIABLES) else 1


@dataclass(slots=True)
class Crew:
    """The processes of a run.

    Attributes:
        rank, size: as `rank` and `processes`.
        store: where process 0 leaves its calls; None when it is alone.
    """

    rank: int = 0
    size: int = 1
    store: Any = None
    _calls: int = 0

    @staticmethod
    def present() -> "Crew":
        if processes() == 1:
            return Crew()
        from torch.distributed import PrefixStore, rendezvous

        store, number, size = next(rendezvous("env://", timeout=timedelta(minutes=10)))
        return Crew(number, size, PrefixStore(f"medrecon/{next(_runs)}", store))

    def call(self, **facts: Any) -> None:
        """Process 0: the others get these facts."""
        if self.store is not None:
            self.store.set(f"call/{self._calls}", json.dumps(facts))
            self._calls += 1

    def dismiss(self) -> None:
        """Process 0: nothing more is to be done, for whatever reason."""
        self.call()

    def calls(self) -> Iterator[dict[str, Any]]:
        """The others: what process 0 calls them for, until it dismisses them."""
        while True:
            try:
                while not self.store.check([f"call/{self._calls}"]):
                    time.sleep(0.2)
                facts = json.loads(self.store.get(f"call/{self._calls}"))
            except RuntimeError:  # the store went with process 0
                return
            self._calls += 1
            if not facts:
                return
            yield facts

    @contextmanager
    def team(self, device: str, threads: int):
        """The processes as a `Team`, for a stage that they share. Those on one machine share its ``threads``."""
        from medrecon.radiance.team import Team, process_group

        if self.size == 1:
            yield Team()
            return
        import torch
        from torch import distributed

        store = distributed.PrefixStore(f"group/{self._calls}", self.store)
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        place = {"store": store, "rank": self.rank, "world_size": self.size, "timeout": timedelta(minutes=10)}
        with process_group(backend, **place):
            torch.set_num_threads(max(1, threads // local_size()))
            try:
                with Team.present() as team:
                    yield team
            finally:
                torch.set_num_threads(threads)


def local_size() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes()))


def take_gpu() -> None:
    """From now on "cuda" is this process's own GPU.

    Raises:
        InputError: there are fewer GPUs than processes.
    """
    import torch

    if processes() == 1:
        return
    if local_size() > torch.cuda.device_count():
        raise InputError(
            f"{local_size()} processes were started on a machine with {torch.cuda.device_count()} GPU(s)",
            f"torchrun --nproc-per-node {torch.cuda.device_count()}, or -o device=cpu",
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank())))
