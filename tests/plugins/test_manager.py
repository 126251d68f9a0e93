# SPDX-License-Identifier: Apache-2.0
"""Hooks, and that no broken plugin harms the rest."""

import re
import subprocess
import sys
import types
from dataclasses import replace

import pytest

from medrecon import assets
from medrecon.assets import Asset, Carrier, License, Url
from medrecon.errors import AssetError, ConfigError, PluginError
from medrecon.plugins import API_VERSION, Component, hookimpl, hookspecs
from medrecon.plugins.manager import Plugins


def plugin(**functions):
    """A plugin module with the given hook implementations."""
    module = types.ModuleType("a_plugin")
    for name, function in functions.items():
        function.__name__ = name
        setattr(module, name, hookimpl(function))
    return module


def load(*modules, names=None):
    return Plugins([(names[i] if names else f"p{i}", f"package{i} 1.0", lambda m=m: m) for i, m in enumerate(modules)])


GOOD = Component("metric", "zero", "tests_zero:Zero", "tests_zero:ZeroConfig", "always zero")


def test_hook_medrecon_components_adds_a_component_that_can_be_created(monkeypatch):
    from medrecon.config import ComponentConfig

    class ZeroConfig(ComponentConfig):
        offset: float = 0.0

    class Zero:
        def __init__(self, config):
            self.config = config

        def measure(self, image, reference, mask=None):
            return self.config.offset

    module = types.ModuleType("tests_zero")
    module.Zero, module.ZeroConfig = Zero, ZeroConfig
    monkeypatch.setitem(sys.modules, "tests_zero", module)
    registry = load(plugin(medrecon_components=lambda: [GOOD]))
    assert registry.problems == []
    assert registry.create("metric", "zero", offset=2.0).measure(None, None) == 2.0
    with pytest.raises(ConfigError, match="unknown key 'ofset'.*\n.*did you mean 'offset'"):
        registry.create("metric", "zero", ofset=2.0)


MINE = Asset("mine", "weights", "my weights", "MIT", "", 3, "a" * 64, (Url("https://example.org/mine.pth"),))
TERMS = License("my-terms", "Terms", "Me", "Look, do not touch.", "https://example.org/terms")


def test_hook_medrecon_assets_adds_to_the_catalogue(monkeypatch):
    closed = replace(MINE, name="closed", acceptance="my-terms")
    registry = load(plugin(medrecon_assets=lambda: [MINE, closed, TERMS]))
    assert registry.problems == []
    monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: registry)
    assert assets.asset("mine") is MINE and assets.asset("closed").acceptance == "my-terms"
    assert assets.entries("weights")[0].name == "superpoint"  # our own stay first
    assert assets.license_terms("my-terms") is TERMS


@pytest.mark.parametrize(
    "returned, cause",
    [
        (lambda: 1 / 0, "medrecon_assets.. raised ZeroDivisionError"),
        (lambda: {"mine": MINE}, "returned dict, not a list"),
        (lambda: ["mine"], "holds str, not a Asset or License"),
        (lambda: [MINE, MINE], "asset 'mine' is already provided by p0"),
        (lambda: [replace(MINE, name="superpoint")], "asset 'superpoint' is already provided by medrecon"),
        (lambda: [replace(MINE, name="../mine")], "must be lower case"),
        (lambda: [replace(MINE, name=None)], "must be lower case"),
        (lambda: [replace(MINE, sha256="abc")], "64 hexadecimal digits"),
        (lambda: [replace(MINE, sources=())], "no sources"),
        (lambda: [replace(MINE, sources=("https://example.org/mine.pth",))], "a source is str"),
        (lambda: [replace(MINE, sources=(Url("file:///etc/passwd"),))], "no web address"),
        (lambda: [replace(MINE, sources=(Url("https://example.org/.."),))], "ends in no file name"),
        (lambda: [replace(MINE, sources=3, size_bytes="3")], "not a number of bytes"),
        (lambda: [replace(MINE, sources=(Carrier(1, 2, "wheel", "a" * 64, None, 3),))], "holds Asset.*AttributeError"),
        (lambda: [replace(MINE, sources=(Url(None),))], "None is no web address"),
        (lambda: [replace(MINE, acceptance="my-terms")], "there is no licence 'my-terms' to accept"),
        (lambda: [replace(TERMS, terms="")], "has no terms"),
    ],
)
def test_bad_assets_are_named_and_the_rest_works(returned, cause):
    registry = load(plugin(medrecon_assets=returned), plugin(medrecon_assets=lambda: [replace(MINE, name="other")]))
    (problem,) = registry.problems
    assert re.search(cause, problem.cause) and problem.plugin == "p0 from package0 1.0" and problem.remedy
    assert registry.assets()[-1].name == "other"


