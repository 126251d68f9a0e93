# SPDX-License-Identifier: Apache-2.0
"""Presets, overrides, validation and the schema."""

import json

import pytest

from medrecon.config.run_config import load_config, merge, parse_override, preset_names
from medrecon.config.schema import json_schema
from medrecon.errors import ConfigError

MINIMAL = "version: 1\nsource: {name: image-folder, path: pictures}\n"


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_minimal_file_gets_every_default_and_reads_back_the_same(tmp_path):
    config = load_config(write(tmp_path, MINIMAL))
    assert config.sections["features"].component.name == "sift"
    assert config.sections["source"].options.path == tmp_path / "pictures"  # relative to the file
    again = load_config(config.to_dict())
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("name", ["endoscopy", "orbit", "microscopy", "fast-cpu", "xray"])
def test_presets_are_valid(name):
    assert name in preset_names()
    config = load_config({"preset": name, "source": {"name": "image-folder", "path": "x"}})
    assert config.options.preset == name


def test_file_wins_over_preset_and_override_over_file(tmp_path):
    path = write(tmp_path, MINIMAL + "preset: orbit\nfeatures: {max_keypoints: 111}\n")
    assert load_config(path).sections["features"].options.max_keypoints == 111
    config = load_config(path, ["features.max_keypoints=222", "seed=7"])
    assert config.sections["features"].options.max_keypoints == 222
    assert config.options.seed == 7


def test_another_component_does_not_inherit_the_options_of_the_presets_one():
    base = {"features": {"name": "sift", "max_keypoints": 5, "root": True}}
    assert merge(base, {"features": {"name": "orb"}})["features"] == {"name": "orb"}
    assert merge(base, {"features": {"max_keypoints": 6}})["features"] == {
        "name": "sift",
        "max_keypoints": 6,
        "root": True,
    }


def test_override_is_parsed_as_yaml():
    assert parse_override("a.b.c=[1, x]") == {"a": {"b": {"c": [1, "x"]}}}
    assert parse_override("a.b=true") == {"a": {"b": True}}


@pytest.mark.parametrize(
    "extra, words, hint",
    [
        ("featurs: {name: sift}\n", "run.yaml:3: unknown section 'featurs'", "did you mean 'features'"),
        ("features: {name: sift, max_keypoint: 5}\n", "run.yaml:3: features: unknown key 'max_keypoint'", "did you mean 'max_keypoints'"),
        ("features:\n  name: shift\n", "no extractor named 'shift'", "did you mean 'sift'"),
        ("features:\n  max_keypoints: many\n", "run.yaml:4: features.max_keypoints", "max_keypoints"),
        ("features: 3\n", "section 'features' must be a mapping", "indented"),
        ("features: [sift]\n", "section 'features' must be a mapping", ""),
        ("seed: -1\n", "seed", ""),
        ("seed: 1.5\n", "seed", ""),
        ("version: 2\n", "duplicate key 'version'", ""),
        ("device: tpu\n", "device", ""),
        ("preset: endo\n", "no preset 'endo'", "endoscopy"),
        ("preset: [a]\n", "no preset ['a']", ""),
        ("name: ../../etc/passwd\n", "name", ""),
        ("matching: {name: nearest-neighbour, ratio: .nan}\n", "matching.ratio", ""),
        ("export: [plyy]\n", "no exporter named 'plyy'", "did you mean 'ply'"),
        ("analysis: {geometry: {unknown: 1}}\n", "analysis.geometry: unknown key 'unknown'", ""),
    ],
)  # fmt: skip
def test_mistakes_name_file_line_key_and_the_likely_meaning(tmp_path, extra, words, hint):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL + extra))
    assert words in caught.value.cause
    assert hint in str(caught.value)
    assert caught.value.exit_code == 2


def test_source_must_be_named():
    with pytest.raises(ConfigError, match="section 'source' needs a name"):
        load_config({"version": 1})
    with pytest.raises(ConfigError, match="key 'path' is required"):
        load_config({"version": 1, "source": {"name": "video"}})


@pytest.mark.parametrize("text", ["noequals", "=3", "a..b=1", ".a=1"])
def test_malformed_override(text):
    with pytest.raises(ConfigError, match="section.key=value"):
        parse_override(text)


def test_schema_describes_the_installed_components():
    schema = json_schema()
    names = [c["properties"]["name"]["const"] for c in schema["properties"]["features"]["oneOf"]]
    assert {"sift", "surf", "orb"} <= set(names)
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_components_compute_where_the_run_computes_unless_they_say_otherwise():
    given = {"source": {"name": "image-folder", "path": "x"}, "features": {"name": "superpoint"}, "device": "cpu"}
    assert load_config(given).sections["features"].options.device == "cpu"
    given["matching"] = {"name": "superglue", "device": "cuda"}
    assert load_config(given).sections["matching"].options.device == "cuda"
    del given["device"]
    assert load_config(given).sections["features"].options.device == "auto"
