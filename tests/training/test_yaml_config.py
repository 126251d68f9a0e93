# SPDX-License-Identifier: Apache-2.0
"""Settings from YAML: what is written arrives, and what is wrong is named with file, line and key."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from medrecon.errors import ConfigError
from medrecon.training import yaml_config
from medrecon.training.kinds import settings_class
from medrecon.training.settings import Schedule


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, int] = (8, 8)
    rate: float = 1e-3


@dataclass(frozen=True)
class Settings:
    batch: int = 4
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    name: str | None = None

    def __post_init__(self):
        if self.batch < 1:
            raise ConfigError("batch must be at least 1", "batch: 1")


def load(tmp_path, text, *overrides):
    file = tmp_path / "t.yaml"
    file.write_text(text)
    return yaml_config.load_settings(Settings, "superpoint", file, overrides=overrides)[0]


def test_defaults_file_and_overrides_in_this_order(tmp_path):
    assert yaml_config.load_settings(Settings, "superpoint") == (Settings(), Schedule())
    text = "version: 1\nsuperpoint: {batch: 2, inner: {widths: [3, 5]}, maybe: {rate: 2}}\nsuperglue: {batch: 9}\n"
    found = load(tmp_path, text, "inner.rate=1e-4", "name=a")
    assert found == Settings(2, Inner((3, 5), 1e-4), Inner(rate=2.0), "a")
    assert isinstance(found.inner, Inner) and isinstance(found.inner.widths, tuple)


@pytest.mark.parametrize(
    "text, words",
    [
        ("superpoint: {batsch: 2}", ["t.yaml:1", "'batsch'", "did you mean 'batch'?"]),
        ("superpoint:\n  inner:\n    wdths: [1, 2]", ["t.yaml:3", "'inner.wdths'", "'widths'"]),
        ("superpoint:\n  maybe: {rat: 1}", ["t.yaml:2", "'maybe.rat'", "'rate'"]),
        ("superpoint:\n  inner: {rate: fast}", ["t.yaml:2", "superpoint.inner.rate", "'fast'"]),
        ("superpoint: {inner: {widths: [1, 2, 3]}}", ["superpoint.inner.widths"]),
        ("superpoint: {inner: 3}", ["superpoint.inner"]),
        ("superpoint: [1]", ["section 'superpoint'", "list"]),
        ("superpoint: {batch: 0}", ["batch must be at least 1"]),
        ("superpiont: {}", ["'superpiont'", "did you mean 'superpoint'?"]),
        ("version: 2", ["version 2"]),
        ("recipe: cpuu", ["'cpuu'"]),
        ("superpoint: {batch: 1, batch: 2}", ["duplicate key 'batch'"]),
        ("superpoint: !!python/object/apply:os.getcwd []", ["t.yaml:1"]),
        ("superpoint: &x {batch: 1}\nsuperglue: *x", ["aliases"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    for word in words:
        assert word in str(error.value)


def test_unknown_override_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'inner.widhts'"):
        yaml_config.load_settings(Settings, "superpoint", overrides=["inner.widhts=1,2"])


def test_the_length_given_last_counts(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text("superpoint: {schedule: {minutes: 3, warmup: 0.2}}")
    load = lambda **more: yaml_config.load_settings(Settings, "superpoint", file, **more)[1]
    assert load() == Schedule(minutes=3.0, warmup=0.2)
    assert load(steps=7) == load(overrides=["schedule.steps=7"]) == Schedule(steps=7, minutes=None, warmup=0.2)
    assert load(schedule=Schedule(minutes=9.0, log_every=5)) == Schedule(minutes=3.0, warmup=0.2, log_every=5)
    with pytest.raises(ConfigError, match="either steps or minutes"):
        load(steps=7, minutes=1.0)
    file.write_text("superpoint:\n  schedule: {minutse: 3}")
    with pytest.raises(ConfigError, match=r"t.yaml:2: superpoint.schedule: unknown key 'minutse'"):
        load()


@pytest.mark.parametrize("section", ["superpoint", "superglue"])
def test_every_recipe_of_the_package_is_sound(section):
    assert {"full", "cpu"} <= set(yaml_config.recipe_names())
    kind = settings_class(section)
    for name in yaml_config.recipe_names():
        assert isinstance(yaml_config.load_settings(kind, section, recipe=name)[0], kind)
    assert yaml_config.load_settings(kind, section, recipe="full") == (kind(), Schedule())
    assert yaml_config.load_settings(kind, section, recipe="cpu")[0] != kind()
