# SPDX-License-Identifier: Apache-2.0
"""Whose weights an adaptation starts from, and so whose licence its result has.

Adapted weights derive from the weights that they start from: training them further on other pictures takes nothing of
that away. Their licence is therefore the one of the starting weights, whatever the pictures are, and it is written into
the file, so that it goes with it wherever the file goes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOT_STATED = "not stated by the weights that these derive from"
OPEN = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0")


@dataclass(frozen=True, slots=True)
class Origin:
    """Weights that others are derived from.

    Attributes:
        name: of the asset, or "a file of the user's".
        license: of the asset, or what the .json beside the file says; "" where nothing does.
        sha256: of the file.
        citation: of the asset, "" for a file.
        provenance: what the .json beside the file says about it; {} where nothing does.
    """

    name: str
    license: str
    sha256: str
    citation: str
    provenance: dict[str, Any]

    @property
    def derived_license(self) -> str:
        """Of whatever starts from these weights."""
        if not self.license:
            return NOT_STATED
        if self.license in (*OPEN, NOT_STATED) or "derived from" in self.license:
            return self.license
        return f"{self.license} (derived from {self.name})"

    def facts(self) -> dict[str, Any]:
        """For the provenance of what is derived."""
        return {
            "name": self.name,
            "license": self.license or "not stated",
            "sha256": self.sha256,
            "citation": self.citation,
            "provenance": self.provenance,
        }


def origin_of(weights: str | Path) -> Origin:
    """Of the name of an asset, or of a file.

    Raises:
        AssetError: there is no such asset or file, or it has not been fetched or permitted.
    """
    from medrecon import assets
    from medrecon.networks.weights import weights_path

    path = weights_path(weights)
    about = _about(path)
    if isinstance(weights, Path):
        return Origin(
            "a file of the user's", str(about.get("license", "")), assets.digest(path), "", _provenance(about)
        )
    entry = assets.asset(weights)
    return Origin(entry.name, entry.license, assets.digest(path), entry.citation, _provenance(about))


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _provenance(about: dict[str, Any]) -> dict[str, Any]:
    found = about.get("provenance")
    return found if isinstance(found, dict) else {}
