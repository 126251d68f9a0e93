# SPDX-License-Identifier: Apache-2.0
"""The front end a run gets where it names none: the best one that is installed, fetched and permitted."""

import hashlib
import json

import pytest

from medrecon.assets import Asset, Carrier, License, accept
from medrecon.assets.places import place_of
from medrecon.config import ComponentConfig
from medrecon.config.run_config import load_config, preset_names
from medrecon.config.schema import json_schema
from medrecon.errors import ConfigError
from medrecon.plugins import Component, hookimpl
from medrecon.plugins.manager import Plugins

CONTENT = b"weights"
SOURCE = {"name": "image-folder", "path": "x"}
ALTERNATIVES = [
    {"features": {"name": "learned"}, "matching": {"name": "glue"}},
    {"features": {"name": "sift", "max_keypoints": 77}, "matching": {"name": "nearest-neighbour", "ratio": 0.7}},
]


class LearnedConfig(ComponentConfig):
    size: int = 1

    def assets(self):
        return ("learned-weights",)


class Learned:
    def __init__(self, config):
        self.config = config


class Plugin:
    @hookimpl
    def medrecon_components(self):
        here = __name__
        return [
            Component("extractor", "learned", f"{here}:Learned", f"{here}:LearnedConfig", "learned"),
            Component("matcher", "glue", f"{here}:Learned", f"{here}:LearnedConfig", "glue", accepts=("learned",)),
        ]

    @hookimpl
    def medrecon_assets(self):
        digest = hashlib.sha256(CONTENT).hexdigest()
        carrier = Carrier("some-package", "1.0", "wheel", "0" * 64, "weights.bin", 10)
        terms = License("strict", "Strict terms", "Somebody", "Research only.", "https://example.org")
        return [
            Asset(
                "learned-weights", "weights", "x", "LicenseRef-strict", "", len(CONTENT), digest, (carrier,), terms.name
            ),
            terms,
        ]


@pytest.fixture
def registry(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path / "home"))
    plugins = Plugins([("learned", "test", Plugin)])
    assert not plugins.problems
    monkeypatch.setattr("medrecon.plugins.manager.plugins", lambda: plugins)
    return plugins


def fetched(registry):
    from medrecon.assets import asset

    place = place_of(asset("learned-weights"))
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)


def names(config):
    return config.sections["features"].component.name, config.sections["matching"].component.name


def load(*overrides, **more):
    return load_config({"source": SOURCE, "front_ends": ALTERNATIVES, **more}, overrides)


def test_weights_that_are_not_here_are_passed_over_with_reason_and_remedy(registry):
    accept("strict")
    config = load()
    assert names(config) == ("sift", "nearest-neighbour")
    assert config.sections["features"].options.max_keypoints == 77
    assert config.sections["matching"].options.ratio == 0.7
    ((title, reason, remedy),) = config.choice.passed_over
    assert (title, reason) == ("learned+glue", "learned-weights not fetched")
    assert remedy == "medrecon weights fetch learned-weights"
    assert any("not learned+glue: learned-weights not fetched" in line for line in config.choice.lines())


def test_a_licence_that_is_not_accepted_is_a_reason_too(registry):
    fetched(registry)
    config = load()
    assert names(config) == ("sift", "nearest-neighbour")
    assert "--accept-license strict" in config.choice.passed_over[0][2]


@pytest.mark.parametrize("how", ["stored", "run"])
def test_the_first_usable_one_is_taken(registry, how):
    fetched(registry)
    if how == "stored":
        accept("strict")
    config = load(accept_licenses=["strict"] if how == "run" else [])
    assert names(config) == ("learned", "glue")
    assert config.choice.chosen == "learned+glue" and config.choice.passed_over == ()


def test_a_component_that_is_not_installed_is_passed_over(registry):
    absent = {"features": {"name": "nowhere"}, "matching": {"name": "glue"}}
    config = load(front_ends=[absent, ALTERNATIVES[1]])
    assert names(config) == ("sift", "nearest-neighbour")
    assert "'nowhere'" in config.choice.passed_over[0][1]


@pytest.mark.parametrize("explicit", ["features.name=orb", "matching.name=nearest-neighbour"])
def test_a_run_that_names_a_part_chooses_for_itself(registry, explicit):
    config = load(explicit)
    assert config.choice is None
    assert config.sections["features"].options.max_keypoints != 77


def test_other_options_go_on_top_of_the_choice(registry):
    config = load("features.max_keypoints=5", "matching.mutual=false")
    assert names(config) == ("sift", "nearest-neighbour")
    assert config.sections["features"].options.max_keypoints == 5
    assert config.sections["matching"].options.ratio == 0.7 and not config.sections["matching"].options.mutual


def test_the_resolved_run_names_its_parts_and_reads_back_the_same(registry):
    config = load()
    again = load_config(json.loads(json.dumps(config.to_dict())))
    assert again.choice is None and again.sections == config.sections


def test_one_alternative_can_be_asked_for(registry):
    fetched(registry)
    accept("strict")
    assert names(load()) == ("learned", "glue")
    config = load("front_end=sift+nearest-neighbour")
    assert names(config) == ("sift", "nearest-neighbour") and config.sections["features"].options.max_keypoints == 77
    again = load_config(json.loads(json.dumps(config.to_dict())))
    assert again.sections == config.sections


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["front_end=learned+glue"], "learned-weights"),
        (["front_end=orb+glue"], "learned.glue, sift.nearest-neighbour"),
        (["front_end=sift+nearest-neighbour", "features.name=orb"], "names features itself"),
    ],
)
def test_one_that_cannot_be_had_is_an_error(registry, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(*overrides)


@pytest.mark.parametrize(
    "alternatives",
    [
        "sift",
        [{"features": {"name": "sift"}}],
        [{"features": {"name": "sift"}, "matching": {}}],
        [{"features": {"name": "sift"}, "matching": {"name": "nearest-neighbour"}, "sfm": {"name": "global"}}],
        [{"features": {"name": "sift", "max_keypoint": 3}, "matching": {"name": "nearest-neighbour"}}],
        [ALTERNATIVES[0]],
    ],
)
def test_malformed_or_hopeless_lists_are_errors(registry, alternatives):
    with pytest.raises(ConfigError, match="front_ends"):
        load(front_ends=alternatives)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_works_with_nothing_fetched(registry, preset):
    config = load_config({"preset": preset, "source": SOURCE})
    assert names(config) == ("sift", "nearest-neighbour")


def test_the_schema_knows_the_list():
    assert json_schema()["properties"]["front_ends"]["type"] == "array"
