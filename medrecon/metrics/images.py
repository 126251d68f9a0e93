# SPDX-License-Identifier: Apache-2.0
"""Image metrics: PSNR, SSIM, MS-SSIM, MAE, NRMSE. uint8 pictures of the same size; mask True = count."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy.ndimage import correlate1d

from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError


def check_pair(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The mask to use, bool [H, W].  Raises InputError: sizes or types differ, or the mask counts nothing."""
    if image.dtype != np.uint8 or reference.dtype != np.uint8 or image.ndim != 3 or image.shape != reference.shape:
        raise InputError(
            f"image metrics compare uint8 [H, W, 3] of one size, got {image.dtype} {image.shape} "
            f"and {reference.dtype} {reference.shape}"
        )
    if mask is None:
        return np.ones(image.shape[:2], bool)
    if mask.shape != image.shape[:2] or mask.dtype != bool:
        raise InputError(f"the mask must be bool {image.shape[:2]}, got {mask.dtype} {mask.shape}")
    if not mask.any():
        raise InputError("the mask leaves no pixel to measure")
    return mask


def _difference(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Counted differences float64 [N, 3] on the scale 0..1."""
    use = check_pair(image, reference, mask)
    return (image[use].astype(np.float64) - reference[use]) / 255.0


class PsnrConfig(ComponentConfig):
    cap_db: float = Field(100.0, gt=0, description="value given to identical pictures, whose PSNR is infinite")


class Psnr:
    """Peak signal-to-noise ratio: -10 log10(MSE) dB, values in 0..1, MSE over all counted pixels and channels."""

    def __init__(self, config: PsnrConfig):
        self.config = config

    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        mse = float((_difference(image, reference, mask) ** 2).mean())
        return min(self.config.cap_db, -10.0 * np.log10(mse)) if mse > 0 else self.config.cap_db


class MaeConfig(ComponentConfig):
    pass


class Mae:
    """Mean absolute error, pixel values in 0..1."""

    def __init__(self, config: MaeConfig):
        self.config = config

    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        return float(np.abs(_difference(image, reference, mask)).mean())


class NrmseConfig(ComponentConfig):
    pass


class Nrmse:
    """Root mean square error divided by the range (max - min) of the counted reference pixels.

    Raises InputError when the reference is constant there.
    """

    def __init__(self, config: NrmseConfig):
        self.config = config

    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        rms = float(np.sqrt((_difference(image, reference, mask) ** 2).mean()))
        counted = reference if mask is None else reference[mask]
        span = (float(counted.max()) - float(counted.min())) / 255.0
        if span == 0:
            raise InputError("NRMSE is not defined: the reference is constant where it counts")
        return rms / span


# Wang et al. 2004: 11 x 11 Gaussian window of sigma 1.5, C1 = (0.01 L)^2, C2 = (0.03 L)^2.
_RADIUS = 5
_WINDOW = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()
_C1, _C2 = 0.01**2, 0.03**2


def _blur(x: np.ndarray) -> np.ndarray:
    return correlate1d(correlate1d(x, _WINDOW, axis=0, mode="reflect"), _WINDOW, axis=1, mode="reflect")


def _ssim_maps(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SSIM and contrast-structure maps float64 [H, W, C], and where they count, bool [H, W].

    Local moments are taken over counted pixels only (the window is renormalised), so that what the mask hides has no
    influence. Pixels whose window leaves the picture do not count (Wang's "valid" region).
    """
    weight = _blur(mask.astype(np.float64))[..., None]
    weight = np.where(mask[..., None], weight, 1.0)
    m = mask[..., None]
    mean = lambda a: _blur(np.where(m, a, 0.0)) / weight  # noqa: E731
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    cs = (2 * cov + _C2) / (vx + vy + _C2)
    ssim = cs * (2 * mx * my + _C1) / (mx * mx + my * my + _C1)
    valid = np.zeros_like(mask)
    valid[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS] = True
    return ssim, cs, mask & valid


def _large_enough(shape: tuple[int, ...]) -> None:
    if min(shape[:2]) <= 2 * _RADIUS:
        raise InputError(f"SSIM needs pictures of at least {2 * _RADIUS + 1} px, got {shape[1]}x{shape[0]}")


class SsimConfig(ComponentConfig):
    pass


class Ssim:
    """Structural similarity, mean over RGB channels.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004, eq. 13.
    """

    def __init__(self, config: SsimConfig):
        self.config = config

    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        use = check_pair(image, reference, mask)
        _large_enough(image.shape)
        ssim, _, count = _ssim_maps(image / 255.0, reference / 255.0, use)
        if not count.any():
            raise InputError("SSIM: no counted pixel lies 5 px or more inside the picture")
        return float(ssim[count].mean())


_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _halve(x: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the counted pixels of each 2 x 2 block; a block counts when any of its pixels does."""
    h, w = (mask.shape[0] // 2) * 2, (mask.shape[1] // 2) * 2
    m = mask[:h, :w, None].reshape(h // 2, 2, w // 2, 2, 1).astype(np.float64)
    n = m.sum((1, 3))
    blocks = x[:h, :w].reshape(h // 2, 2, w // 2, 2, -1)
    return (blocks * m).sum((1, 3)) / np.maximum(n, 1), n[..., 0] > 0


class MsSsimConfig(ComponentConfig):
    pass


class MsSsim:
    """Multi-scale structural similarity, mean over RGB channels.

    Wang et al., "Multi-scale structural similarity for image quality assessment", Asilomar 2003, eq. 7, five scales.
    A picture too small for five scales (side below 176 px) is measured on fewer, with the weights scaled to sum to
    one. Negative contrast-structure terms count as zero.
    """

    def __init__(self, config: MsSsimConfig):
        self.config = config

    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        use = check_pair(image, reference, mask)
        _large_enough(image.shape)
        weights = np.array(_SCALE_WEIGHTS[: self.scales(image.shape[0], image.shape[1])])
        weights /= weights.sum()
        x, y, out = image / 255.0, reference / 255.0, np.ones(3)
        for i, weight in enumerate(weights):
            ssim, cs, count = _ssim_maps(x, y, use)
            if not count.any():
                raise InputError("MS-SSIM: no counted pixel lies inside the picture at every scale")
            term = (ssim if i == len(weights) - 1 else cs)[count].mean(0)
            out *= np.maximum(term, 0.0) ** weight
            (x, coarse), (y, _) = _halve(x, use), _halve(y, use)
            use = coarse
        return float(out.mean())

    @staticmethod
    def scales(height_px: int, width_px: int) -> int:
        """How many of the five scales a picture of this size allows."""
        return int(np.clip(np.floor(np.log2(min(height_px, width_px) / (2 * _RADIUS + 1))) + 1, 1, 5))
