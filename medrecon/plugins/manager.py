# SPDX-License-Identifier: Apache-2.0
"""Loads plugins, keeps the broken ones from harming the rest, and hands out components."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pluggy

from medrecon.assets.catalogue import Asset, License
from medrecon.assets.shipped import NETWORKS
from medrecon.errors import ConfigError, MedreconError, PluginError
from medrecon.plugins import hookspecs
from medrecon.plugins.component import Component
from medrecon.plugins.discovery import discover

BUILTIN = "medrecon (built in)"
# hook -> what it returns a list of
_COLLECTED: dict[str, tuple[type, ...]] = {"medrecon_components": (Component,), "medrecon_assets": (Asset, License)}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one plugin."""

    plugin: str
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """One plugin that was found and accepted."""

    name: str
    package: str
    hooks: tuple[str, ...]


class Plugins:
    """All plugins of this process.

    Args:
        discovered: (name, package, loader) of each plugin; default: entry points, then ``MEDRECON_PLUGINS``.
    """

    def __init__(self, discovered: Iterable[tuple[str, str, Callable[[], Any]]] | None = None):
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.problems: list[Problem] = []
        self.loaded: list[Loaded] = []
        self._owner: dict[tuple[str, str], str] = {}
        self._kept: dict[tuple[str, str], Component | Asset | License] = {}
        import medrecon.builtins

        self._add("medrecon", BUILTIN, lambda: medrecon.builtins)
        for name, package, load in discover() if discovered is None else discovered:
            self._add(name, package, load)

    # -- loading ---------------------------------------------------------------------------------------------------
    def _problem(self, plugin: str, cause: str, remedy: str) -> None:
        self.problems.append(Problem(plugin, cause, remedy))

    def _add(self, name: str, package: str, load: Callable[[], Any]) -> None:
        """Import, register and collect one plugin; any failure is recorded under its name and goes no further."""
        who = f"{name} from {package}"
        try:
            plugin = load()
        except BaseException as e:  # a plugin's import may even call sys.exit
            if isinstance(e, KeyboardInterrupt):
                raise
            self._problem(who, f"cannot be imported: {type(e).__name__}: {e}", "reinstall or uninstall the package")
            return
        wanted = getattr(plugin, "MEDRECON_API_VERSION", hookspecs.API_VERSION)
        if wanted != hookspecs.API_VERSION:
            self._problem(
                who,
                f"was written for plugin API {wanted}, this is API {hookspecs.API_VERSION}",
                "install a release of the plugin for this version of medrecon",
            )
            return
        try:
            self.manager.register(plugin, name=who)
            self.manager.check_pending()
        except Exception as e:
            if self.manager.has_plugin(who):
                self.manager.unregister(name=who)
            known = sorted(n for n in vars(hookspecs) if n.startswith("medrecon_"))
            hint = ""
            for bad in (n for n in dir(plugin) if n.startswith("medrecon_") and n not in known):
                hint += f" (did you mean {difflib.get_close_matches(bad, known, 1) or known} for {bad!r}?)"
            self._problem(who, f"is refused: {e}{hint}", "see the list of hooks in docs/plugins/hooks.md")
            return
        hooks = tuple(sorted(c.name for c in self.manager.get_hookcallers(plugin) or ()))
        if not hooks:
            self._problem(who, "implements no hook", "mark its functions with @medrecon.plugins.hookimpl")
            return
        self.loaded.append(Loaded(name, package, hooks))
        for hook in _COLLECTED:
            if hook in hooks:
                self._collect(plugin, who, hook)

    def _collect(self, plugin: Any, who: str, hook: str) -> None:
        try:
            found = getattr(plugin, hook)()
        except Exception as e:
            self._problem(who, f"{hook}() raised {type(e).__name__}: {e}", "report it to its author")
            return
        if not isinstance(found, (list, tuple)):
            self._problem(who, f"{hook}() returned {type(found).__name__}, not a list", "return a list")
            return
        for thing in sorted(found, key=lambda t: not isinstance(t, License)):  # an asset may name a licence beside it
            try:
                self._keep(thing, who, hook)
            except MedreconError as e:
                self._problem(who, e.cause, e.remedy)
            except Exception as e:  # a field of a wrong type, for example
                self._problem(who, f"{hook}() holds {thing!r}: {type(e).__name__}: {e}", "report it to its author")

    def _keep(self, thing: Any, who: str, hook: str) -> None:
        """Take what a hook returned.  Raises PluginError: not what the hook is for, not valid, or a name in use."""
        types = _COLLECTED[hook]
        if not isinstance(thing, types):
            right = " or ".join(t.__name__ for t in types)
            raise PluginError(f"{hook}() holds {type(thing).__name__}, not a {right}", f"use {right}")
        thing.validate()
        what = thing.kind if isinstance(thing, Component) else type(thing).__name__.lower()
        key = (what, thing.name)
        if key in self._kept:
            raise PluginError(
                f"{what} {thing.name!r} is already provided by {self._owner[key]}; the one from {who} is ignored",
                "uninstall one of the two, or ask an author to rename it",
            )
        ours = isinstance(thing, Asset) and (thing.name in NETWORKS or thing.shipped)
        if ours and who != f"medrecon from {BUILTIN}":
            raise PluginError(
                f"asset {thing.name!r}: only weights of medrecon itself are such", "rename it; use Carrier"
            )
        if isinstance(thing, Asset) and thing.acceptance and ("license", thing.acceptance) not in self._kept:
            raise PluginError(
                f"asset {thing.name!r}: there is no licence {thing.acceptance!r} to accept",
                "return a License of that name from the same hook",
            )
        self._kept[key], self._owner[key] = thing, who

    # -- handing out -----------------------------------------------------------------------------------------------
    def components(self, kind: str | None = None) -> list[Component]:
        """Registered components, built-ins first."""
        return [c for (k, _), c in self._kept.items() if isinstance(c, Component) and kind in (None, k)]

    def assets(self) -> list[Asset]:
        """Weights and data sets of the catalogue, our own first."""
        return [a for a in self._kept.values() if isinstance(a, Asset)]

    def licenses(self) -> list[License]:
        """Licences that some asset wants accepted."""
        return [x for x in self._kept.values() if isinstance(x, License)]

    def owner(self, component: Component) -> str:
        return self._owner[(component.kind, component.name)]

    def component(self, kind: str, name: str) -> Component:
        """Raises ConfigError with the nearest names when there is none."""
        try:
            return self._kept[(kind, name)]
        except KeyError:
            names = [c.name for c in self.components(kind)]
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            broken = "; ".join(f"{p.plugin} {p.cause}" for p in self.problems)
            raise ConfigError(
                f"there is no {kind} named {name!r}" + (f" (but: {broken})" if broken else ""),
                f"{hint}there are: {', '.join(names) or 'none'} (`medrecon plugins list`)",
            ) from None

    def create(self, kind: str, name: str, **options: Any) -> Any:
        """A ready component.  Raises ConfigError for bad options, PluginError when its own code fails."""
        from medrecon.config.validation import validate_options

        component = self.component(kind, name)
        return self.build(component, validate_options(component.load_config(), options, f"{kind} {name}"))

    def build(self, component: Component, config: Any) -> Any:
        """Call the factory and check that what comes back can do what its kind must do."""
        try:
            made = component.load_factory()(config)
        except MedreconError:
            raise
        except Exception as e:
            raise PluginError(
                f"{component.kind} {component.name!r} ({self.owner(component)}) does not start:"
                f" {type(e).__name__}: {e}",
                "run `medrecon plugins check`, or report it to the author",
            ) from e
        missing = missing_methods(component.kind, made)
        if missing:
            raise PluginError(
                f"{component.kind} {component.name!r} ({self.owner(component)}) lacks {', '.join(missing)}",
                "see the contract of its kind in medrecon/plugins/contracts.py",
            )
        return made

    def check(self) -> list[Problem]:
        """Everything wrong with the installed set: load problems, and components that do not load or fit."""
        found = list(self.problems)
        for c in self.components():
            try:
                factory, config = c.load_factory(), c.load_config()
            except MedreconError as e:
                found.append(Problem(self.owner(c), e.cause, e.remedy))
                continue
            missing = missing_methods(c.kind, factory)
            if missing:
                found.append(Problem(self.owner(c), f"{c.kind} {c.name!r} lacks {', '.join(missing)}", "add them"))
            if not hasattr(config, "model_validate"):
                found.append(
                    Problem(
                        self.owner(c),
                        f"{c.kind} {c.name!r}: its config is no pydantic model",
                        "derive it from medrecon.config.ComponentConfig",
                    )
                )
        return found

    def notify(self, hook: str, **arguments: Any) -> list[Problem]:
        """Call an observer hook on every plugin; one that raises is reported and does not stop the others."""
        problems = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                impl.function(*(arguments[a] for a in impl.argnames))
            except Exception as e:
                problems.append(
                    Problem(impl.plugin_name, f"{hook} raised {type(e).__name__}: {e}", "report it to its author")
                )
        return problems


def missing_methods(kind: str, thing: Any) -> list[str]:
    """Names of the contract's methods that ``thing`` (a class or an instance) does not have."""
    from medrecon.plugins.contracts import CONTRACTS

    if kind == "renderer":
        wanted = ["setup", "render", "loss", "density"]
    else:
        wanted = [n for n, f in vars(CONTRACTS[kind]).items() if inspect.isfunction(f) and not n.startswith("_")]
    return [n for n in wanted if not callable(getattr(thing, n, None))]


@lru_cache(maxsize=1)
def plugins() -> Plugins:
    """The plugins of this process, loaded on first use."""
    return Plugins()
