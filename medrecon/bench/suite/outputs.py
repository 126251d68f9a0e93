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


TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "table1": (
        "Table 1: what structure from motion makes of every front end's matches",
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
    "table2": (
        "Table 2: held-out views of the same radiance field on every front end's poses",
        (
            Column("ssim", "SSIM", 3),
            Column("psnr_db", "PSNR dB", 2),
            Column("lpips", "LPIPS", 3),
            Column("ms_ssim", "MS-SSIM", 3),
            Column("failed_views", "failed views", 0),
        ),
    ),
}


def write(name: str, results: dict[str, Any], folder: Path, published: Path) -> list[Path]:
    """NAME.json, .csv, .md and .tex in ``folder``.

    Args:
        results: {"rows", "verdicts", and what else is known about it}.
        published: folder of NAME.yaml, the paper's values.
    """
    title, columns = TABLES[name]
    paper = _published(published / f"{name}.yaml")
    files = [folder / f"{name}{ending}" for ending in (".json", ".csv", ".md", ".tex")]
    write_json(files[0], {"schema": SCHEMA, "benchmark": name, **results, "published": paper})
    write_bytes_atomic(files[1], _csv(results["rows"], columns).encode())
    write_bytes_atomic(files[2], markdown(title, columns, results, paper).encode())
    write_bytes_atomic(files[3], latex(title, columns, results["rows"]).encode())
    return files


def _published(path: Path) -> dict[str, Any] | None:
    return yaml_file.read(path)[0] if path.is_file() else None


def markdown(title: str, columns: Sequence[Column], results: dict[str, Any], paper: dict[str, Any] | None) -> str:
    """Rows by sequence, then the paper's, then the verdicts."""
    about = results.get("about", {})
    parts = [f"# {title}\n", *([f"{about['text']}\n"] if about.get("text") else [])]
    rows = results["rows"]
    for sequence in dict.fromkeys(r["sequence"] for r in rows):
        parts.append(f"## {about.get('titles', {}).get(sequence, sequence)}\n")
        mine = [r for r in rows if r["sequence"] == sequence]
        lines = [[r["method"], *(cell(r.get(c.name), c.digits) for c in columns)] for r in mine]
        parts.append(markdown_table(["method", *(c.heading for c in columns)], lines))
        parts += [f"{r['method']} failed: {r['failed'].split('. attempt')[0]}\n" for r in mine if r.get("failed")]
    if paper:
        parts.append("## Published, on sequences that were never made public\n")
        names = list(next(iter(paper["rows"].values())))
        head = ["method", *(f"{n}, sequence {k}" for k in paper["sequences"] for n in names)]
        lines = [[m, *(str(v[n][k]) for k in range(len(paper["sequences"])) for n in names)]
                 for m, v in paper["rows"].items()]  # fmt: skip
        parts.append(markdown_table(head, lines))
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


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["sequence", "method", "seeds", *(f"{c.name}{s}" for c in columns for s in ("", "_std")), "failed"])
    for r in rows:
        figures = [r.get(c.name) or {} for c in columns]
        values = [f.get(k) for f in figures for k in ("mean", "std")]
        out.writerow([r["sequence"], r["method"], r["seeds"], *values, r.get("failed")])
    return text.getvalue()


def latex(title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    """A tabular with booktabs' rules; the paper's packages are the reader's."""
    lines = [
        f"% {title}",
        r"\begin{tabular}{ll" + "r" * len(columns) + "}",
        r"\toprule",
        " & ".join(["sequence", "method", *(c.heading for c in columns)]) + r" \\",
        r"\midrule",
    ]
    before = None
    for r in rows:
        if before not in (None, r["sequence"]):
            lines.append(r"\addlinespace")
        cells = [cell(r.get(c.name), c.digits).replace("±", r"$\pm$") for c in columns]
        name = "" if r["sequence"] == before else r["sequence"]
        lines.append(
            " & ".join(_escaped(v) if i < 2 else v for i, v in enumerate([name, r["method"], *cells])) + r" \\"
        )
        before = r["sequence"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)
