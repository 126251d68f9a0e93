# SPDX-License-Identifier: Apache-2.0
"""One HTML page of everything in a folder of results: tables, verdicts, plots; nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from medrecon.bench.suite.outputs import LAYOUTS, cells, head
from medrecon.types.storage import read_json, write_bytes_atomic

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2530; }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #d8dee5; text-align: right; vertical-align: top; }
th:first-child, td:first-child, .words td { text-align: left; }
thead th { border-bottom: 2px solid #8493a3; }
h2 { margin-top: 2.4rem; } img { max-width: 100%; }
.yes { color: #14713a; } .no { color: #a4262c; } .within { color: #8a5a00; } .small { color: #5a6a7a; font-size: 13px; }
"""


def write_page(folder: Path, names: tuple[str, ...] = tuple(LAYOUTS)) -> Path | None:
    """index.html of NAME.json in ``folder``; None when there is none of them."""
    parts = []
    for name in names:
        path = folder / f"{name}.json"
        if path.is_file():
            parts.append(_section(name, read_json(path), folder))
    if not parts:
        return None
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>medrecon benchmarks</title><style>{STYLE}</style><h1>medrecon benchmarks</h1>{''.join(parts)}</html>"
    )
    write_bytes_atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def _section(name: str, results: dict[str, Any], folder: Path) -> str:
    layout, about = LAYOUTS[name], results.get("about", {})
    out = [f"<h2 id={name}>{html.escape(layout.title)}</h2>"]
    machine = ", ".join(str(v) for v in results.get("machine", {}).values() if isinstance(v, str | int))
    out.append(f"<p class=small>{html.escape('; '.join(t for t in (about.get('text', ''), machine) if t))}</p>")
    plot = folder / f"{name}.png"
    if plot.is_file():
        data = base64.b64encode(plot.read_bytes()).decode()
        out.append(f"<img alt='{html.escape(layout.title)}' src='data:image/png;base64,{data}'>")
    rows = results["rows"]
    for sequence in dict.fromkeys(r["sequence"] for r in rows):
        mine = [r for r in rows if r["sequence"] == sequence]
        out.append(f"<h3>{html.escape(about.get('titles', {}).get(sequence, sequence))}</h3>")
        out.append(_table(head(layout), [cells(r, layout) for r in mine]))
        failed = [f"{r['method']} failed: {r['failed'].split('. attempt')[0]}" for r in mine if r.get("failed")]
        out += [f"<p class=small>{html.escape(text)}</p>" for text in dict.fromkeys(failed)]
    if results.get("published"):
        out.append("<h3>Published, on sequences that were never made public</h3>" + _published(results["published"]))
    if results.get("verdicts"):
        lines = "".join(_verdict(v) for v in results["verdicts"])
        out.append(f"<h3>Does the paper's claim hold on this data?</h3><table class=words>{lines}</table>")
    left = [f"left out: {s['name']}: {s['reason']}; {s['command']}" for s in results.get("skipped", [])]
    return "".join([*out, *(f"<p class=small>{html.escape(text)}</p>" for text in left)])


def _verdict(v: dict[str, str]) -> str:
    claim, why = html.escape(v["claim"]), html.escape(v["why"])
    return f"<tr><td>{claim}<td class='{v['holds'].split()[0]}'>{v['holds']}<td>{why}"


def _table(names: list[str], lines: list[list[str]]) -> str:
    top = "".join(f"<th>{html.escape(n)}" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}" for c in line) for line in lines)
    return f"<table><thead><tr>{top}<tbody>{body}</table>"


def _published(paper: dict[str, Any]) -> str:
    names = list(next(iter(paper["rows"].values())))
    top = ["", *(f"{n}: {s}" for s in paper["sequences"] for n in names)]
    count = len(paper["sequences"])
    return _table(top, [[m, *(str(v[n][k]) for k in range(count) for n in names)] for m, v in paper["rows"].items()])