def test_an_asset_that_a_broken_plugin_should_bring_names_the_plugin(monkeypatch):
    registry = load(plugin(medrecon_assets=lambda: 1 / 0))
    monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: registry)
    with pytest.raises(AssetError, match="called 'mine' .but: p0 from package0 1.0 medrecon_assets.. raised ZeroDiv"):
        assets.asset("mine")


def test_hook_medrecon_commands_adds_a_command(monkeypatch, capsys):
    def medrecon_commands(cli):
        @cli.command("hello")
        def hello():
            print("hello from a plugin")

    monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: load(plugin(medrecon_commands=medrecon_commands)))
    from medrecon.cli import main

    assert main(["hello"]) == 0
    assert capsys.readouterr().out == "hello from a plugin\n"


@pytest.mark.parametrize(
    "hook, arguments",
    [
        ("medrecon_run_started", {"run_dir": "d", "config": {"seed": 1}}),
        ("medrecon_stage_started", {"run_dir": "d", "stage": "sfm"}),
        ("medrecon_stage_finished", {"run_dir": "d", "stage": "sfm", "seconds": 1.5, "cached": False}),
        ("medrecon_run_finished", {"run_dir": "d", "result": {"psnr_db": 30.0}}),
    ],
)
def test_observer_hooks_are_called_and_one_that_raises_does_not_stop_the_others(hook, arguments):
    seen = []
    names = ", ".join(arguments)
    scope = {"seen": seen}
    exec(f"def watch({names}): seen.append(dict({', '.join(f'{n}={n}' for n in arguments)}))", scope)
    exec(f"def broken({names}): raise RuntimeError('observer broke')", scope)
    registry = load(plugin(**{hook: scope["watch"]}), plugin(**{hook: scope["broken"]}), names=["watcher", "breaker"])
    problems = registry.notify(hook, **arguments)
    assert seen == [arguments]
    assert [p.plugin for p in problems] == ["breaker from package1 1.0"]
    assert "observer broke" in problems[0].cause


def test_every_hook_has_a_test_and_is_documented(request):
    from pathlib import Path

    root = Path(request.config.rootpath)
    here = Path(__file__).read_text(encoding="utf-8")
    page = (root / "docs" / "plugins" / "hooks.md").read_text(encoding="utf-8")
    hooks = [n for n in vars(hookspecs) if n.startswith("medrecon_")]
    assert len(hooks) == 7
    for name in hooks:
        assert here.count(name) >= 1, f"{name} has no test"
        assert name in page, f"{name} is not in docs/plugins/hooks.md"


def raising():
    raise ImportError("no module named gone")


