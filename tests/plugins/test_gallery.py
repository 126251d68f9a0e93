# SPDX-License-Identifier: Apache-2.0
"""The gallery says what the components and the catalogue say."""

import os
import re
import subprocess
import sys
from pathlib import Path

from medrecon.plugins.manager import plugins

ROOT = Path(__file__).parents[2]
GALLERY = (ROOT / "docs/plugins/gallery.md").read_text(encoding="utf-8")


def test_page_is_up_to_date():
    script = ROOT / "docs/plugins/make_gallery.py"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script, "--check"], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_extractor_and_matcher_is_shown():
    shown = set(re.findall(r"^\| `([\w-]+)` \|", GALLERY, re.M))
    ours = {c.name for kind in ("extractor", "matcher") for c in plugins().components(kind)}
    packaged = set()
    for init in (ROOT / "plugins").glob("*/medrecon_*/__init__.py"):
        packaged |= set(re.findall(r'kind="(?:extractor|matcher)",\s+name="([\w-]+)"', init.read_text()))
    assert ours <= shown and packaged <= shown and len(packaged) >= 6


def test_packages_that_are_linked_exist():
    linked = set(re.findall(r"\((\.\./\.\./plugins/[\w-]+)\)", GALLERY))
    assert linked
    for link in linked:
        assert (ROOT / "docs/plugins" / link / "README.md").is_file()


def test_licence_that_must_be_accepted_is_told():
    row = next(line for line in GALLERY.splitlines() if line.startswith("| `superpoint`"))
    assert "--accept-license magicleap" in row and "5.2 MB" in row
