# SPDX-License-Identifier: Apache-2.0
"""Keypoints of a track moved to where the pictures agree, to a fraction of a pixel.

A learned detector finds "the same" keypoint a pixel apart in two pictures, and that pixel goes straight into the poses.
Here one observation of each track is the reference: its small patch, laid on the point's tangent plane, is warped into
every other picture of the track and shifted there until the grey values fit (least-squares matching: Gruen, "Adaptive
least squares correlation", 1985; Lucas and Kanade, 1981), up to gain, offset and slope of the light: a lamp that moves
with the camera shades every picture differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from medrecon.images import cv2, to_grey
from medrecon.types import FrameSet, Rigid3, SparseModel

RADIUS = 4  # patch of 9 x 9: larger ones meet depth edges, smaller ones noise
WORKING_SIDE_PX = 1024  # in larger pictures patches and shifts grow, as the keypoints' errors do
BLUR = 0.5  # standard deviation in steps of the patch
MAX_SHIFT = 2.5  # in steps of the patch; farther is another structure
MIN_CORRELATION = 0.7
MIN_CONTRAST = 1.0  # grey levels of 255: a flat patch says nothing
MAX_TILT_DEG = 70.0  # normals farther from the mean line of sight are not believed
NEIGHBOURS = 10
ITERATIONS = 10


@dataclass(frozen=True, slots=True)
class Alignment:
    """Result of :func:`align_tracks`, per observation of the model.

    Attributes:
        xy: float64 [T, 2], pixels: aligned where ``aligned``, else where the keypoint was.
        aligned: bool [T]; the reference of a track is aligned when another observation is.
        correlation: float64 [T], of the warped patch with the reference's (1 for the reference, NaN without a patch).
    """

    xy: np.ndarray
    aligned: np.ndarray
    correlation: np.ndarray


def align_tracks(
    model: SparseModel, frames: FrameSet, xy: np.ndarray, on_frame: Callable[[], None] = lambda: None
) -> Alignment:
    """Shifts observations of ``model`` to where their picture agrees with the reference picture of their track.

    Every picture is read twice, one at a time.

    Args:
        model: poses, intrinsics and points good to some pixels.
        xy: float [T, 2], observed positions in pixels.
        on_frame: called after each picture is read (twice the number of registered frames).
    """
    xy = np.asarray(xy, np.float64)
    tracks = _Tracks(model)
    offsets = _OFFSETS
    patches = np.full((len(model.points), len(offsets)), np.nan, np.float32)
    surface = np.full((len(model.points), len(offsets), 3), np.nan, np.float32)
    pictures = frames.by_id()
    for frame_id in model.registered_ids:
        points = tracks.points_of_reference(frame_id)
        picture = _Picture(pictures[frame_id])
        on_frame()
        points = points[picture.inside(xy[tracks.reference[points]])]
        if len(points):
            pixels = xy[tracks.reference[points], None] + offsets * picture.step
            patches[points] = picture.sample(picture.grey, pixels)
            surface[points] = tracks.on_plane(model, frame_id, points, pixels)
    template, contrast = _standardised(patches)
    template[contrast[:, 0] < MIN_CONTRAST] = np.nan
    out, correlation = xy.copy(), np.full(len(xy), np.nan)
    aligned = np.zeros(len(xy), bool)
    for frame_id in model.registered_ids:
        here = tracks.others_of(frame_id)
        picture = _Picture(pictures[frame_id])
        on_frame()
        here = here[picture.inside(xy[here]) & np.isfinite(template[tracks.point[here], 0])]
        if not len(here):
            continue
        pose, camera = model.cam_from_world[frame_id], model.cameras[frame_id]
        warped = camera.project(pose.apply(surface[tracks.point[here]]))
        warped -= warped[:, len(offsets) // 2, None]
        ahead = np.isfinite(warped).all((1, 2))
        here, warped = here[ahead], warped[ahead]
        place, fit = _shift(picture, xy[here], warped, template[tracks.point[here]])
        moved = np.linalg.norm(place - xy[here], axis=-1)
        good = (fit >= MIN_CORRELATION) & (moved <= MAX_SHIFT * picture.step)
        correlation[here] = fit
        out[here[good]], aligned[here[good]] = place[good], True
    with_partner = np.unique(tracks.point[aligned])
    aligned[tracks.reference[with_partner]] = True
    correlation[tracks.reference[with_partner]] = 1.0
    return Alignment(out, aligned, correlation)


_OFFSETS = np.stack(np.meshgrid(*[np.arange(-RADIUS, RADIUS + 1.0)] * 2), -1).reshape(-1, 2)
_WEIGHTS = np.exp(-(_OFFSETS**2).sum(-1) / (2 * (0.6 * RADIUS) ** 2))
_WEIGHTS /= _WEIGHTS.sum()


def _light() -> np.ndarray:
    """float32 [K, K]: a patch times this is its best fit by offset and slope, in weighted least squares."""
    basis = np.column_stack([np.ones(len(_OFFSETS)), _OFFSETS / RADIUS])
    weighted = basis * _WEIGHTS[:, None]
    return (weighted @ np.linalg.solve(basis.T @ weighted, basis.T)).astype(np.float32)


_LIGHT = _light()


def _standardised(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Patches [N, K] without offset and slope and with weighted deviation 1, and their deviation [N, 1]."""
    structure = patches - patches @ _LIGHT
    contrast = np.sqrt((structure**2 * _WEIGHTS).sum(-1, keepdims=True))
    return structure / np.maximum(contrast, 1e-6), contrast


