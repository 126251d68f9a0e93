# SPDX-License-Identifier: Apache-2.0
"""Volumes of one head in one frame: where a scan lies in it, and which box of it becomes shards.

The transforms are measured once and written down here, so that the same files give the same shards. They were found by
the greatest mutual information (Viola and Wells, Alignment by Maximization of Mutual Information, IJCV 1997; Maes et
al., Multimodality Image Registration by Maximization of Mutual Information, IEEE TMI 1997); docs/training.md says how
well they hold, tests/training/test_shard_frames.py measures it again where the scans are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True, slots=True)
class Placement:
    """How a scan lies in a frame, and the box that is cut out of the frame.

    A point p of the frame (mm: right, anterior, superior) lies at R (p - centre) + centre + shift in the scan's own
    coordinates.

    Attributes:
        frame: its name; see ``ShardMeta``.
        low_mm, high_mm: corners of the box.
        turn_deg: rotation vector of R.
        shift_mm, centre_mm: see above.
    """

    frame: str
    low_mm: tuple[float, float, float]
    high_mm: tuple[float, float, float]
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def scan_from_frame_mm(self) -> np.ndarray:
        """float64 [4, 4]."""
        out, centre = np.eye(4), np.array(self.centre_mm)
        out[:3, :3] = Rotation.from_rotvec(self.turn_deg, degrees=True).as_matrix()
        out[:3, 3] = centre + np.array(self.shift_mm) - out[:3, :3] @ centre
        return out


# The frame is the MR's; the box is what both scans hold of the head: the CT ends 19 mm below the MR's top, a little
# tilted, and begins below the MR.
_VAULT_BOX = ((-266.0, -269.0, 0.0), (-86.0, -29.0, 75.0))
VAULT_MR = Placement("vault", *_VAULT_BOX)
# Mean of five estimates (other samples, 24 to 64 bins); they differ by 0.1 degrees and 0.1 mm.
VAULT_CT = Placement(
    "vault",
    *_VAULT_BOX,
    turn_deg=(1.94, -0.25, 4.69),
    shift_mm=(19.52, -31.51, 19.55),
    centre_mm=(-159.375, -159.375, 50.0),
)
