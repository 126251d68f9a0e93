# SPDX-License-Identifier: Apache-2.0
"""When each frame of a multi-frame DICOM file was taken, in seconds since its first frame."""

from __future__ import annotations

import datetime

import numpy as np
from pydicom.dataset import Dataset

from medrecon.ingest.dicom_io import quiet


def frame_times(ds: Dataset, n_frames: int) -> list[float | None]:
    """Frame Time Vector, Frame Time, per-frame acquisition date-times or a cine rate; Nones when there is none."""
    if n_frames < 2:
        return [None] * n_frames
    with quiet():
        for rule in (_vector, _constant, _functional_groups, _rate):
            try:
                times = rule(ds, n_frames)
            except Exception:  # a damaged element counts as absent
                times = None
            if times is not None and np.isfinite(times).all() and (np.diff(times) > 0).all():
                return [float(t) for t in times]
    return [None] * n_frames


def _vector(ds: Dataset, n: int) -> np.ndarray | None:
    """Frame Time Vector (0018,1065): increments in ms, the first one 0."""
    increments = np.array([float(v) for v in ds.get("FrameTimeVector") or []])
    return None if len(increments) != n else (np.cumsum(increments) - increments[0]) / 1000.0


def _constant(ds: Dataset, n: int) -> np.ndarray | None:
    """Frame Time (0018,1063) in ms."""
    step = float(ds.get("FrameTime") or 0)
    return np.arange(n) * step / 1000.0 if step > 0 else None


def _functional_groups(ds: Dataset, n: int) -> np.ndarray | None:
    groups = ds.get("PerFrameFunctionalGroupsSequence") or []
    if len(groups) != n:
        return None
    stamps = [str(g.FrameContentSequence[0].FrameAcquisitionDateTime).split("+")[0].split("-")[0] for g in groups]
    parsed = [datetime.datetime.strptime(s[:14], "%Y%m%d%H%M%S") for s in stamps]
    fractions = np.array([float("0" + s[14:]) if s[14:] else 0.0 for s in stamps])
    return np.array([(p - parsed[0]).total_seconds() for p in parsed]) + fractions - fractions[0]


def _rate(ds: Dataset, n: int) -> np.ndarray | None:
    """Cine Rate (0018,0040) or Recommended Display Frame Rate (0008,2144), frames a second."""
    rate = float(ds.get("CineRate") or ds.get("RecommendedDisplayFrameRate") or 0)
    return np.arange(n) / rate if rate > 0 else None
