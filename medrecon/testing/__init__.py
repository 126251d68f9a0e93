# SPDX-License-Identifier: Apache-2.0
"""Conformance kits and phantoms for plugin authors: inherit one class, override ``make``, run pytest.

Loaded on first use, so that a matcher's tests never import torch.
"""

from __future__ import annotations

import importlib

_WHERE = {
    "ExtractorConformance": "extractor",
    "MatcherConformance": "matcher",
    "MesherConformance": "mesher",
    "PairingConformance": "pairing",
    "RendererConformance": "renderer",
    "SourceConformance": "source",
    "fetched": "weights",
    "forbid_network": "weights",
    "phantoms": "phantoms",
}

__all__ = list(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_WHERE[name]}")
    return module if name == "phantoms" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
