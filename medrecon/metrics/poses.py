# SPDX-License-Identifier: Apache-2.0
"""Camera pose errors against known poses: absolute trajectory error, rotation error, relative pose error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medrecon.errors import InputError
from medrecon.sfm.alignment import align_trajectories
from medrecon.types import Rigid3, Sim3


def rotation_angle_deg(rotation: np.ndarray) -> float:
    """Angle of rotation float [3, 3], in [0, 180]; accurate for tiny angles too, unlike the arc cosine alone."""
    r = np.asarray(rotation, np.float64)
    sine = 0.5 * np.linalg.norm([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    return float(np.degrees(np.arctan2(sine, 0.5 * (np.trace(r) - 1.0))))


@dataclass(frozen=True, slots=True)
class PoseErrors:
    """Errors of a trajectory after similarity alignment; lengths in the unit of the reference (mm for truth poses).

    Attributes:
        reference_from_estimate: the alignment that was used.
        frame_ids: the cameras compared.
        center: float64 [N] distance between camera centres.
        rotation_deg: float64 [N] angle between orientations.
    """

    reference_from_estimate: Sim3
    frame_ids: tuple[int, ...]
    center: np.ndarray
    rotation_deg: np.ndarray

    @property
    def ate(self) -> float:
        """Root mean square of the centre distances (Sturm et al., "A benchmark for RGB-D SLAM", IROS 2012)."""
        return float(np.sqrt((self.center**2).mean()))


def pose_errors(
    estimate: Mapping[int, Rigid3], reference: Mapping[int, Rigid3], reference_from_estimate: Sim3 | None = None
) -> PoseErrors:
    """Absolute errors of ``cam_from_world`` poses, over the cameras both hold.

    Args:
        estimate, reference: poses by frame_id.
        reference_from_estimate: alignment to use; None finds the best similarity (what monocular poses need).

    Raises:
        InputError: fewer than two common cameras, or none when the alignment is given.
    """
    ids = sorted(set(estimate) & set(reference))
    if not ids:
        raise InputError("the trajectories have no camera in common")
    align = reference_from_estimate or align_trajectories(estimate, reference)
    moved = [align.transform_pose(estimate[i]) for i in ids]
    center = np.array([np.linalg.norm(m.center - reference[i].center) for m, i in zip(moved, ids)])
    angle = np.array([rotation_angle_deg(m.rotation @ reference[i].rotation.T) for m, i in zip(moved, ids)])
    return PoseErrors(align, tuple(ids), center, angle)


@dataclass(frozen=True, slots=True)
class RelativePoseErrors:
    """Errors of the motion between cameras.

    Attributes:
        pairs: the pairs (i, j) compared.
        translation: float64 [N] length of the error of the relative translation, unit of the reference.
        rotation_deg: float64 [N] angle of the error of the relative rotation.
    """

    pairs: tuple[tuple[int, int], ...]
    translation: np.ndarray
    rotation_deg: np.ndarray

    @property
    def rpe(self) -> float:
        """Root mean square of the translation errors."""
        return float(np.sqrt((self.translation**2).mean()))


def relative_pose_errors(
    estimate: Mapping[int, Rigid3],
    reference: Mapping[int, Rigid3],
    pairs: Sequence[tuple[int, int]] | None = None,
    reference_from_estimate: Sim3 | None = None,
) -> RelativePoseErrors:
    """Relative pose error: drift, independent of where the trajectories are anchored.

    Args:
        estimate, reference: ``cam_from_world`` by frame_id.
        pairs: pairs of frame ids; None takes each common frame and the next one.
        reference_from_estimate: only its scale matters; None finds the best similarity.

    Raises:
        InputError: fewer than two common cameras, or a pair that is not in both.
    """
    common = sorted(set(estimate) & set(reference))
    pairs = tuple(zip(common, common[1:])) if pairs is None else tuple(pairs)
    if not pairs or not {i for p in pairs for i in p} <= set(common):
        raise InputError("relative pose errors need pairs of cameras that both trajectories hold")
    scale = (reference_from_estimate or align_trajectories(estimate, reference)).scale
    translation, rotation = [], []
    for i, j in pairs:
        e = estimate[j] @ estimate[i].inverse()
        e = Rigid3(e.rotation, scale * e.translation)
        error = (reference[j] @ reference[i].inverse()).inverse() @ e
        translation.append(np.linalg.norm(error.translation))
        rotation.append(rotation_angle_deg(error.rotation))
    return RelativePoseErrors(pairs, np.array(translation), np.array(rotation))
