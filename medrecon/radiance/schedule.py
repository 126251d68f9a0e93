# SPDX-License-Identifier: Apache-2.0
"""How far a training is, and what follows from it: learning rate, size of the pictures, the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medrecon.radiance.checkpoint import Trace
from medrecon.radiance.settings import TrainingConfig

HISTORY_ENTRIES = 200  # at most about so many points of the curve are kept
HISTORY_STEPS = 25  # between them where the number of steps is not known beforehand
GLANCES = 4  # so many glances at the held-out pictures without gain make a curve flat
COOLING = 0.2  # then the rate falls to its end within this share of what was trained


@dataclass(frozen=True, slots=True)
class Schedule:
    """By steps, so that the same seed gives the same field; by the clock where ``training.minutes`` is set. Either ends
    early where ``training.stop_gain_db`` is set and the held-out pictures gain no more: from there the learning rate
    falls to its last value, which gains once more.

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
        done, flat = self._planned(trace.step, trace.seconds), self.flat_at(trace)
        if flat is None:
            return done
        then = self._planned(flat["step"], flat["seconds"])
        cooled = (trace.step - flat["step"]) / max(1.0, COOLING * flat["step"])
        return max(done, min(then + (1 - then) * cooled, 1.0))

    def _planned(self, step: int, seconds: float) -> float:
        if self.steps is None:
            return min(seconds / (60 * self.training.minutes), 1.0)
        return step / max(self.steps - 1, 1)

    def over(self, trace: Trace) -> bool:
        if self.steps is None or self.flat_at(trace) is not None:
            return self.share(trace) >= 1
        return trace.step >= self.steps

    def flat_at(self, trace: Trace) -> dict | None:
        """Entry of the history at which the curve was found to be flat."""
        return next((h for h in reversed(trace.history) if h.get("flat")), None)

    def is_flat(self, trace: Trace) -> bool:
        """Whether the last glances brought less than ``training.stop_gain_db``; never before pictures of full size are
        trained on, nor twice.
        """
        t = self.training
        if t.stop_gain_db is None or self.flat_at(trace) is not None:
            return False
        seen = [
            h["heldout_psnr_db"] for h in trace.history if "heldout_psnr_db" in h and self._level(h) == len(t.pyramid)
        ]
        return len(seen) > GLANCES and max(seen[-GLANCES:]) < max(seen[:-GLANCES]) + t.stop_gain_db

    def learning_rate(self, trace: Trace) -> float:
        """Linear warm-up over steps, then exponential decay over the share that is done."""
        t = self.training
        rate = t.learning_rate * (t.learning_rate_final / t.learning_rate) ** self.share(trace)
        warm = min(1.0, (trace.step + 1) / t.warmup_steps) if t.warmup_steps else 1.0
        return rate * (0.1 + 0.9 * warm)

    def pyramid_level(self, trace: Trace) -> int:
        """Which size of the pictures, from the smallest on."""
        return self._level({"step": trace.step, "seconds": trace.seconds})

    def _level(self, entry: dict) -> int:
        done = self._planned(0, entry["seconds"]) if self.steps is None else entry["step"] / self.steps
        return int((done >= np.cumsum(self.training.pyramid)).sum())

    def remembers(self, trace: Trace) -> bool:
        """Whether the step that was just done gets an entry in the history."""
        every = HISTORY_STEPS if self.steps is None else max(1, self.steps // HISTORY_ENTRIES)
        return self.over(trace) or trace.step % every == 0
