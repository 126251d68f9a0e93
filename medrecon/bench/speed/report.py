# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables and as a roofline plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

OTHERS = ("eager", "compiled", "jax", "nerfacc")


def markdown(results: dict[str, Any]) -> str:
    """All rows, with the machine and what the columns mean."""
    others = [name for name in OTHERS if any(name in row["others"] for row in results["ops"])]
    sgemm, copy = ceilings(results)
    out = [
        "# Speed of the ops",
        "",
        f"{results['machine']}, {results['cores']} cores, {results['threads']} threads, torch {results['torch']}, "
        f"kernels {results['backend']['name']} ({results['backend']['build_info'].get('simd', 'no SIMD')}), float32. "
        f"Ceilings, median over the rows: sgemm {sgemm / 1e9:.0f} GFLOP/s, copy {copy / 1e9:.1f} GB/s.",
        "",
        "`ms`: median of turns taken with the others; `±`: interquartile range. `x eager`, ...: how many times as long",
        "the other takes. `limit`: the time that the row's arithmetic takes at the speed of sgemm, or its tensors at",
        "that of a copy, whichever is longer, both measured in turns with the row, over `ms`; formulas are in",
        "`medrecon/bench/speed`, an elementary function counts as 16 operations, and what fits into the cache can beat",
        "the copy. `difference`: from eager, relative.",
        "",
        "| op | | size | ms | ± | " + " | ".join(f"x {name}" for name in others) + " | limit | difference |",
        "|---|---|---|---|---|" + "---|" * len(others) + "---|---|",
    ]
    for row in results["ops"]:
        ratios = [f"{row['others'][n]['ratio']:.1f}" if n in row["others"] else "" for n in others]
        out.append(
            f"| {row['op']} | {row['what']} | {row['size']} | {row['ms']:.3g} | {row['spread']:.0%} | "
            + " | ".join(ratios)
            + f" | {row['fraction']:.0%} {row['limit']} | {row['difference']:.0e} |"
        )
    reasons = sorted({f"{row['op']}, {n}: {r}" for row in results["ops"] for n, r in row["left_out"].items()})
    if reasons:
        out += ["", "Left out:", "", *(f"- {reason}" for reason in reasons)]
    return "\n".join(out) + "\n"


def headline(results: dict[str, Any]) -> str:
    """The largest size of every op (of mipnerf: every network on 1024 rays), for a README."""
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in results["ops"]:
        if row["op"] != "mipnerf":
            chosen[row["op"], row["what"]] = row
        elif row["size"].startswith("1024 x"):
            chosen[row["op"], row["what"], row["size"]] = row
    out = ["| | size | ms | eager PyTorch | torch.compile | of the limit |", "|---|---|---|---|---|---|"]
    for row in chosen.values():
        ratio = {name: f"{other['ratio']:.1f}x" for name, other in row["others"].items()}
        out.append(
            f"| {row['op']}, {row['what']} | {row['size']} | {row['ms']:.3g} | {ratio['eager']} | "
            f"{ratio.get('compiled', '')} | {row['fraction']:.0%} {row['limit']} |"
        )
    return "\n".join(out) + "\n"


def ceilings(results: dict[str, Any]) -> tuple[float, float]:
    """Operations and bytes per second: medians over the rows."""
    rows = results["ops"]
    return tuple(statistics.median(row[key] for row in rows) for key in ("sgemm_flops_per_s", "copy_bytes_per_s"))


def roofline(results: dict[str, Any], out: Path) -> list[Path]:
    """speed.png and speed.svg: operations per second against operations per byte, below the two ceilings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in results["ops"] if row["flops"]]
    sgemm, copy = (value / 1e9 for value in ceilings(results))
    figure = Figure((9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    intensity = [row["flops"] / row["bytes"] for row in rows]
    low, high = 0.5 * min(intensity), 2 * max(intensity)
    axis.plot([low, sgemm / copy, high], [low * copy, sgemm, sgemm], color="black", linewidth=1)
    axis.text(high, sgemm, f"sgemm {sgemm:.0f} GFLOP/s ", ha="right", va="bottom", fontsize=8)
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
