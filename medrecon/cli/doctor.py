# SPDX-License-Identifier: Apache-2.0
"""``medrecon doctor``: what is installed, what is missing, and the command that mends it."""

from __future__ import annotations

import subprocess
import sys

from medrecon.ops.doctor import Check
from medrecon.ops.doctor import checks as ops_checks


def _packages() -> list[Check]:
    from medrecon.pipeline.manifest import package_versions

    found = []
    for name, version in package_versions().items():
        missing = version == "missing"
        found.append(Check(name, not missing, version, f"pip install {name}" if missing else ""))
    return found


def _imports_together() -> Check:
    """cv2, torch and pycolmap crash each other in some orders and builds: try ours in a process of its own."""
    code = "import medrecon.images, pycolmap, torch; print('ok')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    ok = done.returncode == 0 and "ok" in done.stdout
    detail = "cv2, pycolmap and torch load together" if ok else (done.stderr.strip().splitlines() or ["crashed"])[-1]
    return Check("imports", ok, detail, "" if ok else "reinstall opencv-python-headless, pycolmap and torch")


def _rendering() -> Check:
    code = "import medrecon.ingest.volume_renderer, vtkmodules.vtkRenderingVolumeOpenGL2; print('ok')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    ok = done.returncode == 0
    detail = "VTK casts rays on the CPU" if ok else (done.stderr.strip().splitlines() or ["crashed"])[-1]
    return Check("volume rendering", ok, detail, "" if ok else "reinstall vtk")


def _plugins() -> Check:
    from medrecon.plugins.manager import plugins

    problems = plugins().check()
    detail = "; ".join(f"{p.plugin}: {p.cause}" for p in problems) or f"{len(plugins().components())} components"
    return Check("plugins", not problems, detail, "medrecon plugins check" if problems else "")


def report() -> bool:
    """Print every check; True when nothing that a run needs is missing."""
    good = True
    for check in [*_packages(), _imports_together(), _rendering(), _plugins(), *ops_checks()]:
        print(f"{'ok  ' if check.ok else 'MISS'}  {check.name:24} {check.detail}")
        if not check.ok and check.fix:
            print(f"      {'':24} try: {check.fix}")
        good = good and check.ok
    return good
