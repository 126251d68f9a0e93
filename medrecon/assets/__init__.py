# SPDX-License-Identifier: Apache-2.0
"""Weights and data that are fetched on request: what there is, where it comes from, its hash and its licence."""

from medrecon.assets.catalogue import Asset, Carrier, License, Shipped, Url, asset, entries, license_terms
from medrecon.assets.fetching import fetch, fetch_each
from medrecon.assets.licenses import accept, accepted, accepting
from medrecon.assets.places import home
from medrecon.assets.store import digest, fetch_command, obstacle, path, recording, require, state

__all__ = [
    "Asset", "Carrier", "License", "Shipped", "Url", "accept", "accepted", "accepting", "asset", "digest", "entries",
    "fetch", "fetch_command", "fetch_each", "home", "license_terms", "obstacle", "path", "recording", "require",
    "state",
]  # fmt: skip
