# SPDX-License-Identifier: Apache-2.0
"""Numbers, units and names as a reader wants to see them."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone

_LABELS = {
    "ate_mm": "Camera position error",
    "ate_mean_mm": "Camera position error, mean",
    "ate_max_mm": "Camera position error, largest",
    "rotation_max_deg": "Camera rotation error, largest",
    "depth_mae_mm": "Depth error, mean absolute",
    "depth_median_mm": "Depth error, median",
    "completeness_mean_mm": "Surface missed, mean",
    "completeness_rms_mm": "Surface missed, RMS",
    "completeness_hd95_mm": "Surface missed, 95% Hausdorff",
    "chamfer_mm": "Chamfer distance",
    "true_surface_found_percent": "True surface found",
    "well_seen_percent": "Surface seen well",
    "floaters_percent": "Floaters before the lens",
    "bbox_x_mm": "Extent along x",
    "bbox_y_mm": "Extent along y",
    "bbox_z_mm": "Extent along z",
    "bbox_x_units": "Extent along x",
    "bbox_y_units": "Extent along y",
    "bbox_z_units": "Extent along z",
    "psnr_db": "Held-out PSNR",
    "ssim": "Held-out SSIM",
    "ms_ssim": "Held-out MS-SSIM",
    "lpips": "Held-out LPIPS",
    "mae": "Mean absolute error",
    "nrmse": "Normalised RMS error",
    "rotation_deg": "Camera rotation error",
    "surface_mean_mm": "Surface error, mean",
    "surface_rms_mm": "Surface error, RMS",
    "surface_hd95_mm": "Surface error, 95% Hausdorff",
    "reprojection_px": "Reprojection error",
    "mean_track_length": "Mean track length",
}
_SUFFIX = re.compile(r"_(mm|mm2|mm3|units|units2|units3|px|db|deg|percent|s|ml)\Z")
_UNITS = {"mm^2": "mm²", "mm^3": "mm³", "units^2": "units²", "units^3": "units³", "deg": "°"}


def label(name: str) -> str:
    """ "surface_hd95_mm" -> "Surface error, 95% Hausdorff"."""
    words = _LABELS.get(name) or _SUFFIX.sub("", name).replace("_", " ").replace("-", " ").strip() or name
    return words[:1].upper() + words[1:]


def unit(text: str) -> str:
    return _UNITS.get(text, text)


def number(value: float | int | None, digits: int = 4) -> str:
    """Significant digits, thin spaces between thousands, no trailing noise: 10753 -> "10 753", 0.81234 -> "0.8123"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return _group(f"{int(value)}")
    if abs(value) < 1e-4 or abs(value) >= 1e9:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return _group(text.rstrip("0").rstrip(".") if "." in text else text)


def measured(value: float | None, sigma: float | None = None) -> str:
    """Value and one sigma rounded alike: two significant digits of sigma decide. (1.2345, 0.067) -> "1.234 ± 0.067"."""
    if value is None or not math.isfinite(value):
        return "not measured"
    if sigma is None or not math.isfinite(sigma) or sigma <= 0 or not 1e-4 < sigma < 1e9:
        return number(float(value))
    decimals = max(0, 1 - math.floor(math.log10(sigma)))
    return f"{_group(f'{value:.{decimals}f}')} ± {_group(f'{sigma:.{decimals}f}')}"


def _group(text: str) -> str:
    sign, text = ("−", text[1:]) if text.startswith("-") else ("", text)
    whole, dot, rest = text.partition(".")
    groups = []
    while len(whole) > 4 or (groups and len(whole) > 3):
        groups.insert(0, whole[-3:])
        whole = whole[:-3]
    return sign + "\u202f".join([whole, *groups]) + dot + rest


def duration(seconds: float | None) -> str:
    """Seconds as "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def moment(text: str) -> str:
    """ "2026-01-02T03:04:05+00:00" -> "2026-01-02 03:04 UTC"; other words stay as they are."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return text if when.tzinfo is None else when.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


_PATH_KEY = re.compile(r"(path|file|folder|dir|input|output|out|url|root)s?\Z", re.I)


def without_paths(value: object, key: str = "") -> object:
    """Configuration for print: folder and file names are withheld, for they often carry a patient's name."""
    if isinstance(value, dict):
        return {str(k): without_paths(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(v, key) for v in value]
    if isinstance(value, str) and value and (_PATH_KEY.search(key) or "/" in value or "\\" in value):
        return "(withheld)"
    return value


_PATH = re.compile(r"(?<![\w.])(?:[A-Za-z]:\\|~?/)[^\s(),;]+")


def pathless(text: str) -> str:
    """A sentence with absolute paths withheld: "kept in /home/doe/x" -> "kept in (withheld)"."""
    return _PATH.sub("(withheld)", text)
