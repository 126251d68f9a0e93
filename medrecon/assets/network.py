# SPDX-License-Identifier: Apache-2.0
"""The network as the user's pip is configured for it: indexes, proxy, certificates, trusted hosts, credentials."""

from __future__ import annotations

import base64
import netrc
import re
import ssl
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from medrecon.errors import AssetError

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"


def pip_settings() -> dict[str, str]:
    """pip's configuration for `download` as {option: value}; environment over files, `download` over `global`.

    Raises ValueError where pip itself refuses its configuration.
    """
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    if done.returncode and "No module named pip" in done.stderr:
        return {}  # the public index
    if done.returncode:
        raise ValueError(bare(done.stderr.strip().rpartition("\n")[2]))
    out = done.stdout
    settings: dict[str, str] = {}
    for section in ("global", "download", ":env:"):
        for key, value in re.findall(rf"^{re.escape(section)}\.([\w-]+)='(.*)'$", out, re.M):
            settings[key] = value
    return settings


def bare(url: str) -> str:
    """Without credentials: a password never reaches a message."""
    return re.sub(r"//[^/@]*@", "//", url)


class _SameHostRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; credentials go on to the same host only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and _host(req.full_url) != _host(newurl):
            request.headers.pop("Authorization", None)
        return request


def _host(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port}"


class Network:
    """Opens addresses; made once per command, because asking pip for its settings takes a moment.

    Args:
        settings: as ``pip_settings`` gives them; default: asked for now.

    Raises:
        AssetError: what pip itself refuses, or a certificate that is not there.
    """

    def __init__(self, settings: dict[str, str] | None = None):
        try:
            self.settings = pip_settings() if settings is None else settings
            self.timeout_s = float(self.settings.get("timeout") or self.settings.get("default-timeout") or 30)
            self._opener, self._unchecked = self._make_opener(checked=True), self._make_opener(checked=False)
        except (OSError, ValueError) as e:
            raise AssetError(f"pip's settings cannot be used: {e}", "`python -m pip config list`: cert, timeout") from e
        self._trusted = set(self.settings.get("trusted-host", "").split())
        self._users = {
            _host(url): (parts.username, parts.password)
            for url in self.indexes()
            if (parts := urllib.parse.urlsplit(url)).username is not None
        }

    def _make_opener(self, checked: bool) -> urllib.request.OpenerDirector:
        make = ssl.create_default_context if checked else ssl._create_unverified_context
        context = make(cafile=self.settings.get("cert") or None)
        if self.settings.get("client-cert"):
            context.load_cert_chain(self.settings["client-cert"])
        handlers: list = [urllib.request.HTTPSHandler(context=context), _SameHostRedirects()]
        if self.settings.get("proxy"):
            handlers.append(urllib.request.ProxyHandler({s: self.settings["proxy"] for s in ("http", "https")}))
        return urllib.request.build_opener(*handlers)

    def indexes(self) -> list[str]:
        """Addresses of the package indexes, none with pip's ``no-index``."""
        if self.settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
            return []
        first = self.settings.get("index-url") or "https://pypi.org/simple"
        return [_as_url(index) for index in (first, *self.settings.get("extra-index-url", "").split())]

    def places(self, package: str) -> list[str]:
        """Pages that may list the package: find-links first, then the indexes."""
        normal = re.sub(r"[-_.]+", "-", package).lower()
        links = [_as_url(link) for link in self.settings.get("find-links", "").split()]
        return [*links, *(f"{index.rstrip('/')}/{normal}/" for index in self.indexes())]

    def open(self, url: str, headers: dict[str, str] | None = None):
        """The response.

        Raises:
            ValueError: an address that is not http, https or file.
            OSError: not reachable; urllib.error.HTTPError (an OSError): refused.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("https", "http", "file"):
            raise ValueError(f"{parts.scheme} addresses are not supported")
        sent = {"Accept": _ACCEPT, "User-Agent": "medrecon", **(headers or {})}
        user, password = self._credentials(url)
        if user is not None:
            token = f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password or '')}"
            sent["Authorization"] = "Basic " + base64.b64encode(token.encode()).decode()
        trusted = parts.hostname in self._trusted or f"{parts.hostname}:{parts.port}" in self._trusted
        opener = self._unchecked if trusted else self._opener
        return opener.open(urllib.request.Request(bare(url), headers=sent), timeout=self.timeout_s)

    def _credentials(self, url: str) -> tuple[str | None, str | None]:
        """From the address itself, from the index of the same host, or from the user's netrc."""
        parts = urllib.parse.urlsplit(url)
        if parts.username is not None or not parts.hostname:
            return parts.username, parts.password
        if _host(url) in self._users:
            return self._users[_host(url)]
        try:
            entry = netrc.netrc().authenticators(parts.hostname)
        except (OSError, netrc.NetrcParseError):
            entry = None
        return (entry[0], entry[2]) if entry else (None, None)

    def open_within(self, seconds: float, url: str, headers: dict[str, str] | None = None):
        """``open``, but raises TimeoutError when there is no answer within ``seconds`` in all.

        A timeout of the socket alone counts for each of a host's addresses and not for looking up its name, so that
        a firewall that drops packets would hold the user for minutes.
        """
        answer: list = []
        given_up = threading.Event()

        def ask():
            try:
                response = self.open(url, headers)
            except BaseException as e:  # handed to the caller
                response = e
            if given_up.is_set() and not isinstance(response, BaseException):
                response.close()
            answer.append(response)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(seconds)
        if not answer:
            given_up.set()
            raise TimeoutError(f"no answer within {seconds:g} s")
        if isinstance(answer[0], BaseException):
            raise answer[0]
        return answer[0]


def _as_url(place: str) -> str:
    return place if "://" in place else Path(place).expanduser().resolve().as_uri()
