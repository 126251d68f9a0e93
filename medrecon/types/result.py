# SPDX-License-Identifier: Apache-2.0
"""What a run returns: figures, and where everything lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medrecon.types.metric import Metric
from medrecon.types.scale import Scale


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of ``medrecon.run``.

    Attributes:
        run_dir: folder of the run.
        metrics: every figure, by name.
        scale: metric scale of the reconstruction.
        seconds: wall time by stage, in the order they ran, plus "total".
        summary: contents of result.json.
        report_path: the HTML report, None when the run stopped before it.
    """

    run_dir: Path
    metrics: dict[str, Metric]
    scale: Scale
    seconds: dict[str, float]
    summary: dict
    report_path: Path | None
