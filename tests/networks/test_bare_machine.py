# SPDX-License-Identifier: Apache-2.0
"""What trains runs where there is torch and numpy and nothing else, not even what medrecon itself depends on."""

import subprocess
import sys
from pathlib import Path

import medrecon

PACKAGE = Path(medrecon.__file__).parent
NETWORKS = ["medrecon.features.superpoint_network", "medrecon.matching.superglue_network"]
# Modules of the command line, of YAML and of shard building: they run where medrecon is installed.
FOR_AN_INSTALLATION = {"adapt", "adapt_check", "adapt_data", "adapt_report", "export", "model_card", "yaml_config"}
FOR_AN_INSTALLATION |= {"shard_formats", "shard_frames", "shard_sources", "shard_volumes"}

IMPORT_WITHOUT = """
import importlib, sys

class Absent:
    allowed = {"torch", "numpy", "medrecon"} | sys.stdlib_module_names

    def find_spec(self, name, path=None, target=None):
        caller = sys._getframe(1)
        while caller and "importlib" in caller.f_code.co_filename:
            caller = caller.f_back
        ours = caller and caller.f_globals.get("__name__", "").partition(".")[0] in ("medrecon", "__main__")
        if ours and name.partition(".")[0] not in self.allowed or name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}, imported by {caller.f_globals.get('__name__')}")

BLOCKED = {"pydantic", "safetensors", "cv2", "yaml", "scipy", "pycolmap", "PIL", "typer"}
sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted(m for m in sys.modules if m.startswith("medrecon.")))
"""


def import_without(*modules):
    command = [sys.executable, "-c", IMPORT_WITHOUT, *modules]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_networks_need_torch_alone():
    done = import_without(*NETWORKS)
    assert done.returncode == 0, done.stderr
    for name in NETWORKS:
        assert name in done.stdout.split()


def test_what_trains_needs_torch_and_numpy_alone():
    stems = {p.stem for p in (PACKAGE / "training").glob("*.py")} - FOR_AN_INSTALLATION - {"__init__"}
    done = import_without(*(f"medrecon.training.{stem}" for stem in sorted(stems)))
    assert done.returncode == 0, done.stderr


def test_the_check_notices_what_is_not_there():
    done = import_without("medrecon.networks.checkpoint")
    assert (
        done.returncode != 0 and "ModuleNotFoundError" in done.stderr and "medrecon.networks.checkpoint" in done.stderr
    )
