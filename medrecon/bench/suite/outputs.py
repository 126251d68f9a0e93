# SPDX-License-Identifier: Apache-2.0
"""Results of a table on disk: JSON, CSV, Markdown and LaTeX, with the paper's values below ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medrecon.bench.tables import cell, markdown_table
from medrecon.config import yaml_file
from medrecon.types.storage import write_bytes_atomic, write_json

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Column:
    """Attributes:
    name: figure in the rows.
    heading, digits: of the column.
    """

    name: str
    heading: str
    digits: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Attributes:
    title: of the table.
    keys: what names a row within its sequence.
    columns: figures.
    """

    title: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]


_PSNR, _SSIM = Column("psnr_db", "PSNR dB", 2), Column("ssim", "SSIM", 3)
_MS_SSIM, _LPIPS = Column("ms_ssim", "MS-SSIM", 3), Column("lpips", "LPIPS", 3)
_BY_COUNT = ("pictures", "field")
LAYOUTS = {
    "table1": Layout(
        "Table 1: what structure from motion makes of every front end's matches",
        ("method",),
        (
            Column("putative_per_pair", "matches/pair", 1),
            Column("verified_per_pair", "verified/pair", 1),
            Column("registered", "registered", 0),
            Column("points", "points", 0),
            Column("track_length", "track length", 2),
            Column("reprojection_px", "reprojection px", 2),
            Column("ate_mm", "ATE mm", 2),
        ),
    ),
    "table2": Layout(
        "Table 2: held-out views of the same radiance field on every front end's poses",
        ("method",),
        (_SSIM, _PSNR, _LPIPS, _MS_SSIM, Column("failed_views", "failed views", 0)),
    ),
    "fig4": Layout(
        "Figure 4: keypoints of every front end",
        ("method",),
        (Column("keypoints", "keypoints/picture", 0), Column("verified_share", "share in verified matches", 2)),
    ),
    "fig5": Layout(
        "Figure 5: held-out views over the number of input pictures",
        (*_BY_COUNT, "budget"),
        (_PSNR, _SSIM, _MS_SSIM, _LPIPS),
    ),
    "fig6": Layout(
        "Figure 6: the paper's mip-NeRF with 1, 2 and 3 hidden layers",
        ("layers",),
        (_PSNR, Column("radiance_s", "training s", 1), Column("render_s", "rendering s", 1)),
    ),
    "fig7": Layout(
        "Figure 7: mean absolute error of the held-out views (colours 0 to 1)", _BY_COUNT, (Column("mae", "MAE", 4),)
    ),
    "fig8": Layout(
        "Figure 8: normalised RMSE of the held-out views", _BY_COUNT, (Column("nrmse", "NRMSE", 4),)
    ),
    "matching": Layout(
        "Front ends on pairs whose correspondences are known",
        ("method",),
        (
            Column("repeatability", "repeatability", 3),
            Column("mma_3px", "accuracy at 3 px", 3),
            Column("verified_matches", "verified matches", 1),
            Column("pose_auc_10deg", "pose AUC at 10°", 3),
        ),
    ),
    "radiance": Layout(
        "Radiance fields on true poses, in the same time",
        ("method",),
        (_PSNR, _SSIM, _LPIPS, _MS_SSIM, Column("radiance_s", "training s", 1), Column("render_s", "rendering s", 1)),
    ),
    "speed": Layout(
        "Speed of the ops, the training step and rendering",
        ("method", "size"),
        (
            Column("ms", "ms", 3),
            Column("over_eager", "times PyTorch", 1),
            Column("over_compiled", "times torch.compile", 1),
            Column("fraction", "% of the limit", 0),
        ),
    ),
}  # fmt: skip


