# SPDX-License-Identifier: Apache-2.0
"""The peers of the benchmarks are the oracles of the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
