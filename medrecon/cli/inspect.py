# SPDX-License-Identifier: Apache-2.0
"""Commands that show what is there: plugins, config, doctor, selftest."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from medrecon.errors import PluginError


def add(app: typer.Typer) -> None:
    app.add_typer(_plugins(), name="plugins", help="List, show and check plugins.")
    app.add_typer(_config(), name="config", help="Show configurations, presets and the schema.")

    @app.command("doctor")
    def doctor():
        """Check the installation and say how to mend what is missing."""
        from medrecon.cli.doctor import report

        raise typer.Exit(0 if report() else 1)

    @app.command("selftest")
    def selftest(device: str = typer.Option("cpu", help="cpu or cuda")):
        """Check every kernel against the float64 reference on fresh random inputs."""
        from medrecon.ops.selftest import main

        raise typer.Exit(main(["--device", device]))


def _plugins() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @group.command("list")
    def list_command(
        kind: str | None = typer.Argument(None, help="Only this kind: extractor, matcher, ..."),
        as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
    ):
        """Every component, where it comes from and under what licence."""
        from medrecon.plugins import KINDS
        from medrecon.plugins.manager import plugins

        registry = plugins()
        if kind is not None and kind not in KINDS:
            from medrecon.errors import ConfigError

            raise ConfigError(f"{kind!r} is no kind of component", f"kinds: {', '.join(KINDS)}")
        found = registry.components(kind)
        if as_json:
            rows = [
                {
                    "kind": c.kind,
                    "name": c.name,
                    "plugin": registry.owner(c),
                    "license": c.license,
                    "summary": c.summary,
                    "accepts": list(c.accepts),
                }
                for c in found
            ]
            problems = [{"plugin": p.plugin, "cause": p.cause, "remedy": p.remedy} for p in registry.problems]
            print(json.dumps({"components": rows, "problems": problems}, indent=1))
            return
        width = max((len(_terms(c.license)[0]) for c in found), default=0)
        for c in found:
            owner = registry.owner(c)
            origin = "" if owner.startswith("medrecon from medrecon (built in)") else f"  [{owner}]"
            spdx, words = _terms(c.license)
            print(f"{c.kind:10} {c.name:18} {spdx:{width}}  {c.summary}{origin}")
            if words:
                print(f"{'':29} {'':{width}}  {words}")
        for p in registry.problems:
            print(f"BROKEN     {p.plugin}: {p.cause}\n           try: {p.remedy}")

    @group.command("show")
    def show(kind: str = typer.Argument(...), name: str = typer.Argument(...)):
        """One component with every option, its default and what it means."""
        from medrecon.plugins.manager import plugins

        registry = plugins()
        c = registry.component(kind, name)
        print(f"{c.kind} {c.name}: {c.summary}\nfrom {registry.owner(c)}, licence {c.license}, {c.factory}")
        if c.kind == "matcher":
            print(f"accepts features of: {'any extractor' if '*' in c.accepts else ', '.join(c.accepts)}")
        print("options:")
        for key, field in c.load_config().model_fields.items():
            default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
            print(f"  {field.alias or key} ({default}): {field.description or ''}")

    @group.command("check")
    def check():
        """Load every component and report each plugin that is broken, by name."""
        from medrecon.plugins.manager import plugins

        registry = plugins()
        problems = registry.check()
        for p in problems:
            print(f"BROKEN  {p.plugin}: {p.cause}\n        try: {p.remedy}")
        if problems:
            raise PluginError(f"{len(problems)} problem(s) in the installed plugins", "see above")
        print(f"{len(registry.components())} components of {len(registry.loaded)} plugin(s) are sound")

    @group.command("new")
    def new(
        kind: str = typer.Argument(..., help="matcher, extractor or pairing"),
        name: str = typer.Argument(..., help="What users will write in their YAML: my-own."),
        out: Path = typer.Option(Path("."), "--out", metavar="DIR", help="Where the package's folder is made."),
    ):
        """Write a package with a component that works and tests that pass: change it into your own."""
        from medrecon.plugins.scaffold import new_package

        folder = new_package(kind, name, out)
        files = "\n".join(f"  {p.relative_to(folder).as_posix()}" for p in sorted(folder.rglob("*")) if p.is_file())
        print(f"{folder}\n{files}\nnext: cd {folder}; python -m pytest; pip install -e .; medrecon plugins check")

    return group


def _terms(license: str) -> tuple[str, str]:
    """A component's licence as the expression and the words that may follow it."""
    spdx, _, words = license.partition(";")
    return spdx.strip(), words.strip()


def _config() -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @group.command("presets")
    def presets():
        """Names of the presets and what each is for."""
        from medrecon.config.run_config import PRESETS, preset_names

        for name in preset_names():
            print(f"{name:12} {(PRESETS / f'{name}.yaml').read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")

    @group.command("show")
    def show(
        config: Path | None = typer.Argument(None, help="YAML file; without it, a preset on its own."),
        preset: str | None = typer.Option(None, "--preset", help="Preset to start from."),
        override: list[str] = typer.Option([], "-o", "--override", metavar="KEY=VALUE"),
    ):
        """Print the configuration as it would run, every default written out."""
        import yaml

        import medrecon

        if config is None:
            base = {"version": 1, "source": {"name": "image-folder", "path": "PATH"}}
            resolved = medrecon.load_config({**base, **({"preset": preset} if preset else {})}, override)
        else:
            resolved = medrecon.load_config(config, [*override, *([f"preset={preset}"] if preset else [])])
        print(yaml.safe_dump(resolved.to_dict(), sort_keys=False, allow_unicode=True), end="")

    @group.command("schema")
    def schema():
        """Print the JSON Schema of a configuration for the installed set of plugins (for editors)."""
        from medrecon.config.schema import json_schema

        print(json.dumps(json_schema(), indent=1))

    return group
