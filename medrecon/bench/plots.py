# SPDX-License-Identifier: Apache-2.0
"""Plots of the matching benchmark (PNG): accuracy, sweeps, and the keypoints of every extractor drawn over pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medrecon.bench.cases import Case, CaseFolder, object_region
from medrecon.bench.methods import extractor_name
from medrecon.bench.metrics import spread
from medrecon.bench.predict import Predictions
from medrecon.errors import ConfigError
from medrecon.images import to_grey

DPI = 110
SWEEP_FIGURES = {"mma_3px": "mean matching accuracy at 3 px", "correct_matches": "correct matches per pair"}


def require_matplotlib() -> None:
    """Raises ConfigError when it is not installed: better before the hours than after."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError(
            "the plots need matplotlib, which is not installed",
            "pip install 'medrecon[bench]', or leave the plots out with --no-plots",
        ) from None


def draw_all(results: dict, folder: CaseFolder, made: dict[str, Predictions], out_dir: Path) -> list[Path]:
    """accuracy.png, sweeps.png and keypoints.png in ``out_dir``."""
    done = [draw_accuracy(results, out_dir / "accuracy.png")]
    if results["sweeps"]:
        done.append(draw_sweeps(results, out_dir / "sweeps.png"))
    done.append(draw_keypoints(results, folder, made, out_dir / "keypoints.png"))
    return done


def new_figure(rows: int, columns: int, width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width * columns, height * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure, axis) -> None:
    """One legend for all axes, below them: inside, it would hide some method's curve."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def _save(figure, path: Path) -> Path:
    temporary = path.with_name(f".{path.name}.partial")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
    return path


def _style(results: dict, method: str) -> dict:
    """Colour and marker of a method, the same in every plot."""
    names = [m["name"] for m in results["methods"]]
    i = names.index(method)
    marker = "osD^v<>PX*"[(i + i // 10) % 10]  # of another method in the same colour another one
    return {"color": f"C{i % 10}", "marker": marker, "markersize": 4, "linewidth": 1.4, "label": method}


def _ran(results: dict) -> list[str]:
    return [m["name"] for m in results["methods"] if m["status"] == "ran"]


def draw_accuracy(results: dict, path: Path) -> Path:
    """Mean matching accuracy against the threshold, one panel per group of pairs."""
    groups = [g for g in ("views", "homography", "modality") if results["n_cases"].get(g)]
    figure, axes = new_figure(1, len(groups), 4.2, 3.6)
    for axis, group in zip(axes[0], groups):
        for method in _ran(results):
            figures = results["figures"][method][group]
            thresholds = sorted(int(k[4:-2]) for k in figures if k.startswith("mma_"))
            entries = [figures[f"mma_{t}px"] for t in thresholds]
            axis.errorbar(thresholds, [e["mean"] for e in entries], [e["std"] or 0 for e in entries], capsize=2,
                          **_style(results, method))  # fmt: skip
        axis.set(title=f"{group} ({results['n_cases'][group]} pairs)", xlabel="threshold, px", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("mean matching accuracy")
    _legend(figure, axes[0][0])
    return _save(figure, path)


def draw_sweeps(results: dict, path: Path) -> Path:
    """Accuracy (above) and correct matches per pair (below) against strength, one column per sweep."""
    kinds = sorted({s["variation"] for s in results["sweeps"]})
    figure, axes = new_figure(len(SWEEP_FIGURES), len(kinds), 3.4, 3.0)
    for row, (name, words) in zip(axes, SWEEP_FIGURES.items()):
        for axis, kind in zip(row, kinds):
            for method in _ran(results):
                mine = [s for s in results["sweeps"] if s["variation"] == kind and s["method"] == method]
                mine = sorted((s for s in mine if s["figures"][name]["mean"] is not None), key=_strength)
                values = [s["figures"][name]["mean"] for s in mine]
                bars = [s["figures"][name]["std"] or 0 for s in mine]
                axis.errorbar([s["strength"] for s in mine], values, bars, capsize=2, **_style(results, method))
            axis.set_ylim(0, 1 if name.startswith("mma") else None)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(words)
    for top, bottom, kind in zip(axes[0], axes[-1], kinds):
        top.set_title(kind)
        bottom.set_xlabel(results["strength"][kind].replace(", ", ",\n", 1), fontsize=8)
    _legend(figure, axes[0][0])
    return _save(figure, path)


def _strength(entry: dict) -> float:
    return entry["strength"]


def examples(cases: list[Case], limit: int = 5) -> list[Case]:
    """One case per subject, in the order they come: a view first, then the flat pictures."""
    found: dict[str, Case] = {}
    for case in sorted(cases, key=lambda c: (c.group != "views", c.group != "homography")):
        found.setdefault(case.subject, case)
    return list(found.values())[:limit]


def draw_keypoints(results: dict, folder: CaseFolder, made: dict[str, Predictions], path: Path) -> Path:
    """The keypoints of every extractor over example pictures, with their dispersion and low-texture coverage."""
    extractors: dict[str, Predictions] = {}
    for facts in results["methods"]:
        if facts["name"] in made:
            extractors.setdefault(extractor_name(facts["name"]), made[facts["name"]])
    shown = examples(folder.cases())
    figure, axes = new_figure(len(shown), len(extractors), 3.1, 3.3)
    for row, case in zip(axes, shown):
        image, mask = folder.image(case.image_a)
        usable = object_region(image, mask, folder.truth(case))
        for axis, (name, predictions) in zip(row, extractors.items()):
            features = predictions.features(case.image_a)
            covered = spread(features.xy, to_grey(image), usable)
            axis.imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
            axis.scatter(*features.xy.T, s=3, c="lime", linewidths=0)
            axis.set(xticks=[], yticks=[], xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
            axis.set_title(f"{name}: {len(features)} keypoints\n{_words(covered)}", fontsize=7)
        row[0].set_ylabel(case.subject, fontsize=8)
    return _save(figure, path)


def _words(covered) -> str:
    number = lambda v, digits: "-" if v is None or not np.isfinite(v) else f"{v:.{digits}f}"  # noqa: E731
    return (
        f"cells {number(covered.occupied, 2)}, Clark-Evans {number(covered.clark_evans, 2)}, "
        f"low texture {number(covered.low_texture, 2)}"
    )
