# SPDX-License-Identifier: Apache-2.0
"""Weights that lie in the package itself: trained by us, under our licence, there without being fetched.

Below ``FOLDER``: NAME.safetensors (fp16 or fp32) with NAME.json, as ``medrecon.networks.checkpoint`` reads them, and
the model card NAME.md. What the catalogue says of them stands in NAME.json under "shipped".
"""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from medrecon.assets.catalogue import Asset, Shipped
from medrecon.errors import AssetError, InputError

FOLDER = Path(__file__).with_name("weights")
LICENSE = "Apache-2.0"
LARGEST_TOTAL_BYTES = 30_000_000
# Name -> the network whose weights these are. No plugin may take one of these names.
NETWORKS = {
    "superpoint-medrecon": "medrecon.features.superpoint_network:SuperpointNetwork",
    "superglue-medrecon": "medrecon.matching.superglue_network:SuperglueNetwork",
}


def shipped_assets(folder: Path = FOLDER) -> list[Asset]:
    """Catalogue entries of what lies there, by name.

    Raises:
        AssetError: a description is damaged.
    """
    return [_entry(about) for about in sorted(Path(folder).glob("*.json"))]


def _entry(about: Path) -> Asset:
    try:
        content = json.loads(about.read_text(encoding="utf-8"))
        facts = content["shipped"]
        return Asset(
            about.stem,
            "weights",
            str(facts["summary"]),
            str(content["license"]),
            str(facts["citation"]),
            facts["size_bytes"],
            facts["sha256"],
            (Shipped(about.with_suffix(".safetensors")),),
            experimental=facts["experimental"] is not False,
        ).validate()
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise AssetError(f"{about.name} of the installed package is damaged: {e}", "install medrecon again") from e


def ship(
    weights: Path, name: str, summary: str, citation: str = "", experimental: bool = True, folder: Path = FOLDER
) -> Asset:
    """Copy weights into the package, byte by byte, with their description and model card.

    Args:
        weights: FILE.safetensors; FILE.json and the model card FILE.md beside it.
        name: one of ``NETWORKS``.
        summary: one line for `medrecon weights list`.
        citation: what to cite.
        experimental: they have not met the rule for a default (``medrecon.bench.shipping_rule``).
        folder: of the package.

    Raises:
        InputError: another name, no model card, another licence than ours, or more than 30 MB in all.
        AssetError: the weights are damaged or of another network.
    """
    from medrecon.networks.checkpoint import load_network
    from medrecon.types.storage import write_bytes_atomic, write_json

    if name not in NETWORKS:
        raise InputError(f"no weights are shipped as {name!r}", f"one of {', '.join(NETWORKS)}")
    weights, folder = Path(weights), Path(folder)
    module, _, attribute = NETWORKS[name].partition(":")
    load_network(weights, getattr(importlib.import_module(module), attribute))
    about: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    if about.get("license") != LICENSE:
        raise InputError(f"{weights.name} is under {about.get('license')!r}: what ships is under {LICENSE}")
    try:
        card = weights.with_suffix(".md").read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(f"{weights.name} has no model card: {e}", f"write {weights.stem}.md beside it") from e
    data = weights.read_bytes()
    others = [p.stat().st_size for p in folder.glob("*.safetensors") if p.stem != name]
    if len(data) + sum(others) > LARGEST_TOTAL_BYTES:
        total = (len(data) + sum(others)) / 1e6
        raise InputError(f"with {name} the package would hold {total:.1f} MB of weights, more than 30", "store fp16")
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"summary": summary, "citation": citation, "experimental": experimental}
    facts |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    write_bytes_atomic(folder / f"{name}.safetensors", data)
    write_bytes_atomic(folder / f"{name}.md", card.encode())
    write_json(folder / f"{name}.json", {**about, "shipped": facts})
    return _entry(folder / f"{name}.json")
