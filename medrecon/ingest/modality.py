# SPDX-License-Identifier: Apache-2.0
"""The `modality` section: what is done to pictures before features are looked for, and to these copies only.

The radiance field, its colours and every figure see the pictures as they are; nothing here moves a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from medrecon.config import ComponentConfig
from medrecon.errors import ConfigError
from medrecon.images import cv2, to_grey
from medrecon.ingest.bias_field import estimate_bias_field
from medrecon.progress import Progress
from medrecon.types import FrameSet

Kind = Literal["none", "auto", "ct", "mr", "endoscopy", "xray", "microscopy"]
_Grey = Annotated[float, Field(ge=-1000, le=1000)]

# kind -> what it stands for; the section's own options come first.
KINDS: dict[str, dict] = {
    "none": {"window": "full", "bias_field": False, "clahe": False},
    "ct": {"window": "auto", "bias_field": False, "clahe": False},
    "mr": {"window": "auto", "bias_field": True, "clahe": False},
    "endoscopy": {"window": "full", "bias_field": False, "clahe": True},
    "xray": {"window": "auto", "bias_field": False, "clahe": True},
    "microscopy": {"window": "auto", "bias_field": True, "clahe": False},
}
# DICOM's modality (PS3.3, C.7.3.1.1.1) -> kind.
_DICOM = {
    "CT": "ct", "MR": "mr", "ES": "endoscopy", "GM": "microscopy", "SM": "microscopy",
    **dict.fromkeys(("CR", "DX", "MG", "RF", "RG", "XA", "IO", "PX"), "xray"),
}  # fmt: skip
# Percentiles that become black and white of an automatic window.
AUTO_PERCENTILES = (0.5, 99.5)
# CLAHE wants tiles of at least this many pixels; smaller pictures are left as they are.
MIN_TILE_PX = 4
# Frames looked at to tell mucosa, how much redder than green it is there, and the grey level above which is lit.
N_LOOKED_AT, REDNESS, LIT = 8, 1.4, 24


class ModalityConfig(ComponentConfig):
    kind: Kind = Field(
        "none",
        description="what the pictures are of, which sets window, bias_field and clahe; auto: by DICOM's modality, "
        "endoscopy where the pictures are of the red of mucosa; none changes nothing",
    )
    window: Literal["auto", "full"] | tuple[_Grey, _Grey] | None = Field(
        None, description="grey levels 0..255 shown: [center, width], auto (percentiles 0.5 to 99.5), full; null: as "
        "the kind says. Hounsfield units are windowed where they are read: source.window"
    )  # fmt: skip
    bias_field: bool | None = Field(
        None, description="divide by the smooth field of MR coils or of uneven light; null: as the kind says"
    )
    gamma: float = Field(1.0, gt=0, le=10, description="exponent of the grey levels; below 1 lifts the dark")
    invert: bool = Field(False, description="white becomes black: to match pictures of opposite contrast")
    clahe: bool | None = Field(
        None, description="contrast-limited adaptive histogram equalisation of the lightness; null: as the kind says"
    )
    clahe_clip: float = Field(1.0, gt=0, le=100, description="CLAHE: limit of the contrast; lower is gentler")
    clahe_tiles: int = Field(8, ge=1, le=64, description="CLAHE: tiles across and down")

    @field_validator("window")
    @classmethod
    def _wide(cls, value):
        if isinstance(value, tuple) and value[1] < 1:
            raise ValueError("window is [center, width] with a width of at least 1")
        return value


def preprocessing(
    config: ModalityConfig, frames: FrameSet, progress: Progress
) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None:
    """What to apply to every (image, mask) of the set, with kind "auto" decided and said; None: nothing is changed."""
    if config.kind == "auto":
        kind, why = guess_kind(frames)
        progress.say(f"modality: {kind} ({why})")
        config = config.model_copy(update={"kind": kind})
    c = explicit(config)
    steps = [
        *(["bias field"] if c.bias_field else []),
        *([f"window {' / '.join(f'{v:g}' for v in c.window)}"] if isinstance(c.window, tuple) else []),
        *(["automatic window"] if c.window == "auto" else []),
        *([f"gamma {c.gamma:g}"] if c.gamma != 1 else []),
        *(["inversion"] if c.invert else []),
        *(["CLAHE"] if c.clahe else []),
    ]
    if not steps:
        return None
    progress.say(f"features are looked for in prepared copies: {', '.join(steps)}")
    return partial(prepare_for_matching, options=c)


def explicit(config: ModalityConfig) -> ModalityConfig:
    """The same options with everything written out that the kind stands for.

    Raises:
        ConfigError: the kind is "auto", which only a set of frames decides.
    """
    if config.kind == "auto":
        raise ConfigError("kind 'auto' needs a set of frames", f"name the kind: {', '.join(KINDS)}")
    unset = {k: v for k, v in KINDS[config.kind].items() if getattr(config, k) is None}
    return config.model_copy(update=unset)


def prepare_for_matching(image: np.ndarray, mask: np.ndarray | None, options: ModalityConfig) -> np.ndarray:
    """A copy of the picture in which features are easier to find and to match; in the order of the options.

    Bias field, window, gamma and inversion are computed in float and rounded once; CLAHE (Zuiderveld, Graphics Gems IV,
    1994) comes last, by OpenCV, on grey levels or the lightness of CIELAB. What the mask hides has no influence on what
    it shows, and is returned as it was.

    Args:
        image: uint8 [H, W] or [H, W, 3] RGB; not written to.
        mask: bool [H, W], True = use, or None.
        options: with any kind but "auto".

    Returns:
        uint8 of the same shape.

    Raises:
        ConfigError: the kind is "auto".
    """
    c = explicit(options)
    if not image.size or (mask is not None and not mask.any()):
        return image
    # Grey pictures are stored with three equal channels: the same steps on one of them.
    if image.ndim == 3 and (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
        done = _prepared(image[..., 0], mask, c)
        out = np.repeat(done[..., None], 3, axis=2)
    else:
        out = _prepared(image, mask, c)
    if mask is not None:
        out = np.where(mask if image.ndim == 2 else mask[..., None], out, image)
    return out


def _prepared(image: np.ndarray, mask: np.ndarray | None, c: ModalityConfig) -> np.ndarray:
    levels = _levels(image, mask, c)
    if not c.clahe or min(image.shape[:2]) < MIN_TILE_PX * c.clahe_tiles:
        return levels
    if mask is not None:
        levels = _filled(levels, mask)
    clahe = cv2.createCLAHE(c.clahe_clip, (c.clahe_tiles, c.clahe_tiles))
    if image.ndim == 2:
        return clahe.apply(np.ascontiguousarray(levels))
    lab = cv2.cvtColor(np.ascontiguousarray(levels), cv2.COLOR_RGB2LAB)
    lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _levels(image: np.ndarray, mask: np.ndarray | None, c: ModalityConfig) -> np.ndarray:
    """Bias field, window, gamma, inversion; uint8 of the image's shape."""
    if not c.bias_field and c.window == "full" and c.gamma == 1:
        return 255 - image if c.invert else image
    x = image.astype(np.float32)
    if c.bias_field:
        field = estimate_bias_field(to_grey(image), mask)
        x /= field if x.ndim == 2 else field[..., None]
    low, high = _limits(x, mask, c)
    x = np.clip((x - low) / (high - low), 0, 1) ** c.gamma
    return np.round(255 * (1 - x if c.invert else x)).astype(np.uint8)


