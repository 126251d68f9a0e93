# SPDX-License-Identifier: Apache-2.0
"""The page that goes with exported weights: what they are, from what, how, how good, and where they end."""

from __future__ import annotations

from typing import Any

# What every card says, whatever was trained.
LIMITS = (
    "Trained to match pictures of anatomy for reconstruction; nothing here is a diagnosis, and nothing was tested in "
    "patient care.",
    "Most pairs are renderings of a few volumes: real pictures differ in texture, blood, smoke, instruments and "
    "motion. Measure on your own pictures first (`medrecon bench front-ends`).",
    "Figures of validation are of renderings and photographs made as for the training, from subjects of the validation "
    "split.",
)
ADAPTED_LIMITS = (
    "Adapted to one kind of pictures; on others the starting weights may be better.",
    "The pictures themselves are not part of the weights' licence, and whether weights may be passed on that learnt "
    "from patients' pictures is for your institution to say.",
)


def card(
    name: str, about: dict[str, Any], size_bytes: int, picture: str | None = None, evaluation: str | None = None
) -> str:
    """Markdown.

    Args:
        about: content of the .json beside the weights: format, config, license, provenance.
        picture: file name of the curves, beside the card; None: there is none.
        evaluation: a table in Markdown, such as that of ``medrecon bench matching``; None: not measured yet.
    """
    p = about["provenance"]
    adapted = "derived_from" in p
    parts = [
        f"# {name}",
        f"{p['what']}. Format `{about['format']}`, {size_bytes / 1e6:.2g} MB.",
        f"**Licence: {about['license']}**",
        "## Use\n\n" + _use(name, about["format"]),
        "## Data\n\n" + _data(p),
        "## Procedure\n\n" + _procedure(p),
        "## Validation\n\n" + _figures(p.get("validation", {})),
    ]
    if about["format"].endswith("superglue"):
        parts.append("## Threshold\n\n" + _threshold(about["config"], p))
    if picture:
        parts.append(f"![Curves of the training]({picture})")
    parts.append("## Evaluation on test subjects\n\n" + (evaluation.strip() if evaluation else "Not measured yet."))
    limits = (*(ADAPTED_LIMITS if adapted else ()), *LIMITS[: 1 if adapted else None])
    parts.append("## Limits\n\n" + "\n".join(f"- {line}" for line in limits))
    size = ", ".join(f"{k} {v}" for k, v in about["config"].items())
    parts.append(f"## Network\n\n{size}")
    return "\n\n".join(parts) + "\n"


def _use(name: str, format: str) -> str:
    section = "matching: {name: superglue" if format.endswith("superglue") else "features: {name: superpoint"
    return f"```yaml\n{section}, weights: {name}.safetensors}}\n```\n\nThe .json beside it must stay beside it."


def _data(p: dict[str, Any]) -> str:
    if "derived_from" in p:
        d = p["derived_from"]
        return f"{p['data']}.\n\nDerived from {d['name']} (licence: {d['license']}; sha256 `{d['sha256'][:16]}...`)."
    rows = ["| source | modality | licence | citation |", "|---|---|---|---|"]
    cell = lambda text: str(text).replace("|", "\\|").replace("\n", " ")  # noqa: E731
    rows += [f"| {' | '.join(cell(s[k]) for k in ('name', 'modality', 'license', 'citation'))} |" for s in p["data"]]
    return "\n".join(rows)


def _procedure(p: dict[str, Any]) -> str:
    m = p["machine"]
    lines = [
        f"- {p['steps']} steps, {p['pairs']} pairs in {p['seconds'] / 60:.1f} min ({p['pairs_per_s']:.1f} pairs/s)",
        f"- {m['device']}, {m['threads']} threads, torch {m['torch']}, Python {m['python']}, medrecon {p['medrecon']}",
        f"- seed {p['seed']}",
        f"- command: `{p['command']}`",
    ]
    return "\n".join(lines)


def _threshold(config: dict[str, Any], p: dict[str, Any]) -> str:
    """From what probability on matches are kept, and how that was chosen (``medrecon.training.match_threshold``)."""
    if "match_thresholds" not in p or "match_threshold" not in config:
        return "None was chosen for these weights: the matcher takes that of the paper's."
    rows = ["| threshold | right | wrong | share right |", "|---|---|---|---|"]
    rows += [
        f"| {r['threshold']:g} | {r['right']:.1f} | {r['wrong']:.1f} | {r['mma_3px']:.3f} |"
        for r in p["match_thresholds"]
    ]
    return (
        f"Matches more probable than **{config['match_threshold']:g}** are kept: of these thresholds the one at which "
        "right matches (within 3 px) exceed wrong ones by most, in the mean over validation pairs. The rule was fixed "
        "beforehand, and test subjects have no say in it. The option `match_threshold` overrules it.\n\n"
        + "\n".join(rows)
    )


def _figures(figures: dict[str, float]) -> str:
    if not figures:
        return "None."
    return "\n".join(["| figure | value |", "|---|---|", *(f"| {k} | {v:.4g} |" for k, v in figures.items())])