def write(name: str, results: dict[str, Any], folder: Path, published: Path) -> list[Path]:
    """NAME.json, .csv, .md and .tex in ``folder``.

    Args:
        results: {"rows", "verdicts", and what else is known about it}.
        published: folder of NAME.yaml, the paper's values.
    """
    layout = LAYOUTS[name]
    paper = _published(published / f"{name}.yaml")
    files = [folder / f"{name}{ending}" for ending in (".json", ".csv", ".md", ".tex")]
    write_json(files[0], {"schema": SCHEMA, "benchmark": name, **results, "published": paper})
    write_bytes_atomic(files[1], _csv(results["rows"], layout).encode())
    write_bytes_atomic(files[2], markdown(layout, results, paper).encode())
    write_bytes_atomic(files[3], latex(layout, results["rows"]).encode())
    return files


def _published(path: Path) -> dict[str, Any] | None:
    return yaml_file.read(path)[0] if path.is_file() else None


def markdown(layout: Layout, results: dict[str, Any], paper: dict[str, Any] | None) -> str:
    """Rows by sequence, then the paper's, then the verdicts."""
    about = results.get("about", {})
    parts = [f"# {layout.title}\n", *([f"{about['text']}\n"] if about.get("text") else [])]
    rows = results["rows"]
    for sequence in dict.fromkeys(r["sequence"] for r in rows):
        parts.append(f"## {about.get('titles', {}).get(sequence, sequence)}\n")
        mine = [r for r in rows if r["sequence"] == sequence]
        lines = [cells(r, layout) for r in mine]
        parts.append(markdown_table(head(layout), lines))
        parts += [f"{r['method']} failed: {r['failed'].split('. attempt')[0]}\n" for r in mine if r.get("failed")]
    if paper:
        parts.append("## Published, on sequences that were never made public\n")
        names = list(next(iter(paper["rows"].values())))
        top = ["method", *(f"{n}, sequence {k}" for k in paper["sequences"] for n in names)]
        lines = [[m, *(str(v[n][k]) for k in range(len(paper["sequences"])) for n in names)]
                 for m, v in paper["rows"].items()]  # fmt: skip
        parts.append(markdown_table(top, lines))
    if results.get("verdicts"):
        parts.append("## Does the paper's claim hold on this data?\n")
        parts.append(
            markdown_table(
                ["claim", "holds", "because"], [[v["claim"], v["holds"], v["why"]] for v in results["verdicts"]]
            )
        )
    for s in results.get("skipped", []):
        parts.append(f"left out: {s['name']}: {s['reason']}; {s['command']}\n")
    return "\n".join(parts)


def head(layout: Layout) -> list[str]:
    """Headings of a row's :func:`cells`."""
    return [*layout.keys, *(c.heading for c in layout.columns)]


def cells(row: dict[str, Any], layout: Layout) -> list[str]:
    """A row in words."""
    return [*(str(row[k]) for k in layout.keys), *(cell(row.get(c.name), c.digits) for c in layout.columns)]


def _csv(rows: Sequence[dict[str, Any]], layout: Layout) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    names = [f"{c.name}{s}" for c in layout.columns for s in ("", "_std")]
    out.writerow(["sequence", *layout.keys, "seeds", *names, "failed"])
    for r in rows:
        figures = [r.get(c.name) or {} for c in layout.columns]
        values = [f.get(k) for f in figures for k in ("mean", "std")]
        out.writerow([r["sequence"], *(r[k] for k in layout.keys), r["seeds"], *values, r.get("failed")])
    return text.getvalue()


def latex(layout: Layout, rows: Sequence[dict[str, Any]]) -> str:
    """A tabular with booktabs' rules; the paper's packages are the reader's."""
    lines = [
        f"% {layout.title}",
        r"\begin{tabular}{l" + "l" * len(layout.keys) + "r" * len(layout.columns) + "}",
        r"\toprule",
        " & ".join(["sequence", *head(layout)]) + r" \\",
        r"\midrule",
    ]
    before = None
    for r in rows:
        if before not in (None, r["sequence"]):
            lines.append(r"\addlinespace")
        name = "" if r["sequence"] == before else r["sequence"]
        texts = [_escaped(text).replace("±", r"$\pm$") for text in (name, *cells(r, layout))]
        lines.append(" & ".join(texts) + r" \\")
        before = r["sequence"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)
