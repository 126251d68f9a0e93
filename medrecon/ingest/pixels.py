# SPDX-License-Identifier: Apache-2.0
"""From stored DICOM values to 8-bit pictures: modality transform, window, polarity, colour (PS3.3 C.7.6.3, C.11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi

from medrecon.errors import InputError
from medrecon.ingest.dicom_io import frame_group, quiet
from medrecon.ingest.pictures import to_uint8

VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


@dataclass(frozen=True, slots=True)
class Window:
    """A grey window in modality units (CT: HU).

    Attributes:
        center, width: as DICOM's Window Center and Window Width.
        function: how values map to grey, PS3.3 C.11.2.1.2 and C.11.2.1.3.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def __str__(self) -> str:
        return f"center {self.center:g}, width {self.width:g}, {self.function}"


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """float64 grey in 0..1 by PS3.3 C.11.2.1.2.1 (LINEAR), C.11.2.1.3.2 (LINEAR_EXACT), C.11.2.1.3.1 (SIGMOID)."""
    x, c, w = np.asarray(values, np.float64), window.center, window.width
    if window.function == "SIGMOID" and w > 0:
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - c) / w, -700, 700)))
    if window.function == "LINEAR_EXACT" and w > 0:
        return np.clip((x - c) / w + 0.5, 0, 1)
    if window.function == "LINEAR" and w >= 1:
        if w == 1:  # a step at the centre
            return (x > c - 0.5).astype(np.float64)
        return np.clip((x - (c - 0.5)) / (w - 1) + 0.5, 0, 1)
    raise InputError(f"the window ({window}) cannot be applied", "set `window: [center, width]` with a positive width")


def is_grey(ds: Dataset) -> bool:
    return str(ds.get("PhotometricInterpretation", "MONOCHROME2")).startswith("MONOCHROME")


def modality_values(ds: Dataset, stored: np.ndarray, index: int) -> np.ndarray:
    """Stored values of frame ``index`` -> modality units: look-up table, or slope and intercept, or unchanged."""
    with quiet():
        try:
            if ds.get("ModalityLUTSequence"):
                return apply_modality_lut(stored, ds)
            group = frame_group(ds, index, "PixelValueTransformationSequence")
            source = group if "RescaleSlope" in group else ds
            if source.get("RescaleSlope") in (None, "") or source.get("RescaleIntercept") in (None, ""):
                return stored
            return stored * float(source.RescaleSlope) + float(source.RescaleIntercept)
        except Exception:
            raise InputError("the rescale or modality look-up table is damaged", "export the images again") from None


def header_windows(ds: Dataset, index: int) -> list[Window]:
    """The windows the header offers for frame ``index``; those that are not numbers are left out."""
    group = frame_group(ds, index, "FrameVOILUTSequence")
    source = group if "WindowCenter" in group else ds
    centers, widths = _numbers(source.get("WindowCenter")), _numbers(source.get("WindowWidth"))
    function = str(source.get("VOILUTFunction") or "LINEAR").upper()
    function = function if function in VOI_FUNCTIONS else "LINEAR"
    return [Window(c, w, function) for c, w in zip(centers, widths)]


def _numbers(value) -> list[float]:
    if value in (None, ""):
        return []
    try:
        out = [float(v) for v in (value if hasattr(value, "__iter__") and not isinstance(value, str) else [value])]
    except (TypeError, ValueError):
        return []
    return out if np.isfinite(out).all() else []


def has_voi_lut(ds: Dataset) -> bool:
    return bool(ds.get("VOILUTSequence"))


def full_range(ds: Dataset) -> tuple[float, float] | None:
    """The range to show when there is no window and values have at most 8 bits as they are stored; else None."""
    bits = int(ds.get("BitsStored") or 16)
    plain = not ds.get("ModalityLUTSequence") and ds.get("RescaleSlope") in (None, "", 1)
    if bits > 8 or not plain or ds.get("RescaleIntercept") not in (None, "", 0):
        return None
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if ds.get("PixelRepresentation") else (0.0, 2.0**bits - 1)


def without_padding(ds: Dataset, stored: np.ndarray) -> np.ndarray:
    """bool [H, W]: True where the value is not Pixel Padding Value (or in its range)."""
    with quiet():
        try:
            low = ds.get("PixelPaddingValue")
            if low is None:
                return np.ones(stored.shape, bool)
            high = ds.get("PixelPaddingRangeLimit", low)
            low, high = sorted(int(np.array(v).astype(np.int64)) for v in (low, high))
        except Exception:
            return np.ones(stored.shape, bool)
    if ds.get("PixelRepresentation") and high > 32767:  # written unsigned beside signed pixels
        low, high = low - 65536 if low > 32767 else low, high - 65536
        low, high = sorted((low, high))
    return (stored < low) | (stored > high)


def grey_picture(
    ds: Dataset, stored: np.ndarray, index: int, window: Window | None, lut_index: int, limits: tuple[float, float]
) -> np.ndarray:
    """uint8 [H, W] of one grey frame.

    Args:
        stored: [H, W] as decoded.
        window: None uses VOI LUT ``lut_index`` of the header, or ``limits`` where it has none.
        limits: modality values shown as black and white without window or LUT.

    Raises:
        InputError: a look-up table or window that cannot be applied.
    """
    values = modality_values(ds, stored, index)
    if window is not None:
        out = to_uint8(apply_window(values, window), 0, 1)
    elif has_voi_lut(ds):
        with quiet():
            try:
                bits = int(ds.VOILUTSequence[lut_index].LUTDescriptor[2])
                grey = apply_voi(np.rint(values).astype(np.int64), ds, index=lut_index)
            except Exception:
                raise InputError(
                    "the VOI look-up table is damaged or not there", "set `window: [center, width]` to do without it"
                ) from None
        out = to_uint8(grey, 0, 2.0**bits - 1)
    else:
        out = to_uint8(values, *limits)
    return 255 - out if ds.get("PhotometricInterpretation") == "MONOCHROME1" else out


def colour_picture(ds: Dataset, decoded: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] RGB of one colour frame; ``decoded`` is RGB already, or the indices of a palette.

    Raises:
        InputError: the palette is missing or damaged.
    """
    bits = int(ds.get("BitsStored") or 8)
    if decoded.ndim == 2:
        with quiet():
            try:
                decoded = apply_color_lut(decoded, ds)[..., :3]
                bits = 8 * decoded.dtype.itemsize
            except Exception:
                raise InputError("the colour palette is missing or damaged", "export the images as RGB") from None
    return decoded if decoded.dtype == np.uint8 and bits == 8 else to_uint8(decoded, 0, 2.0**bits - 1)
