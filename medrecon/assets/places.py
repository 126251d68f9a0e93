# SPDX-License-Identifier: Apache-2.0
"""Where everything that is kept between runs lies, and that one process at a time adds to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrecon.assets.catalogue import Asset, Carrier, Shipped, Url


def home() -> Path:
    """Folder for everything that is kept between runs: $MEDRECON_HOME, else the XDG data folder."""
    if os.environ.get("MEDRECON_HOME"):
        return Path(os.environ["MEDRECON_HOME"]).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "medrecon"


def place_of(entry: Asset) -> Path:
    """Where an asset belongs. Its hash is part of the place: another release's catalogue never finds wrong content."""
    if isinstance(entry.sources[0], Shipped):
        return entry.sources[0].path
    return home() / "assets" / entry.name / entry.sha256[:12] / entry.filename


def parts() -> Path:
    """Folder of downloads that were cut short, named by the hash they will have, to go on from."""
    return home() / "parts"


def part_of(entry: Asset, source: Url | Carrier) -> Path:
    """Where an unfinished download of a source is kept to go on from."""
    return parts() / f"{source.sha256 if isinstance(source, Carrier) else entry.sha256}.part"


@contextmanager
def alone(waiting=lambda: None) -> Iterator[bool]:
    """One process at a time fetches into the home; yields whether that is certain.

    The folder itself is locked, so that nothing is left behind. Where folders cannot be locked (Windows, some network
    disks) two processes at once may spoil each other's download: the hash finds out.
    """
    home().mkdir(parents=True, exist_ok=True)
    try:
        import fcntl

        folder = os.open(home(), os.O_RDONLY)
    except (ImportError, PermissionError):
        yield False
        return
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            certain = True
        except BlockingIOError:
            waiting()
            fcntl.flock(folder, fcntl.LOCK_EX)
            certain = True
        except OSError:
            certain = False
        yield certain
    finally:
        os.close(folder)
