# SPDX-License-Identifier: Apache-2.0
"""What `medrecon plugins new` writes works before a line of it is changed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medrecon.errors import ConfigError
from medrecon.plugins.scaffold import KINDS, new_package

ROOT = Path(__file__).parents[2]


def run(*args, cwd, **environment):
    env = {k: v for k, v in os.environ.items() if k != "MEDRECON_PLUGINS"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=170)


def command(*args, cwd, **environment):
    return run("-m", "medrecon", *args, cwd=cwd, **environment)


@pytest.mark.parametrize("kind", KINDS)
def test_passes_its_own_tests_at_once(kind, tmp_path):
    done = command("plugins", "new", kind, "my-own2", "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    package = tmp_path / "here" / "medrecon-my-own2"
    assert str(Path("here") / "medrecon-my-own2") in done.stdout
    tested = run("-m", "pytest", "-q", "-n0", "-rs", "-p", "no:cacheprovider", cwd=package)
    assert tested.returncode == 0, tested.stdout
    skipped = [line for line in tested.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("takes one pair at a time" in line for line in skipped), tested.stdout
    # Found as an installed package would be: through what it says of itself.
    project = (package / "pyproject.toml").read_text()
    module = re.search(r'^\[project.entry-points.medrecon\]\nmy-own2 = "(\w+)"$', project, re.M)[1]
    path = os.pathsep.join([str(ROOT), str(package)])
    checked = command("plugins", "check", cwd=tmp_path, PYTHONPATH=path, MEDRECON_PLUGINS=module)
    assert checked.returncode == 0, checked.stdout
    listed = command("plugins", "list", kind, cwd=tmp_path, PYTHONPATH=path, MEDRECON_PLUGINS=module)
    assert "my-own2" in listed.stdout and "Apache-2.0" in listed.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_is_tidy(kind, tmp_path):
    package = new_package(kind, "own", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["medrecon-own"]
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)) and text.startswith("# SPDX-License-Identifier")
    assert not any("$" in p.read_text() for p in package.rglob("*") if p.is_file())
    ruff = shutil.which("ruff") or Path(sys.executable).parent / "ruff"
    if not Path(ruff).is_file():
        pytest.skip("ruff is not installed")
    for task in (["check", "--select", "E,F,I,W,UP,B", "--ignore", "E731,B905,UP037"], ["format", "--check"]):
        done = subprocess.run([ruff, *task, "--line-length", "120", package], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten(tmp_path):
    package = new_package("matcher", "own", tmp_path)
    (package / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        new_package("matcher", "own", tmp_path)
    assert (package / "README.md").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["medrecon-own"]


@pytest.mark.parametrize(
    "name", ["", "My", "my_own", "-own", "own-", "a--b", "2own", "../own", "own\n", "x" * 61, "medrecon-a"]
)
def test_names_that_cannot_be(name, tmp_path):
    with pytest.raises(ConfigError):
        new_package("matcher", name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_that_are_taken(tmp_path):
    with pytest.raises(ConfigError, match="already"):
        new_package("matcher", "nearest-neighbour", tmp_path)
    new_package("extractor", "nearest-neighbour", tmp_path)


def test_kinds_without_a_template(tmp_path):
    with pytest.raises(ConfigError, match="template"):
        new_package("renderer", "own", tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        new_package("matcher", "own", tmp_path / "file")


def test_templates_travel_with_the_package():
    pattern = re.search(r'^"medrecon.plugins" = \["(.+)"\]$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    folder = ROOT / "medrecon" / "plugins"
    packed = set(folder.glob(pattern))
    assert packed == {p for p in (folder / "templates").rglob("*") if p.is_file()} and len(packed) == 4 + 2 * len(KINDS)
