# SPDX-License-Identifier: Apache-2.0
"""Writes the report: gathers what the run has, fills the template, and puts one file in place at the end."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from medrecon.progress import Progress
from medrecon.report import pictures, sections
from medrecon.report.geometry import confidence_still, still, view_3d
from medrecon.report.parts import Parts, gather
from medrecon.report.videos import path_videos
from medrecon.runfolder import RunFolder
from medrecon.types import Scale
from medrecon.types.storage import write_bytes_atomic

_STEPS = 6


def _asset(name: str) -> str:
    return resources.files("medrecon.report").joinpath(name).read_text(encoding="utf-8")


def write(run: RunFolder, out_path: Path, progress: Progress) -> Path:
    """Write the run's report as one HTML file that works offline and loads nothing.

    Args:
        run: a run, finished or not; what it lacks is said in words.
        out_path: the HTML file; replaced in one step.
        progress: told after each section.

    Returns:
        ``out_path``.

    Raises:
        OSError: the file cannot be written.
    """
    progress.begin(_STEPS, "sections")
    parts = gather(run)
    frames, sparse = parts.frames.value, parts.sparse.value
    values = {"parts": parts, "cards": sections.cards(parts), "stamp": (sparse.scale if sparse else Scale()).stamp}
    values["scale"] = sparse.scale if sparse else None
    values["notes"], values["title"] = _notes(parts), _title(parts)
    progress.advance()

    values["thumbs"] = sections.thumbnails(frames, sparse) if frames else []
    values["sizes"] = sections.sizes(frames) if frames else ""
    values["dropped"] = sections.groups([(d.name, d.reason) for d in frames.dropped]) if frames else []
    names = {f.frame_id: f.name for f in frames.frames} if frames else {}
    lost = sorted(sparse.unregistered.items()) if sparse else []
    values["unregistered"] = sections.groups([(names.get(i, f"{i:06d}"), reason) for i, reason in lost])
    progress.advance()

    values["keypoints"] = sections.keypoint_pictures(parts)
    values["prepared"] = sections.prepared(parts.manifest.value)
    values["matches"] = sections.match_pictures(parts)
    values["matrix"] = sections.pair_matrix(parts)
    progress.advance()

    view = view_3d(sparse, frames, parts.mesh.value) if sparse else None
    values["view"] = view
    values["view_data"] = view.payload() if view else None
    values["still"] = pictures.embed(still(view), "Cameras, points and surface seen from one side") if view else None
    sure = confidence_still(view) if view else None
    words = "Confidence of the surface, 0 dark to 1 bright: how many views saw a place, how squarely and how sharply"
    values["confidence"] = pictures.embed(sure, words, words) if sure is not None else None
    progress.advance()

    values["curves"] = sections.curves(parts)
    values["heldout"] = sections.heldout_rows(parts)
    renders = parts.renders.value
    values["videos"] = path_videos(renders, sparse.scale if sparse else Scale()) if renders else []
    progress.advance()

    values["rows"] = sections.metric_rows(parts.metrics.value or [])
    values["provenance"] = sections.provenance(parts.manifest.value) if parts.manifest.value else None
    html = _render(values)
    write_bytes_atomic(Path(out_path), html.encode("utf-8"))
    progress.advance()
    progress.say(f"report written ({len(html) / 1e6:.1f} MB)")
    return Path(out_path)


def _title(parts: Parts) -> str:
    """The run's own name, else what its pictures came from."""
    name = str((parts.manifest.value or {}).get("name") or "run")
    source = parts.source.value.source if parts.source.value else "reconstruction"
    title = source if name == "run" else name
    return title[:1].upper() + title[1:]


def _notes(parts) -> list[str]:
    """What the source says about the pictures, each note once, in order."""
    found = [*(parts.source.value.notes if parts.source.value else ())]
    found += [*(parts.frames.value.notes if parts.frames.value else ())]
    return list(dict.fromkeys(found))


def _render(values: dict) -> str:
    """Everything a run or a plugin supplied goes through autoescape; only our own style and script are verbatim."""
    from medrecon.report import words

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = words.number
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    template = environment.from_string(_asset("template.html"))
    return template.render(**values, style=Markup(_asset("style.css")), script=Markup(_asset("viewer.js")))
