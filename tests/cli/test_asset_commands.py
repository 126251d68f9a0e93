# SPDX-License-Identifier: Apache-2.0
"""`medrecon weights` and `medrecon data`, the way a user types them."""

import json
import sys
from pathlib import Path

import pytest

from medrecon import assets
from medrecon.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "assets"))
from asset_makers import CONTENT, carrier, isolate, offer, thing, wheel  # noqa: E402


@pytest.fixture(autouse=True)
def catalogue(tmp_path, monkeypatch):
    """One free weight, one under terms, one that its archive lacks, one data set."""
    isolate(tmp_path, monkeypatch)
    file = wheel(tmp_path / "links", {"carrier/w.bin": CONTENT})
    offer(
        monkeypatch,
        thing(carrier(file), name="free"),
        thing(carrier(file), name="closed", acceptance="my-terms"),
        thing(carrier(file, "carrier/none.bin"), name="broken"),
        thing(carrier(file), name="some-data", kind="data"),
    )


@pytest.fixture
def call(capfd):
    """Runs a command line; (exit code, standard output, standard error)."""

    def run(*arguments):
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        return code, *capfd.readouterr()

    return run


def states(call, kind="weights"):
    code, out, _ = call(kind, "list", "--json")
    assert code == 0
    return {row["name"]: row["state"] for row in json.loads(out)}


def test_list_says_what_is_here_and_permitted(call):
    assert states(call) == {"free": "not fetched", "closed": "licence not accepted", "broken": "not fetched"}
    assert states(call, "data") == {"some-data": "not fetched"}
    assets.accept("my-terms")
    assert states(call)["closed"] == "not fetched"
    call("weights", "fetch", "closed", "free")
    assert states(call) == {"free": "here", "closed": "here", "broken": "not fetched"}
    _, out, _ = call("weights", "list")
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["free", "0.1", "MB", "here"] and lines[1].strip() == "licence: MIT"
    assert "--accept-license my-terms; accepted on 20" in lines[3]
    assert max(map(len, lines)) < 120


def test_json_tells_all(call):
    assets.fetch("free")
    row = json.loads(call("weights", "list", "--json")[1])[0]
    assert row["path"] == str(assets.path("free")) and row["sources"] == ["carrier==1.0"]
    assert row["size_bytes"] == len(CONTENT) and row["accept_license"] is row["accepted"] is None


def test_licence_is_shown_and_remembered(call):
    code, out, err = call("weights", "fetch", "free", "closed")
    assert code == 3 and "medrecon weights fetch free closed --accept-license my-terms" in err and out == ""
    code, out, err = call("weights", "fetch", "free", "closed", "--accept-license", "my-terms")
    assert code == 0 and "Look, do not touch." in err and "https://example.org/terms" in err
    assert out.split() == [str(assets.path("free")), str(assets.path("closed"))]
    assert call("weights", "fetch", "closed")[0] == 0  # never asked again
    assert call("weights", "path", "closed")[1].strip() == str(assets.path("closed"))
    assert call("weights", "fetch", "free", "--accept-license", "mine")[0] == 3


def test_one_that_fails_does_not_stop_the_others(call):
    code, out, err = call("weights", "fetch", "broken", "free")
    assert code == 3 and out.split() == [str(assets.path("free"))]
    assert "does not contain carrier/none.bin" in err
    code, out, _ = call("weights", "fetch", "broken", "free", "--optional")
    assert code == 0 and "note: " in out and str(assets.path("free")) in out


def test_a_misspelt_name_costs_no_download(call):
    code, _, err = call("weights", "fetch", "free", "clsed")
    assert code == 3 and "did you mean 'closed'" in err and assets.path("free") is None
    assert call("weights", "fetch", "clsed", "--optional")[0] == 0


def test_weights_are_no_data(call):
    code, _, err = call("weights", "fetch", "some-data")
    assert code == 3 and "medrecon data fetch some-data" in err
    assert call("data", "path", "free")[0] == 3
    assert call("data", "path", "some-data")[0] == 3


def test_nothing_named_is_a_usage_error(call):
    code, _, err = call("weights", "fetch")
    assert code == 2 and "--config" in err
    assert "superglue-outdoor" in call("weights", "fetch", "--help")[1]
    assert "lidc-idri-0001-dicom" in call("data", "fetch", "--help")[1]


def test_fetch_for_a_run(call, tmp_path, monkeypatch):
    monkeypatch.setattr("medrecon.pipeline.weights.needed", lambda config: ["closed", "free", "some-data"])
    run = tmp_path / "run.yaml"
    run.write_text("version: 1\nsource: {name: image-folder, path: in}\n")
    assert call("weights", "fetch", "--config", run)[0] == 3
    run.write_text(run.read_text() + "accept_licenses: [my-terms]\n")
    code, out, err = call("weights", "fetch", "--config", run)
    assert code == 0 and out.split() == [str(assets.path("closed")), str(assets.path("free"))]
    assert "accepted in run.yaml: my-terms" in err
    assert states(call)["closed"] == "licence not accepted"  # for that run file alone
