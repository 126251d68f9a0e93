# SPDX-License-Identifier: Apache-2.0
"""The worked example works as the tutorial says, and the tutorial shows what the example contains."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medrecon.config.run_config import load_config
from medrecon.plugins import hookspecs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "plugins" / "medrecon-locality"


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)


def python(*args, **environment):
    command = [sys.executable, *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def medrecon(*args, **environment):
    return python("-c", "import sys; from medrecon.cli import main; sys.exit(main())", *args, **environment)


def test_code_of_the_tutorial_is_that_of_the_package():
    written = [p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*") if p.suffix in (".py", ".toml")]
    shown = blocks(ROOT / "docs/plugins/tutorial.md", "python") + blocks(ROOT / "docs/plugins/tutorial.md", "toml")
    assert len(shown) >= 6
    for block in shown:
        assert any(block in text for text in written), f"not in the package:\n{block}"


def test_the_matcher_has_the_size_the_tutorial_promises():
    lines = (PACKAGE / "medrecon_locality" / "matcher.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 65


def test_found_without_installing():
    path = f"{ROOT}{os.pathsep}{PACKAGE}"
    done = medrecon("plugins", "list", "matcher", "--json", PYTHONPATH=path, MEDRECON_PLUGINS="medrecon_locality")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert "locality" in [c["name"] for c in listed["components"]]
    assert listed["problems"] == []


def test_found_through_its_entry_point_and_its_tests_pass(tmp_path):
    """Install into a folder of its own; discovery, the run schema and the package's own tests see it there."""
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    site = tmp_path / "site"
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = python(*pip, str(source))
    if "No module named pip" in done.stderr:
        pytest.skip("this environment has no pip")
    assert done.returncode == 0, done.stderr
    path = f"{ROOT}{os.pathsep}{site}"
    listed = json.loads(medrecon("plugins", "list", "matcher", "--json", PYTHONPATH=path).stdout)
    assert [c["plugin"] for c in listed["components"] if c["name"] == "locality"] == [
        "locality from medrecon-locality 0.1.0"
    ]
    assert listed["problems"] == []
    done = medrecon("plugins", "show", "matcher", "locality", PYTHONPATH=path)
    assert "how many surrounding matches are asked" in done.stdout
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(source / "tests"), PYTHONPATH=path)
    assert tests.returncode == 0, tests.stdout[-3000:]


def test_configuration_of_the_tutorial_is_valid_but_for_the_plugin_that_is_not_installed(tmp_path):
    (text,) = blocks(ROOT / "docs/plugins/tutorial.md", "yaml")
    (tmp_path / "clip.mp4").write_bytes(b"")
    plain = text.replace("locality", "nearest-neighbour").replace("agreement: 0.5", "ratio: 0.9")
    file = tmp_path / "run.yaml"
    file.write_text(plain, encoding="utf-8")
    assert load_config(file).sections["matching"].component.name == "nearest-neighbour"


def test_every_hook_is_documented_with_its_arguments():
    text = (ROOT / "docs/plugins/hooks.md").read_text(encoding="utf-8")
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("medrecon_") and inspect.isfunction(f)}
    assert len(hooks) >= 6
    for name, function in hooks.items():
        assert f"## {name}({', '.join(inspect.signature(function).parameters)})\n" in text
    documented = re.findall(r"^## (medrecon_\w+)\(", text, re.M)
    assert sorted(documented) == sorted(hooks)


def test_links_of_the_documents_lead_somewhere():
    for document in [*(ROOT / "docs/plugins").glob("*.md"), ROOT / "docs/conventions.md", PACKAGE / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
