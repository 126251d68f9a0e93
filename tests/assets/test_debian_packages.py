# SPDX-License-Identifier: Apache-2.0
"""Assets out of Debian packages: ar archives made here byte by byte, served over HTTP on this machine."""

import io
import tarfile

import pytest
from asset_makers import CONTENT, FileServer, kept, offer, sha, thing

from medrecon import assets
from medrecon.assets import Carrier
from medrecon.assets.archives import unpack
from medrecon.errors import AssetError, PluginError


def tar(members, mode="w:xz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as t:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def deb(members, data_name="data.tar.xz"):
    """deb(5): an ar archive of debian-binary, control.tar.* and data.tar.*; members are padded to even offsets."""
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": tar({"./control": b"Package: x\n"}), data_name: tar(members)}
    out = b"!<arch>\n"
    for name, data in parts.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def debian(raw, url, member="usr/share/w.bin"):
    return Carrier("carrier", "1.0-1", "deb", sha(raw), member, len(raw), url)


def test_a_debian_package_is_fetched_from_its_address_and_opened(monkeypatch, server, tmp_path):
    raw = deb({"./usr/share/w.bin": CONTENT, "./usr/share/other": b"no"})
    server.files["/pool/carrier_1.0-1_all.deb"] = raw
    offer(monkeypatch, thing(debian(raw, server.url("/pool/carrier_1.0-1_all.deb"))))
    assert assets.fetch("thing").read_bytes() == CONTENT
    assert kept(tmp_path / "home") == []


def test_the_second_address_is_tried_although_the_archive_is_the_same(monkeypatch, server):
    raw = deb({"./usr/share/w.bin": CONTENT})
    second = FileServer()
    try:
        second.files["/old/carrier.deb"] = raw
        gone, there = debian(raw, server.url("/gone.deb")), debian(raw, second.url("/old/carrier.deb"))
        offer(monkeypatch, thing(gone, there))
        assert assets.fetch("thing").read_bytes() == CONTENT
    finally:
        second.close()
    assert server.paths() == ["/gone.deb"]


@pytest.mark.parametrize(
    "raw, why",
    [
        (b"not ar at all", "not a readable archive"),
        (deb({"./usr/share/w.bin": CONTENT})[:200], "not a readable archive"),
        (deb({"./usr/share/w.bin": CONTENT}, data_name="date.tar.xz"), "not a readable archive"),
        (deb({"./usr/share/else": CONTENT}), "does not contain"),
        (deb({"./usr/../../w.bin": CONTENT}), "unsafe"),
    ],
    ids=["no ar", "cut", "no data", "no member", "leaves the folder"],
)
def test_broken_packages_are_refused(tmp_path, raw, why):
    (tmp_path / "x.deb").write_bytes(raw)
    with pytest.raises(AssetError, match=why):
        unpack(tmp_path / "x.deb", debian(raw, "https://example.org/x.deb"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_debian_package_needs_an_address_and_others_have_none():
    raw = b"x"
    with pytest.raises(PluginError, match="no web address"):
        thing(debian(raw, "")).validate()
    with pytest.raises(PluginError, match="package index"):
        thing(Carrier("a", "1", "wheel", sha(raw), "a/b", 1, "https://example.org/a.whl")).validate()