@pytest.mark.parametrize(
    "loader, words",
    [
        (raising, "cannot be imported: ImportError: no module named gone"),
        (lambda: sys.exit(3), "cannot be imported: SystemExit"),
        (lambda: types.ModuleType("empty"), "implements no hook"),
        (lambda: plugin(medrecon_componets=lambda: []), "did you mean ['medrecon_components']"),
        (lambda: plugin(medrecon_components=lambda wrong_argument: []), "wrong_argument"),
        (lambda: plugin(medrecon_components=lambda: "rubbish"), "returned str, not a list"),
        (lambda: plugin(medrecon_components=lambda: [42]), "holds int, not a Component"),
        (lambda: plugin(medrecon_components=lambda: 1 / 0), "raised ZeroDivisionError"),
        (lambda: plugin(medrecon_components=lambda: [Component("matcher", "sift matcher", "a:B", "a:C", "x")]), "must be lower case"),
        (lambda: plugin(medrecon_components=lambda: [Component("machter", "x", "a:B", "a:C", "x")]), "kind 'machter' is not known"),
        (lambda: plugin(medrecon_components=lambda: [Component("matcher", "x", "os.system('x')", "a:C", "x")]), "not an import string"),
        (lambda: plugin(medrecon_components=lambda: [Component("extractor", "sift", "a:B", "a:C", "x")]), "already provided by medrecon"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_reported_by_name_and_nothing_else_breaks(loader, words):
    healthy = plugin(medrecon_components=lambda: [GOOD])
    registry = Plugins([("bad", "bad-package 0.1", loader), ("good", "good-package 1.0", lambda: healthy)])
    assert [p.plugin for p in registry.problems] == ["bad from bad-package 0.1"]
    assert words in registry.problems[0].cause
    assert registry.component("metric", "zero") is GOOD
    assert registry.component("extractor", "sift").factory.startswith("medrecon.")


def test_wrong_api_version_is_refused():
    old = plugin(medrecon_components=lambda: [GOOD])
    old.MEDRECON_API_VERSION = API_VERSION + 1
    registry = load(old)
    assert f"plugin API {API_VERSION + 1}" in registry.problems[0].cause
    with pytest.raises(ConfigError, match="no metric named 'zero'"):
        registry.component("metric", "zero")


def test_check_finds_components_that_do_not_load_or_fit(monkeypatch):
    module = types.ModuleType("tests_unfit")
    module.Unfit, module.UnfitConfig = type("Unfit", (), {}), type("UnfitConfig", (), {})
    monkeypatch.setitem(sys.modules, "tests_unfit", module)
    unfit = Component("matcher", "unfit", "tests_unfit:Unfit", "tests_unfit:UnfitConfig", "x")
    gone = Component("matcher", "gone", "tests_gone_module:X", "tests_gone_module:Y", "x")
    registry = load(plugin(medrecon_components=lambda: [unfit, gone]))
    assert registry.problems == []
    causes = [p.cause for p in registry.check() if p.plugin.startswith("p0")]
    assert any("'unfit' lacks match" in c for c in causes)
    assert any("'unfit': its config is no pydantic model" in c for c in causes)
    assert any("'gone' cannot be loaded" in c for c in causes)


def test_all_builtins_are_sound():
    assert Plugins([]).check() == []


def test_unknown_component_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'sift'"):
        Plugins([]).component("extractor", "shift")


def test_factory_that_fails_is_a_plugin_error(monkeypatch):
    from medrecon.config import ComponentConfig

    module = types.ModuleType("tests_fails")
    module.Fails = lambda config: 1 / 0
    module.FailsConfig = type("FailsConfig", (ComponentConfig,), {})
    monkeypatch.setitem(sys.modules, "tests_fails", module)
    registry = load(plugin(medrecon_components=lambda: [Component("metric", "f", "tests_fails:Fails", "tests_fails:FailsConfig", "x")]))  # fmt: skip
    with pytest.raises(PluginError, match="does not start: ZeroDivisionError") as caught:
        registry.create("metric", "f")
    assert caught.value.exit_code == 5


def test_environment_variable_adds_a_plugin_without_installing_it(tmp_path):
    (tmp_path / "my_plugin.py").write_text(
        "from medrecon.plugins import Component, hookimpl\n"
        "class P:\n"
        "    @hookimpl\n"
        "    def medrecon_components(self):\n"
        "        return [Component('metric', 'mine', 'my_plugin:M', 'my_plugin:C', 'mine')]\n"
        "plug = P()\n"
    )
    code = "from medrecon.plugins.manager import plugins; print(plugins().component('metric', 'mine').factory, plugins().problems)"
    env = {"PYTHONPATH": f"{tmp_path}:.", "MEDRECON_PLUGINS": "my_plugin:plug", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "my_plugin:M []", done.stderr


def test_listing_plugins_imports_nothing_heavy():
    code = (
        "import sys; from medrecon.plugins.manager import plugins; plugins().components();"
        "print(sorted(m for m in ('torch', 'cv2', 'pycolmap', 'vtk', 'scipy') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
