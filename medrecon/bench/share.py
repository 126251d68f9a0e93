# SPDX-License-Identifier: Apache-2.0
"""Runs beside each other that begin alike share what they have in common: pictures, masks, features."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from medrecon.config.run_config import RunConfig


def adopt(config: RunConfig, root: Path, until: str) -> list[str]:
    """Take over finished stages from the runs in the same folder, where their keys are the same.

    Files are linked, not copied, where the file system can: a run never changes a finished file in place.

    Args:
        config: of the run that ``root`` is about to become.
        until: last stage to look for.

    Returns:
        names of the stages that were taken over.
    """
    from medrecon.pipeline.cache import StageStore
    from medrecon.pipeline.run import plan

    taken = []
    siblings = sorted(p for p in root.parent.glob("*") if p.is_dir() and p != root and not p.name.startswith("."))
    for planned in plan(config, root, until=until):
        if planned.cached:
            continue
        name, key, mine = planned.stage.name, planned.key, StageStore(root)
        donor = next((s for s in siblings if (StageStore(s).stamp(name) or {}).get("key") == key), None)
        if donor is None:
            break  # what comes later cannot be there either: its key contains this one's
        place = mine.partial(name, key)
        copy = place.with_name(place.name + ".copy")
        for old in (place, copy):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(StageStore(donor).final(name), copy, copy_function=_link)
        copy.rename(place)
        mine.is_fresh(name, key)  # puts the stamped folder in its place
        taken.append(name)
    return taken


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
