# SPDX-License-Identifier: Apache-2.0
"""No test of this package may reach a network."""

import pytest

from medrecon.testing import forbid_network


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    forbid_network(monkeypatch)
