# SPDX-License-Identifier: Apache-2.0
"""Every test here has a home and a pip of its own."""

import pytest
from asset_makers import FileServer, isolate


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def server():
    server = FileServer()
    yield server
    server.close()
