# SPDX-License-Identifier: Apache-2.0
"""Plots of the suite's figures, PNG and SVG, from the rows that are also in the files beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medrecon.bench.plots import new_figure
from medrecon.bench.suite import keypoints

COLOURS = {"mipgrid": "#0b5fa5", "nerf": "#c4541b", "mipnerf": "#3f7f3f"}
NAMES = {"mipgrid": "ours (mipgrid)", "nerf": "classical NeRF"}
STYLES = {"steps": "-", "time": "--"}
WORDS = {"steps": "same rays", "time": "same time"}


def draw(name: str, results: dict[str, Any], folder: Path) -> list[Path]:
    """NAME.png and NAME.svg for the figures (of figure 4, being pictures, only the former), nothing for the tables."""
    rows = [r for r in results["rows"] if not r["failed"]]
    if name not in DRAWN or not rows:
        return []
    figure = DRAWN[name](rows, folder)
    files = [folder / f"{name}{ending}" for ending in ((".png",) if name == "fig4" else (".png", ".svg"))]
    for path in files:
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return files


def _over_counts(rows: list[dict[str, Any]], _: Path):
    figures = (("psnr_db", "PSNR dB"), ("ssim", "SSIM"), ("ms_ssim", "MS-SSIM"))
    figure, axes = new_figure(1, len(figures), 4.2, 3.4)
    for axis, (name, label) in zip(axes[0], figures):
        for field in dict.fromkeys(r["field"] for r in rows):
            for budget in dict.fromkeys(r["budget"] for r in rows):
                line = [r for r in rows if (r["field"], r["budget"]) == (field, budget) and r[name]]
                line.sort(key=lambda r: r["pictures"])
                if line:
                    axis.errorbar(
                        [r["pictures"] for r in line], [r[name]["mean"] for r in line],
                        [r[name]["std"] or 0 for r in line], color=COLOURS[field], linestyle=STYLES[budget], marker="o",
                        markersize=3, capsize=2, label=f"{NAMES[field]}, {WORDS[budget]}",
                    )  # fmt: skip
        axis.set_xlabel("input pictures")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    return figure


def _over_layers(rows: list[dict[str, Any]], _: Path):
    figure, axes = new_figure(1, 2, 3.6, 3.2)
    layers = [r["layers"] for r in rows]
    axes[0][0].plot(layers, [r["psnr_db"]["mean"] for r in rows], "o-", color=COLOURS["mipnerf"])
    axes[0][0].set_ylabel("PSNR dB")
    for name, style in (("radiance_s", "o-"), ("render_s", "s--")):
        axes[0][1].plot(layers, [r[name]["mean"] for r in rows], style, color=COLOURS["mipnerf"], label=name[:-2])
    axes[0][1].set_ylabel("seconds")
    axes[0][1].legend(fontsize=8)
    for axis in axes[0]:
        axis.set_xlabel("hidden layers")
        axis.set_xticks(layers)
        axis.grid(alpha=0.3)
    return figure


def _boxes(label: str):
    def draw_boxes(rows: list[dict[str, Any]], _: Path):
        figure, axes = new_figure(1, 1, 6.5, 3.4)
        axis = axes[0][0]
        fields = list(dict.fromkeys(r["field"] for r in rows))
        counts = sorted({r["pictures"] for r in rows})
        for k, field in enumerate(fields):
            mine = {r["pictures"]: r["values"] for r in rows if r["field"] == field}
            here = [n for n in counts if mine.get(n)]
            at = [counts.index(n) + 0.36 * (k - (len(fields) - 1) / 2) for n in here]
            boxes = axis.boxplot([mine[n] for n in here], positions=at, widths=0.3, whis=(0, 100), patch_artist=True)
            for box in boxes["boxes"]:
                box.set_facecolor(COLOURS[field])
                box.set_alpha(0.6)
            axis.plot([], [], color=COLOURS[field], linewidth=6, alpha=0.6, label=NAMES[field])
        axis.set_xticks(range(len(counts)), [str(n) for n in counts])
        axis.set_xlabel("input pictures (boxes: quartiles; whiskers: all views)")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3, axis="y")
        return figure

    return draw_boxes


DRAWN = {
    "fig4": keypoints.draw,
    "fig5": _over_counts,
    "fig6": _over_layers,
    "fig7": _boxes("mean absolute error"),
    "fig8": _boxes("NRMSE"),
}