def _limits(x: np.ndarray, mask: np.ndarray | None, c: ModalityConfig) -> tuple[float, float]:
    """Grey levels that become black and white; at least one apart."""
    if c.window == "full":
        return 0.0, 255.0
    if c.window == "auto":
        grey = x if x.ndim == 2 else x.mean(2)
        low, high = np.percentile(grey if mask is None else grey[mask], AUTO_PERCENTILES)
        return (float(low), float(high)) if high - low >= 1 else (0.0, 255.0)
    center, width = c.window
    return center - width / 2, center + width / 2


def _filled(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Hidden pixels take the value of the nearest one that may be used."""
    if mask.all():
        return image
    _, nearest = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    place = np.zeros(nearest.max() + 1, np.int64)
    place[nearest[mask]] = np.flatnonzero(mask)
    flat = image.reshape(mask.size, -1)
    return flat[place[nearest.ravel()]].reshape(image.shape)


def guess_kind(frames: FrameSet) -> tuple[str, str]:
    """The kind of the pictures, and how it was told."""
    dicom = re.match(r"DICOM (\w+)", frames.source)
    if dicom:
        kind = _DICOM.get(dicom[1], "none")
        return kind, f"DICOM says {dicom[1]}"
    if frames.truth_path is not None:
        return "none", "rendered pictures"
    at = np.unique(np.linspace(0, len(frames) - 1, N_LOOKED_AT).round().astype(int))
    red = np.median([_redness(frames.frames[i].load_image(), frames.frames[i].load_mask()) for i in at])
    if red >= REDNESS:
        return "endoscopy", f"{red:.1f} times as red as green"
    return "none", "neither DICOM nor the red of mucosa"


def _redness(image: np.ndarray, mask: np.ndarray | None) -> float:
    """Ratio of red to green over the lit pixels; 1 where there are none."""
    lit = image.max(2) > LIT
    if mask is not None:
        lit &= mask
    return float(image[..., 0][lit].mean() / max(1.0, image[..., 1][lit].mean())) if lit.any() else 1.0
