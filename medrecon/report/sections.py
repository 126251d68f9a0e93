# SPDX-License-Identifier: Apache-2.0
"""What each section of the report says. Every function takes typed parts and gives plain values for the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from medrecon.errors import MedreconError
from medrecon.radiance.renders import RenderedView
from medrecon.report import charts, pictures, words
from medrecon.report.parts import Parts
from medrecon.report.pictures import Picture
from medrecon.types import Camera, Frame, FrameSet, Metric, Scale, SparseModel, TwoView

MOST_THUMBS = 24
MOST_HELDOUT = 6
MOST_KEYPOINT_FRAMES = 3
MATRIX_FRAMES = 400
VAGUE_FULL_SCALE = 0.1


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    unit: str = ""
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the metric table."""

    label: str
    name: str
    value: str
    unit: str
    better: str
    n: str
    source: str
    note: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Frames left out for one reason; ``details`` are per frame where their figures differ, else empty."""

    reason: str
    names: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One held-out view: real, rendered, error, depth, opacity."""

    name: str
    psnr_db: str
    pictures: tuple[Picture, ...]


def spread(items: list, most: int) -> list:
    """At most ``most`` of the items, evenly, first and last included."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


# --- headline -----------------------------------------------------------------------------------------------


def cards(parts: Parts) -> list[Card]:
    """The figures to see first; only those that were measured."""
    out = []
    sparse, metrics = parts.sparse.value, {m.name: m for m in parts.metrics.value or []}
    if parts.frames.value is not None and sparse is not None:
        done, total = len(sparse.cam_from_world), len(parts.frames.value)
        share = done / max(total, 1)
        out.append(
            Card(
                "Frames registered", f"{done} of {total}", "", f"{share:.0%} of the frames used", _tone(share, 0.9, 0.6)
            )
        )
    elif parts.frames.value is not None:
        out.append(Card("Frames used", words.number(len(parts.frames.value))))
    if sparse is not None and len(sparse.points):
        length = words.number(sparse.mean_track_length, 3)
        out.append(Card("Sparse points", words.number(len(sparse.points)), "", f"seen in {length} frames on average"))
        out.append(
            Card("Reprojection error", words.number(sparse.mean_reprojection_px, 3), "px", "mean of observations")
        )
    for name in ("psnr_db", "ssim", "lpips", "ate_mm", "surface_mean_mm", "surface_hd95_mm"):
        metric = metrics.get(name)
        if metric is not None and metric.value is not None:
            detail = f"n = {words.number(metric.n)}" if metric.n is not None else ""
            shown = words.measured(metric.value, metric.sigma)
            out.append(Card(words.label(name), shown, words.unit(metric.unit), detail))
    seconds = total_seconds(parts.manifest.value)
    if seconds is not None:
        out.append(Card("Computing time", words.duration(seconds), "", "all stages together"))
    return out


def _tone(share: float, good: float, fair: float) -> str:
    return "good" if share >= good else "fair" if share >= fair else "bad"


def total_seconds(manifest: dict | None) -> float | None:
    stages = (manifest or {}).get("stages")
    if not isinstance(stages, list):
        return None
    times = [s.get("seconds") for s in stages if isinstance(s, dict)]
    times = [float(t) for t in times if isinstance(t, (int, float))]
    return sum(times) if times else None


# --- what went in -------------------------------------------------------------------------------------------


def thumbnails(frames: FrameSet, sparse: SparseModel | None) -> list[tuple[Picture, str]]:
    """Evenly chosen frames with their names; the second value is "registered", "unregistered" or ""."""
    out = []
    for frame in spread(list(frames.frames), MOST_THUMBS):
        image = _image(frame)
        if image is None:
            continue
        state = "" if sparse is None else "registered" if frame.frame_id in sparse.cam_from_world else "unregistered"
        caption = frame.name if frame.time_s is None else f"{frame.name} · {frame.time_s:.2f} s"
        out.append((pictures.embed(pictures.fit(image, 168), f"frame {frame.name}", caption, 70), state))
    return out


def groups(pairs: list[tuple[str, str]]) -> list[Group]:
    """(name, reason) -> one group per kind ("still: moved 0.2%" is of one kind with "still: moved 0.3%")."""
    by: dict[str, list[tuple[str, str]]] = {}
    for name, reason in pairs:
        by.setdefault(reason.partition(": ")[0], []).append((name, reason))
    out = []
    for kind, rows in by.items():
        names, reasons = (tuple(column) for column in zip(*rows))
        details = () if len(set(reasons)) == 1 else tuple(r.partition(": ")[2] for r in reasons)
        out.append(Group(kind if details else reasons[0], names, details))
    return sorted(out, key=lambda g: -len(g.names))


def sizes(frames: FrameSet) -> str:
    found = Counter((f.width_px, f.height_px) for f in frames.frames).most_common()
    text = ", ".join(f"{w} × {h}" for (w, h), _ in found[:3])
    return f"{text} px" + (" and others" if len(found) > 3 else "")


def _image(frame: Frame) -> np.ndarray | None:
    try:
        return frame.load_image()
    except MedreconError:
        return None


# --- features and matches -----------------------------------------------------------------------------------


def keypoint_pictures(parts: Parts) -> list[Picture]:
    frames, features = parts.frames.value, parts.features.value
    if frames is None or features is None:
        return []
    out = []
    having = [f for f in frames.frames if f.frame_id in features]
    for frame in spread(having, MOST_KEYPOINT_FRAMES):
        image, found = _image(frame), _features(features, frame.frame_id)
        if image is None or found is None:
            continue
        caption = f"Frame {frame.name}: {words.number(len(found))} {found.extractor} keypoints"
        out.append(pictures.embed(pictures.draw_keypoints(image, found), caption, caption))
    return out


def prepared(manifest: dict | None) -> str:
    """What was done to the pictures that the extractor saw; "" where they were as they are."""
    from medrecon.ingest.modality import ModalityConfig

    config = (manifest or {}).get("config")
    given = config.get("modality") if isinstance(config, dict) else None
    usual = ModalityConfig().model_dump()
    changed = {k: v for k, v in given.items() if k in usual and v != usual[k]} if isinstance(given, dict) else {}
    if not changed:
        return ""
    options = ", ".join(f"{k} {v}" for k, v in changed.items())
    return f"Keypoints were looked for in copies prepared for matching (modality: {options})."


def _features(folder, frame_id: int):
    try:
        return folder[frame_id]
    except (MedreconError, KeyError):
        return None


def match_pictures(parts: Parts) -> list[Picture]:
    """The verified pair with most inliers and the one with fewest."""
    frames, features, graph = parts.frames.value, parts.features.value, parts.graph.value
    if frames is None or features is None or graph is None:
        return []
    by_id = frames.by_id()
    pairs = sorted(
        (p for p in graph.verified() if p.frame_id_a in by_id and p.frame_id_b in by_id),
        key=lambda p: (-p.n_inliers, p.frame_id_a, p.frame_id_b),
    )
    chosen = [("Strongest pair", pairs[0])] if pairs else []
    chosen += [("Weakest verified pair", pairs[-1])] if len(pairs) > 1 else []
    out = []
    for words_, pair in chosen:
        picture = _pair_picture(words_, pair, by_id, features)
        if picture is not None:
            out.append(picture)
    return out


def _pair_picture(title: str, pair: TwoView, by_id: dict[int, Frame], features) -> Picture | None:
    a, b = by_id[pair.frame_id_a], by_id[pair.frame_id_b]
    images, found = (_image(a), _image(b)), (_features(features, a.frame_id), _features(features, b.frame_id))
    if any(x is None for x in (*images, *found)):
        return None
    caption = (
        f"{title}, {a.name} and {b.name}: {words.number(pair.n_inliers)} of {words.number(len(pair.putative))} "
        f"matches verified ({pair.kind})"
    )
    return pictures.embed(pictures.draw_matches(*images, *found, pair), caption, caption)


def pair_matrix(parts: Parts) -> Picture | None:
    """Who sees whom: verified matches between every two frames, on a square-root scale."""
    frames, graph = parts.frames.value, parts.graph.value
    if frames is None or graph is None or not graph.pairs or len(frames) > MATRIX_FRAMES or len(frames) < 2:
        return None
    place = {f.frame_id: i for i, f in enumerate(frames.frames)}
    table = np.zeros((len(place), len(place)))
    for p in graph.verified():
        if p.frame_id_a in place and p.frame_id_b in place:
            i, j = place[p.frame_id_a], place[p.frame_id_b]
            table[i, j] = table[j, i] = p.n_inliers
    most = int(table.max())
    if not most:
        return None
    image = pictures.heat(np.sqrt(table / most))
    k = max(1, round(360 / len(table)))
    image = image.repeat(k, 0).repeat(k, 1)
    text = f"Verified matches between every two frames, in order; brightest {words.number(most)}, dark none"
    return pictures.embed(image, text, text, 90)


# --- training and views -------------------------------------------------------------------------------------


def curves(parts: Parts) -> list[Markup]:
    history = parts.history.value or ()
    loss = charts.Series("loss", tuple((h.step, h.loss) for h in history))
    train = tuple((h.step, h.psnr_db) for h in history if h.psnr_db is not None)
    held = tuple((h.step, h.heldout_psnr_db) for h in history if h.heldout_psnr_db is not None)
    coded = parts.renders.value is not None and parts.renders.value.appearance != "none"
    name = "held-out PSNR, mean appearance code" if coded else "held-out PSNR"
    quality = [charts.Series("training PSNR", train, "a"), charts.Series(name, held, "b", dots=True)]
    out = [
        charts.line_chart("Loss", "step", "loss", [loss], log_y=True),
        charts.line_chart("Image quality", "step", "PSNR (dB)", quality),
    ]
    return [c for c in out if c]


def heldout_rows(parts: Parts) -> list[HeldOutRow]:
    """Real picture, rendering, error, depth and opacity of evenly chosen views."""
    renders, frames = parts.renders.value, parts.frames.value
    if renders is None or frames is None:
        return []
    by_id, sparse = frames.by_id(), parts.sparse.value
    rows = []
    for view in spread([v for v in renders.views if v.frame_id in by_id], MOST_HELDOUT):
        row = _heldout_row(view, by_id[view.frame_id], sparse.scale if sparse is not None else Scale())
        if row is not None:
            rows.append(row)
    return rows


def _heldout_row(view: RenderedView, frame: Frame, scale: Scale) -> HeldOutRow | None:
    import medrecon
    from medrecon.radiance.pictures import training_picture

    try:
        rendered = view.load_rgb()
        height, width = rendered.shape[:2]
        real, mask = training_picture(frame, Camera("SIMPLE_PINHOLE", width, height, (1.0, width / 2, height / 2)))
        counted = np.s_[:, view.measured_from_px :]
        hidden = None if mask is None else mask[counted]
        psnr = medrecon.create("metric", "psnr").measure(rendered[counted], real[counted], hidden)
    except MedreconError:
        return None
    panels = [(real, "Real"), (rendered, "Rendered")]
    panels.append(
        (pictures.error_map(rendered, real, mask), f"Error, bright = {pictures.ERROR_FULL_SCALE:.0%} and more")
    )
    depth = _loaded(view.load_depth_sfm)
    if depth is not None:
        factor = scale.metric_from_sfm.scale if scale.is_metric else 1.0
        colored, low, high = pictures.depth_map(depth * factor)
        unit = "mm" if scale.is_metric else "units"
        panels.append((colored, f"Depth, {words.number(low, 3)} (bright) to {words.number(high, 3)} {unit}"))
    opacity = _loaded(view.load_opacity)
    if opacity is not None:
        panels.append((np.round(opacity * 255).astype(np.uint8), "Opacity, white = opaque"))
    panels += _map_panels(view)
    name = f"view {frame.name}"
    embedded = tuple(pictures.embed(pictures.fit(p, 420), f"{name}: {c}", c) for p, c in panels)
    return HeldOutRow(frame.name, f"{psnr:.1f}" if np.isfinite(psnr) else "–", embedded)


def _map_panels(view: RenderedView) -> list[tuple[np.ndarray, str]]:
    """Normals, and the depth's uncertainty as a share of it; nothing where the run has no maps."""
    try:
        maps = view.load_maps()
    except MedreconError:
        return []
    hit = maps.median_sfm > 0
    share = np.where(hit, maps.spread_sfm / np.where(hit, maps.median_sfm, 1), 0)
    grey = np.round(np.clip(share / VAGUE_FULL_SCALE, 0, 1) * 255).astype(np.uint8)
    return [
        (maps.normal_picture(), "Normals: red to the right, green up, blue to the camera"),
        (grey, f"Depth uncertainty, white = {VAGUE_FULL_SCALE:.0%} of the depth and more"),
    ]


