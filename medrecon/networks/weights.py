# SPDX-License-Identifier: Apache-2.0
"""The option ``weights`` of a learned component: the name of a catalogue asset, or a file of one's own.

Light on purpose: options are read long before torch is needed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from medrecon.errors import AssetError

SUFFIXES = (".safetensors", ".pth", ".pt")
_ASSET_NAME = re.compile(r"[a-z0-9][a-z0-9-]*\Z")


def _name_or_path(value: object) -> object:
    """Text that is no asset name is a path, so that runs resolve it, hash its content and never record it."""
    if not isinstance(value, str) or _ASSET_NAME.match(value):
        return value
    if Path(value).suffix not in SUFFIXES:
        raise ValueError(f"{value!r} is neither the name of an asset nor a file ending in {', '.join(SUFFIXES)}")
    return Path(value)


# Field type: str is the name of an asset, Path a checkpoint file.
Weights = Annotated[str | Path, BeforeValidator(_name_or_path)]


def weights_assets(weights: str | Path) -> tuple[str, ...]:
    """What ``ComponentConfig.assets`` returns for one option of the type ``Weights``."""
    return () if isinstance(weights, Path) else (weights,)


def network_config(weights: str | Path) -> dict[str, Any] | None:
    """What the .json beside weights of our own says of their network; {} for weights that have none, such as those of
    others, and None where it cannot be read, which is for whoever loads the weights to say."""
    from medrecon import assets

    try:
        place = weights if isinstance(weights, Path) else assets.path(weights)
        if place is None or place.suffix != ".safetensors":
            return None if place is None else {}
        return dict(json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))["config"])
    except (AssetError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def weights_path(weights: str | Path) -> Path:
    """The file to read.  Raises AssetError: not fetched (with the command that mends it), or no such file."""
    if isinstance(weights, Path):
        if not weights.is_file():
            raise AssetError(f"{weights} is not a file", "check the option `weights`")
        return weights
    from medrecon import assets

    return assets.require(weights)
