# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables and as a roofline plot."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

OTHERS = ("eager", "compiled", "jax", "nerfacc")


def markdown(results: dict[str, Any]) -> str:
    """All rows, with the machine and what the columns mean."""
    others = [name for name in OTHERS if any(name in row["others"] for row in results["ops"])]
    top = ceilings(results)
    out = [
        "# Speed of the ops",
        "",
        f"{results['machine']}, {results['cores']} cores, {results['threads']} threads, torch {results['torch']}, "
        f"kernels {results['backend']['name']} ({results['backend']['build_info'].get('simd', 'no SIMD')}), float32. "
        f"Ceilings, medians over the rows: {', '.join(f'{n} {v / 1e9:.0f} {_unit(n)}' for n, v in top.items())}.",
        "",
        "`ms`: median of turns taken with the others; `±`: interquartile range. `x eager`, ...: how many times as",
        "long the other takes. `limit`: the time that the row's arithmetic takes at the speed of large products",
        "(sgemm: torch.mm; onednn: the same as a convolution; the faster counts), or its tensors at that of a",
        "copy, whichever is longer, all measured in turns with the row, over `ms`. `of sgemm`: the arithmetic at",
        "the speed of torch.mm alone. Formulas are in `medrecon/bench/speed`; an elementary function counts as 16",
        "operations. More than 100 % can be: what fits into the cache beats the copy, and octaves of the encoding",
        "that fade to nothing are counted but left out by our kernel.",
        "`difference`: from eager, relative.",
        "",
        "| op | | size | ms | ± | " + " | ".join(f"x {name}" for name in others) + " | limit | of sgemm | difference |",
        "|---|---|---|---|---|" + "---|" * len(others) + "---|---|---|",
    ]
    for row in ordered(results):
        ratios = [f"{row['others'][n]['ratio']:.1f}" if n in row["others"] else "" for n in others]
        out.append(
            f"| {row['op']} | {row['what']} | {row['size']} | {row['ms']:.3g} | {row['spread']:.0%} | "
            + " | ".join(ratios)
            + f" | {row['fraction']:.0%} {row['limit']} | {row['of_sgemm']:.0%} | {row['difference']:.0e} |"
        )
    reasons = sorted({f"{row['op']}, {n}: {r}" for row in results["ops"] for n, r in row["left_out"].items()})
    if reasons:
        out += ["", "Left out:", "", *(f"- {reason}" for reason in reasons)]
    return "\n".join(out) + "\n"


def headline(results: dict[str, Any]) -> str:
    """The largest size of every op, with gradients if measured, and every network on 1024 rays: for a README."""
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in ordered(results):
        if row["op"] != "mipnerf":
            known = chosen.setdefault((row["op"],), row)
            if (_items(row), row["what"]) > (_items(known), known["what"]):
                chosen[row["op"],] = row
        elif row["size"].startswith("1024 x"):
            chosen[row["op"], row["what"], row["size"]] = row
    out = ["| | size | ms | eager PyTorch | torch.compile | of the limit | of sgemm |", "|---|---|---|---|---|---|---|"]
    for row in chosen.values():
        ratio = {name: f"{other['ratio']:.1f}x" for name, other in row["others"].items()}
        out.append(
            f"| {row['op']}, {row['what']} | {row['size']} | {row['ms']:.3g} | {ratio['eager']} | "
            f"{ratio.get('compiled', '')} | {row['fraction']:.0%} {row['limit']} | {row['of_sgemm']:.0%} |"
        )
    return "\n".join(out) + "\n"


def ordered(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows by op, the training step first, each from the smallest size to the largest."""

    return sorted(results["ops"], key=lambda row: (row["op"] != "mipnerf", row["op"], row["what"], _items(row)))


def _items(row: dict[str, Any]) -> int:
    return math.prod(int(number) for number in re.findall(r"\d+", row["size"]))


def ceilings(results: dict[str, Any]) -> dict[str, float]:
    """Operations or bytes per second: medians over the rows."""
    rows = [row["ceilings"] for row in results["ops"]]
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _unit(ceiling: str) -> str:
    return "GB/s" if ceiling == "copy" else "GFLOP/s"


def roofline(results: dict[str, Any], out: Path) -> list[Path]:
    """speed.png and speed.svg: operations per second against operations per byte, below the two ceilings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in results["ops"] if row["flops"]]
    top = {name: value / 1e9 for name, value in ceilings(results).items()}
    copy = top.pop("copy")
    fastest = max(top.values())
    figure = Figure((9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    intensity = [row["flops"] / row["bytes"] for row in rows]
    low, high = 0.5 * min(intensity), 2 * max(intensity)
    axis.plot([low, fastest / copy, high], [low * copy, fastest, fastest], color="black", linewidth=1)
    for name, speed in top.items():
        axis.plot([speed / copy, high], [speed, speed], color="black", linewidth=0.5)
        axis.text(high, speed, f"{name} {speed:.0f} GFLOP/s ", ha="right", va="bottom", fontsize=8)
    axis.text(low, low * copy, f" copy {copy:.1f} GB/s", ha="left", va="top", fontsize=8)
    names = list(dict.fromkeys((row["op"], row["what"]) for row in rows))
    for i, name in enumerate(names):
        mine = [(x, row) for x, row in zip(intensity, rows) if (row["op"], row["what"]) == name]
        style = {"color": f"C{i % 10}", "marker": "osD^v"[i // 10 % 5], "linestyle": "none"}
        speed = [row["flops"] / row["ms"] / 1e6 for _, row in mine]
        axis.plot([x for x, _ in mine], speed, **style, label=", ".join(name))
        eager = [row["flops"] / row["others"]["eager"]["ms"] / 1e6 for _, row in mine]
        axis.plot([x for x, _ in mine], eager, **style, fillstyle="none", alpha=0.6)
    axis.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s", xlim=(low, high))
    axis.set_title(f"{results['machine']}, {results['threads']} threads; hollow: eager PyTorch", fontsize=9)
    axis.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    made = []
    for kind in ("png", "svg"):
        path = out / f"speed.{kind}"
        partial = path.with_name(f".{path.name}.partial")
        figure.savefig(partial, format=kind, metadata={"Date": None} if kind == "svg" else None)
        partial.replace(path)
        made.append(path)
    return made


def write(results: dict[str, Any], out: Path) -> list[Path]:
    """results.md and, where matplotlib is installed, the plots."""
    table = out / "results.md"
    table.write_text(markdown(results), encoding="utf-8")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return [table]
    return [table, *roofline(results, out)]