def _loaded(load: Callable[[], np.ndarray]) -> np.ndarray | None:
    """The array, or None where its file is gone or is something else."""
    try:
        array = load()
    except (MedreconError, KeyError):
        return None
    return array if array.ndim == 2 and array.size else None


# --- numbers ------------------------------------------------------------------------------------------------


def metric_rows(metrics: list[Metric]) -> list[Row]:
    arrow = {"higher": "higher is better", "lower": "lower is better", "": ""}
    return [
        Row(
            words.label(m.name),
            m.name,
            words.measured(m.value, m.sigma),
            words.unit(m.unit) if m.value is not None else "",
            arrow[m.better],
            "" if m.n is None else words.number(m.n),
            m.source,
            m.note,
            m.value is not None,
        )
        for m in metrics
    ]


# --- provenance ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StageTime:
    name: str
    seconds: str
    share: float
    cached: bool
    key: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """The manifest in print: facts, stage times, versions, licences, configuration."""

    facts: tuple[tuple[str, str], ...]
    stages: tuple[StageTime, ...]
    versions: tuple[tuple[str, str], ...]
    licences: tuple[str, ...]
    weights: tuple[str, ...]
    config: str


def provenance(manifest: dict) -> Provenance:
    """Tolerates a manifest with parts missing."""
    import yaml

    get = lambda key, kind: manifest.get(key) if isinstance(manifest.get(key), kind) else kind()  # noqa: E731
    facts = [
        ("medrecon", str(manifest.get("medrecon_version", "not recorded"))),
        ("Written", words.moment(str(manifest.get("created", "not recorded")))),
        ("Seed", str(manifest.get("seed", "not recorded"))),
        ("Device", str(manifest.get("device", "not recorded"))),
    ]
    backend, machine = get("ops_backend", dict), get("machine", dict)
    if backend:
        facts.append(
            ("Kernels", words.pathless(f"{backend.get('name', '')} ({backend.get('reason', 'no reason recorded')})"))
        )
    if machine:
        parts = [str(machine.get("cpu") or ""), f"{machine['cores']} cores" if machine.get("cores") else ""]
        parts += [f"{machine['ram_gb']} GB" if machine.get("ram_gb") else "", str(machine.get("gpu") or "no GPU")]
        facts.append(("Machine", ", ".join(p for p in parts if p)))
        facts.append(("Platform", str(machine.get("platform", ""))))
    if get("front_end", dict):
        facts.append(("Features and matches", _front_end(manifest["front_end"])))
    if manifest.get("input_hash"):
        facts.append(("Input hash", str(manifest["input_hash"])))
    stages = [s for s in get("stages", list) if isinstance(s, dict)]
    number = lambda s: float(s["seconds"]) if isinstance(s.get("seconds"), (int, float)) else 0.0  # noqa: E731
    longest = max([number(s) for s in stages], default=0.0) or 1.0
    config = words.without_paths(get("config", dict))
    return Provenance(
        tuple(facts),
        tuple(
            StageTime(
                str(s.get("name", "")),
                words.duration(number(s)),
                number(s) / longest,
                bool(s.get("cached")),
                str(s.get("key", ""))[:12],
            )
            for s in stages
        ),
        tuple(sorted((str(k), str(v)) for k, v in get("versions", dict).items())),
        _by_licence([str(x) for x in get("licences", list)]),
        tuple(_weight(w) for w in get("weights", list) if isinstance(w, dict)),
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100) if config else "",
    )


