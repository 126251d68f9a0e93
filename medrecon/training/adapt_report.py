# SPDX-License-Identifier: Apache-2.0
"""What an adaptation tells its user: results.json, and the same for people with advice."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from medrecon.training import adapt_check
from medrecon.training.adapt_data import Frames
from medrecon.training.origin import Origin

SCHEMA = 1


def results_of(
    frames: Frames, origin: Origin, seed: int, summary: dict[str, Any], before: dict[str, list], after: dict[str, list]
) -> dict[str, Any]:
    """Content of results.json.

    Args:
        seed: of the intervals.
        summary: of the training.
        before, after: from ``adapt_check.measure``.
    """
    from medrecon.pipeline.manifest import machine, package_versions

    table = adapt_check.compare(before, after, seed)
    verdict = adapt_check.verdict(table)
    return {
        "schema": SCHEMA,
        "what": "adapt",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": frames.source,
        "frames": {"read": frames.n_read, "learn": len(frames.learn), "held_out": len(frames.held_out)},
        "derived_from": origin.facts(),
        "license": origin.derived_license,
        "training": summary,
        "verdict": verdict,
        "advice": advice(verdict, table, summary, len(frames.learn)),
        "table": table,
        "before": before,
        "after": after,
        "machine": machine(),
        "versions": package_versions(),
    }


def advice(verdict: str, table: list[dict[str, Any]], summary: dict[str, Any], n_learn: int) -> list[str]:
    """What to do with the result."""
    if verdict == "better":
        out = ["use the adapted weights on pictures of this kind; on others measure first"]
        warped = {r["figure"]: r for r in table if r["gap"] == "warp"}
        fell = [n for n in adapt_check.WARP_FIGURES if warped[n]["high"] is not None and warped[n]["high"] < 0]
        if fell:
            out.append(
                f"under strong known homographies it is worse ({', '.join(fell)}): where views turn or zoom a lot, "
                "compare with `medrecon bench front-ends`, or learn the detector less, --set learn.detector=0.02"
            )
        return out
    out = ["keep the starting weights for this material"]
    if verdict == "worse":
        out.append("learn more gently: --set learn.learning_rate=1e-5, --set learn.pull=1")
    if summary["steps"] < 500:
        out.append(f"train longer: {summary['steps']} steps are few (--minutes)")
    if n_learn < 30:
        out.append(f"give more frames: {n_learn} are few (--set frames=100)")
    out.append(
        "look at the keypoints: if the masks are wrong, cut burned-in text off with -o crop=[x, y, width, height]"
    )
    return out


def report(results: dict[str, Any]) -> str:
    """results.md: verdict, table, advice."""
    words = {
        "better": "Adapting helped on the held-out frames.",
        "worse": "Adapting made it worse on the held-out frames.",
        "unclear": "No clear gain on the held-out frames.",
    }
    f = results["frames"]
    return (
        f"{words[results['verdict']]}\n\n"
        f"{f['learn']} frames learnt from, {f['held_out']} held out, {results['training']['steps']} steps in "
        f"{results['training']['seconds'] / 60:.1f} min. Licence of the weights: {results['license']}.\n\n"
        + adapt_check.markdown(results["table"])
        + "\n"
        + "".join(f"- {line}\n" for line in results["advice"])
    )
