# SPDX-License-Identifier: Apache-2.0
"""The synthetic sphere run is shared with the tests of the surface."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "surface"))
