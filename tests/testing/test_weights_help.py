# SPDX-License-Identifier: Apache-2.0
"""What tests of learned components use: weights that are absent skip, networks are out of reach."""

import socket
import urllib.request

import pytest

from medrecon.testing import fetched, forbid_network


@pytest.mark.parametrize(
    "name, why", [("lpips-vgg16", "not fetched"), ("superpoint", "not accepted"), ("nothing", "installed")]
)
def test_absent_weights_skip(name, why, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=why):
        fetched(name)


def test_network_is_out_of_reach(monkeypatch):
    with monkeypatch.context() as m:
        forbid_network(m)
        with pytest.raises(AssertionError, match="reached for the network"):
            urllib.request.urlopen("http://127.0.0.1:9/")
        with pytest.raises(AssertionError, match="reached for the network"):
            socket.create_connection(("127.0.0.1", 9))
