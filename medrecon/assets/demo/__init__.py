# SPDX-License-Identifier: Apache-2.0
"""Volumes that ship with the package. Their origin and licence stand in NOTICE."""

from __future__ import annotations

from pathlib import Path

from medrecon.errors import InputError

BUILTIN_VOLUMES = {"chest-ct": "chest_ct.nii.gz"}


def builtin_volume(name: str) -> Path:
    """Path of a volume in the package.  Raises InputError for an unknown name."""
    if name not in BUILTIN_VOLUMES:
        raise InputError(f"there is no built-in volume {name!r}", f"one of {', '.join(BUILTIN_VOLUMES)}")
    path = Path(__file__).with_name(BUILTIN_VOLUMES[name])
    if not path.is_file():
        raise InputError(f"the built-in volume {name!r} is missing from this installation", "reinstall medrecon")
    return path
