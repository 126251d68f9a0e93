# SPDX-License-Identifier: Apache-2.0
"""Writes a package that holds a new component: one that works, and passes its own tests, before a line is changed."""

from __future__ import annotations

import os
import re
import tempfile
from importlib import resources
from pathlib import Path
from string import Template

from medrecon.errors import ConfigError

# kind -> (section of the YAML file, what the component does as it is written)
KINDS = {
    "matcher": ("matching", "mutual nearest neighbours by similarity"),
    "extractor": ("features", "corners with the patch around them"),
    "pairing": ("pairing", "neighbours in the order of the frames"),
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")


def new_package(kind: str, name: str, out: Path) -> Path:
    """Write the package of a new component to ``out / "medrecon-NAME"`` and return that folder.

    Nothing is overwritten, and what stands there is whole.

    Args:
        kind: one of ``KINDS``.
        name: of the component: lower case words, digits and dashes.
        out: folder that holds the package.

    Raises:
        ConfigError: no such kind, a name that cannot be or is taken, a folder that is there or cannot be written.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no template for a {kind!r}", f"there is one for: {', '.join(KINDS)}")
    _check_name(kind, name)
    target = Path(out) / f"medrecon-{name}"
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} is there already, and nothing is overwritten", "choose another name or --out")
    section, summary = KINDS[kind]
    words = {
        "kind": kind,
        "name": name,
        "package": f"medrecon-{name}",
        "module": f"medrecon_{name.replace('-', '_')}",
        "cls": "".join(w.capitalize() for w in name.split("-")) + _suffix(kind, name),
        "section": section,
        "summary": summary,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as work:
            whole = Path(work) / "package"
            for path, text in _files(kind, words).items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8")
            os.rename(whole, target)
    except OSError as e:
        raise ConfigError(f"{target} cannot be written: {e.strerror or e}", "give another folder with --out") from e
    return target


def _check_name(kind: str, name: str) -> None:
    from medrecon.plugins.manager import plugins

    if not _NAME.match(name) or len(name) > 60:
        raise ConfigError(
            f"{name!r} cannot be the name of a {kind}", "use lower case words and digits joined by dashes: my-own"
        )
    if name.startswith("medrecon-"):
        raise ConfigError(f"the package of {name!r} would be called medrecon-{name}", f"write {name[9:]!r}")
    registry = plugins()
    for component in registry.components(kind):
        if component.name == name:
            raise ConfigError(f"there is a {kind} {name!r} already, of {registry.owner(component)}", "choose another")


def _suffix(kind: str, name: str) -> str:
    return "" if name.split("-")[-1] == kind else kind.capitalize()


def _files(kind: str, words: dict[str, str]) -> dict[str, str]:
    """Text by path inside the package."""
    module = words["module"]
    places = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        "LICENSE": "common/LICENSE",
        f"{module}/__init__.py": "common/init.py",
        f"{module}/component.py": f"{kind}/component.py",
        f"tests/test_{module}.py": f"{kind}/test.py",
    }
    folder = resources.files("medrecon.plugins") / "templates"
    read = lambda where: (folder / f"{where}.template").read_text(encoding="utf-8")
    return {path: Template(read(where)).substitute(words) for path, where in places.items()}
