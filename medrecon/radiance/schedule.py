# SPDX-License-Identifier: Apache-2.0
"""How far a training is, and what follows from it: learning rate, size of the pictures, the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medrecon.radiance.checkpoint import Trace
from medrecon.radiance.settings import TrainingConfig

HISTORY_ENTRIES = 200  # at most about so many points of the curve are kept
HISTORY_STEPS = 25  # between them where the number of steps is not known beforehand


@dataclass(frozen=True, slots=True)
class Schedule:
    """By steps, so that the same seed gives the same field; by the clock where ``training.minutes`` is set.

    Attributes:
        training: its options.
        steps: optimiser steps of the whole training, None where the clock decides.
    """

    training: TrainingConfig
    steps: int | None

    @staticmethod
    def of(training: TrainingConfig, default_steps: int) -> "Schedule":
        """``default_steps``: where the options name neither steps nor minutes."""
        return Schedule(training, None if training.minutes else training.iterations or default_steps)

    def share(self, trace: Trace) -> float:
        """How much of the training is done, from 0 to 1 (its last step begins at 1)."""
        if self.steps is None:
            return min(trace.seconds / (60 * self.training.minutes), 1.0)
        return trace.step / max(self.steps - 1, 1)

    def over(self, trace: Trace) -> bool:
        return self.share(trace) >= 1 if self.steps is None else trace.step >= self.steps

    def learning_rate(self, trace: Trace) -> float:
        """Linear warm-up over steps, then exponential decay over the share that is done."""
        t = self.training
        rate = t.learning_rate * (t.learning_rate_final / t.learning_rate) ** self.share(trace)
        warm = min(1.0, (trace.step + 1) / t.warmup_steps) if t.warmup_steps else 1.0
        return rate * (0.1 + 0.9 * warm)

    def pyramid_level(self, trace: Trace) -> int:
        """Which size of the pictures, from the smallest on."""
        done = self.share(trace) if self.steps is None else trace.step / self.steps
        return int((done >= np.cumsum(self.training.pyramid)).sum())

    def remembers(self, trace: Trace) -> bool:
        """Whether the step that was just done gets an entry in the history."""
        every = HISTORY_STEPS if self.steps is None else max(1, self.steps // HISTORY_ENTRIES)
        return self.over(trace) or trace.step % every == 0
