# SPDX-License-Identifier: Apache-2.0
"""The curves of one or more trainings as a picture and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medrecon.errors import ConfigError, InputError
from medrecon.training.curves import read_curves

DPI = 110
COLUMNS = 4
# Of the training itself these are drawn; of the validation everything.
TRAIN_FIGURES_LEFT_OUT = ("rate", "gradient")


def load_runs(folders: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Curves by the folder's name, longer where two share it.

    Raises:
        InputError: a folder holds no curves.
    """
    out = {}
    for folder in folders:
        folder = Path(folder)
        lines = read_curves(folder)
        if not lines:
            raise InputError(f"{folder} holds no curves of a training", "give the --out folder of a training")
        name = folder.resolve().name
        out[name if name not in out else str(folder)] = lines
    return out


def series(lines: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """ "kind/figure" -> (minutes, values), validation first, in the order in which they appear."""
    out: dict[str, tuple[list[float], list[float]]] = {}
    for kind in ("validation", "train"):
        for line in lines:
            for name, value in line.get(kind, {}).items():
                if kind == "train" and name in TRAIN_FIGURES_LEFT_OUT:
                    continue
                x, y = out.setdefault(f"{kind}/{name}", ([], []))
                x.append(line["seconds"] / 60)
                y.append(value)
    return out


def draw(runs: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """A panel for each figure, a line for each run, over minutes of training; PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("drawing needs matplotlib, which is not installed", "pip install 'medrecon[bench]'") from None
    drawn = {name: series(lines) for name, lines in runs.items()}
    panels = list(dict.fromkeys(panel for curves in drawn.values() for panel in curves))
    rows = -(-len(panels) // COLUMNS)
    figure = Figure((3.2 * min(COLUMNS, len(panels)), 2.4 * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, min(COLUMNS, len(panels)), squeeze=False).ravel()
    for axis, panel in zip(axes, panels):
        for i, (name, curves) in enumerate(drawn.items()):
            if panel in curves:
                marker = "o" if panel.startswith("validation") else None
                axis.plot(*curves[panel], color=f"C{i % 10}", marker=marker, markersize=3, linewidth=1.2, label=name)
        axis.set_title(panel.replace("/", ": "), fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.remove()
    axes[0].set_xlabel("minutes", fontsize=7)
    if len(drawn) > 1:
        axes[0].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
    return path


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """A line each for steps, minutes and the figures of the last validation, a column for each run."""
    columns: dict[str, dict[str, str]] = {}
    for name, lines in runs.items():
        last: dict[str, float] = {}
        for line in lines:
            last = line.get("validation", last)
        facts = {"steps": f"{lines[-1]['step']}", "minutes": f"{lines[-1]['seconds'] / 60:.1f}"}
        columns[name] = facts | {k: f"{v:.4g}" for k, v in last.items()}
    names = list(dict.fromkeys(key for facts in columns.values() for key in facts))
    rows = [["", *columns], *([key, *(facts.get(key, "-") for facts in columns.values())] for key in names)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, wide)).rstrip() for row in rows)
