# SPDX-License-Identifier: Apache-2.0
"""What of the catalogue is here and may be used, and the command that mends what is not."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medrecon.assets.catalogue import Asset, asset
from medrecon.assets.licenses import accepted, stored
from medrecon.assets.places import place_of
from medrecon.errors import AssetError

_RECORDS: list[set[str]] = []
_LOCK = threading.Lock()
REINSTALL = "install medrecon again"


def path(name: str) -> Path | None:
    """Where the asset (file or folder) lies, None when it has not been fetched.  Raises AssetError: unknown name."""
    place = place_of(asset(name))
    return place if place.exists() else None


def state(entry: Asset, by_run: Iterable[str] = ()) -> str:
    """ "here", "not fetched" or "licence not accepted"; ``by_run``: licences that a run accepts."""
    if entry.acceptance and accepted(entry.acceptance, by_run) is None:
        return "licence not accepted"
    return "here" if place_of(entry).exists() else "not fetched"


def obstacle(name: str, by_run: Iterable[str] = (), verify: bool = False) -> str | None:
    """Why an asset cannot be used, in a few words; None when it can.

    Args:
        name: of the asset.
        by_run: licences that a run accepts.
        verify: also look whether the content has changed, which reads all of it.

    Raises:
        AssetError: unknown name.
    """
    entry = asset(name)
    now = state(entry, by_run)
    if now == "licence not accepted":
        return f"licence {entry.acceptance} of {name} not accepted"
    if now == "not fetched":
        return f"{name} is missing from the installed package" if entry.shipped else f"{name} not fetched"
    if verify and digest(place_of(entry)) != entry.sha256:
        return f"{name} changed since it was {'installed' if entry.shipped else 'fetched'} (wrong sha256)"
    return None


def fetch_command(names: Iterable[str]) -> str:
    """The command that fetches all of these and accepts what must be accepted.  Raises AssetError: unknown name.

    What ships with medrecon is not fetched: where there is nothing else, the remedy is to install it again.
    """
    wanted = [entry for name in dict.fromkeys(names) if not (entry := asset(name)).shipped]
    if not wanted:
        return REINSTALL
    commands = []
    for kind in dict.fromkeys(entry.kind for entry in wanted):
        chosen = [entry for entry in wanted if entry.kind == kind]
        licenses = dict.fromkeys(e.acceptance for e in chosen if e.acceptance and stored(e.acceptance) is None)
        words = [f"medrecon {kind} fetch", *(e.name for e in chosen), *(f"--accept-license {x}" for x in licenses)]
        commands.append(" ".join(words))
    return " && ".join(commands)


def require(name: str, by_run: Iterable[str] = ()) -> Path:
    """Where the asset lies, verified, and noted in every open ``recording``.

    Args:
        name: of the asset.
        by_run: licences accepted beside those stored and those of runs in progress.

    Raises:
        AssetError: not fetched, changed, or its licence is not accepted; with the command that mends it.
    """
    why = obstacle(name, by_run, verify=True)
    if why:
        raise AssetError(why, fetch_command([name]))
    with _LOCK:
        for record in _RECORDS:
            record.add(name)
    return place_of(asset(name))


@contextmanager
def recording() -> Iterator[set[str]]:
    """Collects the names of the assets that are required, in any thread, while this lasts."""
    record: set[str] = set()
    with _LOCK:
        _RECORDS.append(record)
    try:
        yield record
    finally:
        with _LOCK:
            # Not list.remove: sets compare by content, and two records may hold the same.
            _RECORDS[:] = [other for other in _RECORDS if other is not record]


def sha256_of(file: Path) -> str:
    h = hashlib.sha256()
    with open(file, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            h.update(block)
    return h.hexdigest()


def digest(place: Path) -> str:
    """sha256 of a file; of a folder, the sha256 over its sorted lines ``<sha256>  <relative path>``."""
    if place.is_file():
        return sha256_of(place)
    files = sorted(p for p in place.rglob("*") if p.is_file())
    lines = (f"{sha256_of(p)}  {p.relative_to(place).as_posix()}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
