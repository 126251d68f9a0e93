# SPDX-License-Identifier: Apache-2.0
"""Writes gallery.md from the components themselves: `python docs/plugins/make_gallery.py`, `--check` only compares."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GALLERY = Path(__file__).with_name("gallery.md")
PACKAGES = ("medrecon-lightglue", "medrecon-xfeat", "medrecon-locality")

# What each is for, in a few words; a component that is not listed here stops the script.
PURPOSE = {
    "sift": "the safe start: any picture, no weights; scale and turn do not matter",
    "surf": "like SIFT, blobs rather than corners",
    "orb": "fast and small, binary; weakest under changes of scale",
    "superpoint": "the paper's extractor; noncommercial research only",
    "disk": "the learned default with free weights; dense on texture, the heaviest on a CPU",
    "aliked": "learned, with subpixel positions; `aliked-n16rot` for cameras that turn",
    "xfeat": "the lightest learned one, for CPUs and long videos",
    "nearest-neighbour": "any features; ratio test and mutual check",
    "superglue": "the paper's matcher; noncommercial research only",
    "lightglue": "learned matching with free weights; less work on easy pairs",
    "lighterglue": "a smaller LightGlue, for XFeat",
    "locality": "any features, many false matches: keeps what its neighbourhood agrees with",
}

HEAD = """\
# Gallery

Extractors and matchers that come with medrecon, built in or as packages in [`plugins/`](../../plugins). The tables are
written by `docs/plugins/make_gallery.py` from the components and the catalogue; a test compares them.

`medrecon plugins list` shows what is installed, with licences; `medrecon plugins show KIND NAME` all options. Weights
are fetched on request only: `medrecon weights fetch NAME...`. Which is best on your kind of pictures is measured by
`medrecon bench matching`.
"""

TAIL = """\
## Renderers

`nerf`, `mipnerf`, `mipgrid` (the default of most presets) and `xray` are built in.
[medrecon-gsplat](../../plugins/medrecon-gsplat) adds `gsplat`, Gaussian splatting for those with a CUDA GPU; it has
not been run on one yet.

## Installing a package

    pip install ./plugins/medrecon-lightglue

puts its components beside those built in (`medrecon-xfeat` needs `medrecon-lightglue` installed with it). Each
package's README says how to use it, what to cite and under which licence its weights are. `plugins/check_all.sh`
installs them all into a fresh virtual environment and runs their tests.

## Adding one

    medrecon plugins new matcher my-own

writes a package that works and passes the [conformance kit](conformance.md) at once; the [tutorial](tutorial.md) says
what stands in it. To be listed here: put it into `plugins/`, and a line into `docs/plugins/make_gallery.py`.
"""


def collect() -> list[tuple[str, object]]:
    """(package, component) of every extractor and matcher, built in ones first."""
    from medrecon import builtins

    found = [("", c) for c in builtins.medrecon_components()]
    for package in PACKAGES:
        found += [(package, c) for c in _module(package).medrecon_components()]
    return [(p, c) for p, c in found if c.kind in ("extractor", "matcher")]


def catalogue() -> dict[str, object]:
    """Every asset by name, of the core and of the packages."""
    from medrecon.assets import builtin

    modules = [_module(p) for p in PACKAGES]
    more = [a for m in modules if hasattr(m, "medrecon_assets") for a in m.medrecon_assets()]
    return {a.name: a for a in (*builtin.ASSETS, *more) if hasattr(a, "size_bytes")}


def _module(package: str):
    folder = str(ROOT / "plugins" / package)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(package.replace("-", "_"))


def _row(package: str, component, assets: dict) -> list[str]:
    needed = [assets[name] for name in component.load_config()().assets()]
    weights = "<br>".join(f"`{a.name}` {a.size_bytes / 1e6:.1f} MB" for a in needed) or "none"
    licence = component.license.partition(";")[0]
    for asset in needed:
        accept = f" (`--accept-license {asset.acceptance}`)" if asset.acceptance else ""
        if accept or asset.license not in licence:
            licence += f"<br>weights: {asset.license}{accept}"
    where = f"[{package}](../../plugins/{package})" if package else "built in"
    row = [f"`{component.name}`", PURPOSE[component.name], licence, weights, where]
    if component.kind == "matcher":
        takes = "any" if "*" in component.accepts else ", ".join(f"`{name}`" for name in component.accepts)
        row.insert(1, takes)
    return row


def text() -> str:
    """The page."""
    assets, parts = catalogue(), [HEAD]
    for kind, heads in (
        ("extractor", ("name", "for", "licence", "weights", "where")),
        ("matcher", ("name", "features of", "for", "licence", "weights", "where")),
    ):
        rows = [_row(p, c, assets) for p, c in collect() if c.kind == kind]
        lines = [heads, ["---"] * len(heads), *rows]
        parts.append(f"## {kind.capitalize()}s\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join([*parts, TAIL])


def main(argv: list[str]) -> int:
    if "--check" in argv:
        if GALLERY.read_text(encoding="utf-8") != text():
            print("gallery.md is out of date: python docs/plugins/make_gallery.py", file=sys.stderr)
            return 1
        return 0
    GALLERY.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