def _shift(
    picture: "_Picture", start: np.ndarray, warped: np.ndarray, template: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Newton on the shift of each patch [N, K, 2]: places [N, 2] and their correlations [N]."""
    place = start.copy()
    best, best_fit = start.copy(), np.full(len(start), -1.0)
    for _ in range(ITERATIONS + 1):
        pixels = place[:, None] + warped
        grey = picture.sample(picture.grey, pixels)
        unit, contrast = _standardised(grey)
        fit = (unit * template * _WEIGHTS).sum(-1)
        better = fit > best_fit
        best[better], best_fit[better] = place[better], fit[better]
        gx, gy = (picture.sample(g, pixels) for g in picture.gradients)
        gx, gy = (g - g @ _LIGHT for g in (gx, gy))
        # The template with the gain that fits best.
        residual = contrast * (template * fit[:, None] - unit)
        a, b, c = ((p * q * _WEIGHTS).sum(-1) for p, q in ((gx, gx), (gx, gy), (gy, gy)))
        ridge = 1e-3 * (a + c) + 1e-3
        a, c = a + ridge, c + ridge
        e, f = ((g * residual * _WEIGHTS).sum(-1) for g in (gx, gy))
        step = np.stack([c * e - b * f, a * f - b * e], -1) / (a * c - b * b)[:, None]
        length = np.linalg.norm(step, axis=-1, keepdims=True)
        place = place + step * np.minimum(1, picture.step / np.maximum(length, 1e-12))
    return best, best_fit


class _Picture:
    """One picture in grey, blurred as its patches are coarse."""

    def __init__(self, frame):
        self.step = max(1.0, max(frame.width_px, frame.height_px) / WORKING_SIDE_PX)
        grey = to_grey(frame.load_image()).astype(np.float32)
        self.grey = cv2.GaussianBlur(grey, (0, 0), BLUR * self.step)
        self.gradients = [cv2.Sobel(self.grey, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1))]
        reach = int(np.ceil(RADIUS * self.step))
        mask = frame.load_mask()
        use = np.ones(grey.shape, np.uint8) if mask is None else mask.astype(np.uint8)
        kernel = np.ones((2 * reach + 1,) * 2, np.uint8)
        self._use = cv2.erode(use, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)

    def inside(self, xy: np.ndarray) -> np.ndarray:
        """bool [N]: the whole (unwarped) patch round xy [N, 2] is in the picture and not masked."""
        x, y = np.floor(xy).astype(int).T
        height, width = self._use.shape
        ok = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        ok[ok] = self._use[y[ok], x[ok]]
        return ok

    def sample(self, image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """float32 [N, K], bilinear at pixels [N, K, 2] (centre of the first pixel at 0.5, 0.5)."""
        where = (pixels - 0.5).astype(np.float32)
        out = np.empty(where.shape[:2], np.float32)
        for i in range(0, len(where), 16384):  # cv2 takes at most 32767 rows
            x, y = np.ascontiguousarray(where[i : i + 16384].transpose(2, 0, 1))
            out[i : i + 16384] = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return out


class _Tracks:
    """Observations by frame, tangent planes, and the reference of each track: the one most in the middle."""

    def __init__(self, model: SparseModel):
        lengths = np.diff(model.track_offsets)
        self.point = np.repeat(np.arange(len(model.points)), lengths)
        ids = np.array(model.registered_ids)
        frame = np.searchsorted(ids, model.track_frame_ids)
        centres = np.array([model.cam_from_world[i].center for i in ids.tolist()])
        sight = centres[frame] - model.points[self.point]
        sight /= np.maximum(np.linalg.norm(sight, axis=-1, keepdims=True), 1e-12)
        mean = np.zeros_like(model.points)
        np.add.at(mean, self.point, sight)
        mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
        middle = (sight * mean[self.point]).sum(-1)
        order = np.lexsort((-middle, self.point))
        self.reference = order[model.track_offsets[:-1]]
        self._frame_of_reference = model.track_frame_ids[self.reference]
        self._normal = _normals(model.points, mean)
        self._other_frame = model.track_frame_ids.copy()
        self._other_frame[self.reference] = -1

    def points_of_reference(self, frame_id: int) -> np.ndarray:
        return np.flatnonzero(self._frame_of_reference == frame_id)

    def others_of(self, frame_id: int) -> np.ndarray:
        return np.flatnonzero(self._other_frame == frame_id)

    def on_plane(self, model: SparseModel, frame_id: int, points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """World places [N, K, 3] where the lines of sight through pixels [N, K, 2] meet the points' planes."""
        pose: Rigid3 = model.cam_from_world[frame_id]
        rays = model.cameras[frame_id].unproject(pixels) @ pose.rotation
        centre, normal = pose.center, self._normal[points]
        depth = pose.apply(model.points[points])[:, 2]
        # The plane goes through the keypoint's own line of sight, at the depth of the point.
        anchor = rays[:, pixels.shape[1] // 2] * depth[:, None]
        slope = np.einsum("nki,ni->nk", rays, normal)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = (anchor * normal).sum(-1)[:, None] / slope
        reach = np.where(reach > 0, reach, np.nan)
        return centre + rays * reach[..., None]


def _normals(points: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Unit normals [P, 3] of planes through the nearest points, ``towards`` where those cannot be believed."""
    if len(points) <= NEIGHBOURS:
        return towards
    _, near = cKDTree(points).query(points, k=NEIGHBOURS)
    away = points[near] - points[near].mean(1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("pki,pkj->pij", away, away))
    normal = axes[:, :, 0]
    cosine = (normal * towards).sum(-1)
    normal = normal * np.sign(cosine)[:, None]
    tilted = np.abs(cosine) < np.cos(np.radians(MAX_TILT_DEG))
    return np.where(tilted[:, None], towards, normal)
