# SPDX-License-Identifier: Apache-2.0
"""Weights and data that are fetched on request: what there is, where it comes from, its hash and its licence."""

from medrecon.assets.catalogue import CATALOGUE, Asset, Carrier, asset
from medrecon.assets.store import fetch, home, path, require

__all__ = ["CATALOGUE", "Asset", "Carrier", "asset", "fetch", "home", "path", "require"]