def _front_end(choice: dict) -> str:
    """ "sift + nearest-neighbour, chosen; not superpoint + superglue: superpoint not fetched"."""
    passed_over = [p for p in choice.get("passed_over") or [] if isinstance(p, dict)]
    reasons = [f"not {p.get('name', '')}: {p.get('reason', '')}" for p in passed_over]
    return "; ".join([f"{choice.get('chosen', '')}, chosen for this machine", *reasons])


def _weight(facts: dict) -> str:
    """ "superpoint: LICENCE; terms of magicleap accepted on 2026-11-22"."""
    line = f"{facts.get('name', 'unnamed')}: {facts.get('license', 'licence not recorded')}"
    if facts.get("experimental") is True:
        line += "; experimental weights"
    acceptance = facts.get("acceptance")
    if not isinstance(acceptance, dict):
        return line
    how = (
        "in the run file" if acceptance.get("how") == "run file" else f"on {acceptance.get('date') or 'an unknown day'}"
    )
    return f"{line}; terms of {acceptance.get('license', '')} accepted {how} ({acceptance.get('url', '')})"


def _by_licence(entries: list[str]) -> tuple[str, ...]:
    """ "kind name: LICENCE" lines -> one line per licence, those used least often first: they need attention."""
    by: dict[str, list[str]] = {}
    for entry in entries:
        what, colon, licence = entry.rpartition(": ")
        by.setdefault(licence, []).extend([what] if colon else [])
    order = sorted(by.items(), key=lambda item: (len(item[1]), item[0]))
    return tuple(f"{licence}: {', '.join(what)}" if what else licence for licence, what in order)
