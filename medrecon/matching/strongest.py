# SPDX-License-Identifier: Apache-2.0
"""The cut that bounds the memory and time of matchers whose cost grows with the square of the keypoints."""

from __future__ import annotations

import numpy as np

from medrecon.types import Features


def strongest(features: Features, n: int) -> np.ndarray:
    """int64 [<= n] indices of the keypoints of the highest score, in their own order; of equal scores the earlier."""
    return np.sort(np.argsort(-features.scores, kind="stable")[:n])
