# SPDX-License-Identifier: Apache-2.0
"""For the tests of components with weights: they skip where the weights are absent, and fetch nothing."""

from __future__ import annotations

from typing import Any

from medrecon.errors import AssetError


def fetched(name: str) -> str:
    """The name of an asset that is here and permitted; skips the test, with the reason, where it is not."""
    import pytest

    from medrecon import assets

    try:
        why = assets.obstacle(name)
    except AssetError as e:
        why = f"{e.cause}: is the package installed whose weights they are?"
    if why:
        pytest.skip(f"published weights: {why}")
    return name


def forbid_network(monkeypatch: Any) -> None:
    """Until the test ends, whatever reaches for a network fails.  ``monkeypatch``: pytest's fixture."""
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a component reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
