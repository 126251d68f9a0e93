# SPDX-License-Identifier: Apache-2.0
"""How sure a place of the surface is: from how many views, how squarely and how sharply it was seen."""

from __future__ import annotations

import numpy as np

from medrecon.surface.depth_views import DepthView
from medrecon.surface.visibility import Sight

SHARP_STEPS = 4.0  # a depth spread or disagreement of so many grid steps halves what a view counts
WELL_SEEN = 0.5  # cosine from which a view counts as looking at the place well: 60 degrees
HALF_VIEWS = 2.0  # so many perfect views give a confidence of one half


class Support:
    """Sums over the views that see a vertex

        q = cosine / (1 + (spread / s)^2 + (gap / s)^2),    s = 4 grid steps,

    cosine being that between the ray and the normal, spread the standard deviation of the field's depth along the ray,
    and gap how far the vertex lies from the median depth rendered there. The sum Q is the number of perfect views
    that the vertex was seen by; its confidence is Q / (Q + 2): 0.5 for two views that look at it squarely and find the
    same sharp depth, 0.8 for eight.
    """

    def __init__(self, vertices: np.ndarray, step: float):
        """Args: vertices: float64 [V, 3], field frame."""
        self._vertices, self._sharp = vertices, SHARP_STEPS * step
        self._sum = np.zeros(len(vertices))
        self.views = np.zeros(len(vertices), np.uint16)  # that look at the vertex well

    def add(self, sight: Sight, view: DepthView) -> None:
        """Adds one camera, of which ``view`` may be a reduced picture."""
        index = np.flatnonzero(sight.visible)
        self.views[index] += sight.cosine[index] >= WELL_SEEN
        p = view.cam_from_field.apply(self._vertices[index])
        xy = view.camera.project(p)
        column = np.clip(xy[:, 0].astype(int), 0, view.camera.width_px - 1)
        row = np.clip(xy[:, 1].astype(int), 0, view.camera.height_px - 1)
        length = np.linalg.norm(p, axis=1) / p[:, 2]
        depth = view.depth[row, column]
        gap = (depth - p[:, 2]) * length / self._sharp
        spread = view.spread[row, column] * length / self._sharp
        self._sum[index] += np.where(depth > 0, sight.cosine[index] / (1 + spread**2 + gap**2), 0.0)

    def confidence(self) -> np.ndarray:
        """float32 [V] in 0..1."""
        return (self._sum / (self._sum + HALF_VIEWS)).astype(np.float32)
