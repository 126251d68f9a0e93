# SPDX-License-Identifier: Apache-2.0
"""No test of this package may reach a network, and one test file may import what lies beside it."""

import sys
from pathlib import Path

import pytest

from medrecon.testing import forbid_network

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    forbid_network(monkeypatch)
