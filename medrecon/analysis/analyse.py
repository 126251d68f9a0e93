# SPDX-License-Identifier: Apache-2.0
"""The analysis stage: run the chosen analyses, check what they give, keep it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medrecon.errors import MedreconError, PluginError
from medrecon.progress import Progress
from medrecon.types import Metric
from medrecon.types.storage import write_json

if TYPE_CHECKING:
    from medrecon.plugins.contracts import Analysis
    from medrecon.runfolder import RunFolder


def analyse(
    run: "RunFolder", analyses: "list[tuple[str, Analysis]]", out_dir: Path, progress: Progress
) -> list[Metric]:
    """Writes ``metrics.json`` into ``out_dir`` and returns its content.

    Args:
        analyses: (component name, component), in the order they run.

    Raises:
        PluginError: an analysis returns something that is not a metric, or a figure another one already gave.
    """
    metrics: list[Metric] = []
    given_by: dict[str, str] = {}
    for name, component in analyses:
        result = component.analyse(run, progress)
        if not isinstance(result, list) or not all(isinstance(m, Metric) for m in result):
            raise PluginError(f"analysis {name!r} did not return a list of metrics")
        for metric in result:
            try:
                metric.validate()
            except MedreconError as e:
                raise PluginError(f"analysis {name!r}: {e.cause}") from e
            if metric.name in given_by:
                raise PluginError(
                    f"analyses {given_by[metric.name]!r} and {name!r} both give {metric.name!r}", "run one of them"
                )
            given_by[metric.name] = name
        metrics += result
    write_json(Path(out_dir) / "metrics.json", [m.to_dict() for m in metrics])
    return metrics
