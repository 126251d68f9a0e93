# SPDX-License-Identifier: Apache-2.0
"""Bringing the bytes of one file of known size, going on where an earlier attempt was cut."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path

from medrecon.progress import Progress

_ATTEMPTS = 3
_PAUSE_S = 0.5


class Cut(OSError):
    """The connection ended early. What came stands in the part file."""


class WrongFile(OSError):
    """The address answers with something that cannot be the file."""


def transfer(
    open_at: Callable[[dict[str, str]], http.client.HTTPResponse], part: Path, size_bytes: int, progress: Progress
) -> None:
    """Fill ``part`` up to ``size_bytes``; its content is not checked here.

    Args:
        open_at: opens the address with these headers.
        part: file to write; what stands there already is gone on from where the server can (HTTP Range).
        size_bytes: size of the whole file; not a byte more is taken.
        progress: told bytes.

    Raises:
        Cut: after the last of three attempts of which each brought something.
        WrongFile: the server has a file of another size.
        OSError, ValueError, http.client.HTTPException: the address cannot be opened, or the part not be written.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            before = _usable(part, size_bytes)
            try:
                _attempt(open_at, part, before, size_bytes, progress)
                return
            except Cut as e:
                if attempt == _ATTEMPTS or _usable(part, size_bytes) <= before:
                    raise
                progress.say(str(e))
                time.sleep(_PAUSE_S)
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()


def _usable(part: Path, size_bytes: int) -> int:
    """Bytes to go on from; a part larger than the file is no part of it and goes."""
    size = part.stat().st_size if part.exists() else 0
    if size > size_bytes:
        part.unlink()
        return 0
    return size


def _attempt(open_at, part: Path, before: int, size_bytes: int, progress: Progress) -> None:
    """One connection.  Raises Cut when it brought too few bytes."""
    progress.begin(size_bytes, "bytes")
    if before == size_bytes:
        return
    try:
        response = open_at({"Range": f"bytes={before}-"} if before else {})
    except urllib.error.HTTPError as e:
        if e.code != 416 or not before:  # 416: nothing behind what we have, so ours is the beginning of another file
            raise
        e.close()
        part.unlink()
        before, response = 0, open_at({})
    with response:
        came = _start(response)
        if came not in (0, before):
            raise WrongFile(f"the server goes on from byte {came}, not {before}")
        length = response.headers.get("Content-Length")
        if length is not None and came + int(length) != size_bytes:
            if came:
                part.unlink()
            raise WrongFile(f"a file of {came + int(length)} bytes lies there, not of {size_bytes}")
        if came:
            progress.say(f"going on after {came} of {size_bytes} bytes")
        progress.advance(came)
        with open(part, "ab" if came else "wb") as sink:
            while came <= size_bytes:
                try:
                    block = response.read(min(1 << 18, size_bytes + 1 - came))
                except (OSError, http.client.HTTPException) as e:
                    raise Cut(f"the download was cut after {came} of {size_bytes} bytes ({e})") from e
                if not block:
                    break
                sink.write(block)
                came += len(block)
                progress.advance(len(block))
    if came > size_bytes:
        part.unlink()
        raise WrongFile(f"a file of more than {size_bytes} bytes lies there")
    if came < size_bytes:
        raise Cut(f"the download was cut after {came} of {size_bytes} bytes")


def _start(response) -> int:
    """First byte of what the server sends: 0 unless it grants the range."""
    if getattr(response, "status", None) != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1
