# SPDX-License-Identifier: Apache-2.0
"""Weights and data that are fetched on request: what there is, where it comes from, its hash and its licence."""

from medrecon.assets.catalogue import Asset, Carrier, License, Url, asset, entries, license_terms
from medrecon.assets.store import fetch, home, path, require

__all__ = [
    "Asset", "Carrier", "License", "Url", "asset", "entries", "fetch", "home", "license_terms", "path", "require",
]  # fmt: skip
