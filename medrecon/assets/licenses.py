# SPDX-License-Identifier: Apache-2.0
"""Acceptance of licences: stored below the home on request, or given by a run for as long as it lasts."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone

from medrecon.assets.catalogue import License, license_terms
from medrecon.assets.places import home

_RUNS: Counter[str] = Counter()  # licences accepted by runs in progress; a count, because runs may overlap
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """That a licence was accepted.

    Attributes:
        license: its name.
        how: "stored" or "run file".
        date: day it was stored, ISO 8601, "" for a run file.
    """

    license: str
    how: str
    date: str = ""

    def __str__(self) -> str:
        return f"accepted on {self.date}" if self.how == "stored" else "accepted in the run file"


def _file(name: str):
    return home() / "licenses" / f"{name}.json"


def accept(name: str) -> License:
    """Store, by name and day, that the user accepts a licence, and return it.

    Raises:
        AssetError: there is no licence of that name.
        OSError: the home cannot be written.
    """
    from medrecon.types.storage import write_json

    terms = license_terms(name)
    if stored(name) is None:
        date = datetime.now(timezone.utc).date().isoformat()
        write_json(_file(name), {"name": name, "title": terms.title, "url": terms.url, "date": date})
    return terms


def stored(name: str) -> Acceptance | None:
    """The acceptance that ``accept`` stored, None when there is none."""
    try:
        facts = json.loads(_file(name).read_text(encoding="utf-8"))
        return Acceptance(name, "stored", str(facts["date"])) if facts["name"] == name else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or not what ``accept`` wrote


def accepted(name: str, by_run: Iterable[str] = ()) -> Acceptance | None:
    """How a licence was accepted: stored, or by a run (``by_run``, or one in progress); None when it was not."""
    lasting = stored(name)
    if lasting is not None:
        return lasting
    with _LOCK:
        running = _RUNS[name] > 0
    return Acceptance(name, "run file") if running or name in by_run else None


@contextmanager
def accepting(names: Iterable[str]) -> Iterator[None]:
    """While this lasts, the licences a run accepts count as accepted in every thread of the process."""
    names = tuple(names)
    with _LOCK:
        _RUNS.update(names)
    try:
        yield
    finally:
        with _LOCK:
            _RUNS.subtract(names)


def shown(terms: License) -> str:
    """The terms as a user reads them before accepting."""
    return f"{terms.name}: {terms.title}\n  by     {terms.who}\n  terms  {terms.terms}\n  text   {terms.url}"
