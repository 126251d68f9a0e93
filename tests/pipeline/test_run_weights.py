# SPDX-License-Identifier: Apache-2.0
"""A run looks for all its weights before any work, and names those it used with their licences."""

import json
import sys
from pathlib import Path

import pytest

import medrecon
from medrecon import assets
from medrecon.config.run_config import load_config
from medrecon.errors import AssetError
from medrecon.pipeline.cache import stage_keys
from medrecon.pipeline.display import Display
from medrecon.pipeline.weights import needed, used
from medrecon.plugins.manager import plugins

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("assets", "cli")]
import bad_inputs  # noqa: E402
from asset_makers import CONTENT, isolate, sha, wheel  # noqa: E402

PLUGIN = """
from pathlib import Path
import medrecon
from medrecon import assets
from medrecon.config import ComponentConfig
from medrecon.networks.weights import Weights, weights_assets
from medrecon.plugins import Component, hookimpl


class LearnedConfig(ComponentConfig):
    weights: Weights = "open"

    def assets(self):
        return weights_assets(self.weights)


class Learned:
    def __init__(self, config):
        self.config = config
        self.sift = medrecon.create("extractor", "sift")

    def extract(self, image, mask=None):
        for name in (*self.config.assets(), "extra"):  # what it does not announce is noted all the same
            assets.require(name)
        return self.sift.extract(image, mask)


class JudgeConfig(ComponentConfig):
    def assets(self):
        return ("closed",)


class Judge:
    def __init__(self, config):
        assets.require("closed")

    def match(self, a, b):
        raise AssertionError("not asked to")


@hookimpl
def medrecon_components():
    return [
        Component("extractor", "learned", "learned_plugin:Learned", "learned_plugin:LearnedConfig", "learned"),
        Component("matcher", "judge", "learned_plugin:Judge", "learned_plugin:JudgeConfig", "learned"),
    ]


@hookimpl
def medrecon_assets():
    from asset_makers import TERMS, carrier, thing

    source = carrier(Path(WHEEL))
    closed = thing(source, name="closed", acceptance="my-terms")
    return [TERMS, thing(source, name="open"), thing(source, name="extra"), closed]
"""


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """A configuration of an extractor and a matcher of an installed plugin that need weights."""
    isolate(tmp_path, monkeypatch)
    file = wheel(tmp_path / "links", {"carrier/w.bin": CONTENT})
    (tmp_path / "learned_plugin.py").write_text(f"WHEEL = {str(file)!r}\n{PLUGIN}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MEDRECON_PLUGINS", "learned_plugin")
    plugins.cache_clear()
    pictures = bad_inputs.pictures(tmp_path / "in", [bad_inputs.textured(i) for i in range(3)])
    yield {
        "version": 1,
        "source": {"name": "image-folder", "path": str(pictures)},
        "features": {"name": "learned"},
        "matching": {"name": "judge"},
    }
    sys.modules.pop("learned_plugin", None)
    plugins.cache_clear()


def run(data, out, **more):
    return medrecon.run(load_config({**data, **more}), out, until="features", display=Display(quiet=True))


def test_everything_missing_is_named_at_once_before_any_work(learned, tmp_path):
    assert needed(load_config(learned)) == ["open", "closed"]
    with pytest.raises(AssetError, match="open not fetched; licence my-terms of closed not accepted") as e:
        run(learned, tmp_path / "out")
    assert e.value.remedy == "medrecon weights fetch open closed --accept-license my-terms"
    assert not (tmp_path / "out" / "stages").exists()
    with pytest.raises(AssetError, match="the run lacks: open not fetched; closed not fetched\n") as e:
        run(learned, tmp_path / "out", accept_licenses=["my-terms"])
    assert e.value.remedy.endswith("--accept-license my-terms")  # what a run file accepts is not stored
    assets.fetch("open")
    assets.path("open").write_bytes(b"tampered")
    with pytest.raises(AssetError, match="open changed since it was fetched"):
        run(learned, tmp_path / "out", accept_licenses=["my-terms"])


@pytest.mark.parametrize("how", ["run file", "stored"])
def test_weights_and_acceptance_stand_in_manifest_result_and_report(learned, tmp_path, how):
    assets.accept("my-terms")
    for name in ("open", "closed", "extra"):
        assets.fetch(name)
    if how == "run file":
        (tmp_path / "home" / "licenses" / "my-terms.json").unlink()
        learned["accept_licenses"] = ["my-terms"]
    learned["features"]["weights"] = "closed"
    out = tmp_path / "out"
    for again in (False, True):  # the second time the stages are reused, and their weights named all the same
        run(learned, out)
        manifest = json.loads((out / "manifest.json").read_text())
        assert all(s["cached"] == again for s in manifest["stages"])
        closed, extra = manifest["weights"]
        assert (closed["name"], closed["sha256"], closed["stages"]) == ("closed", sha(CONTENT), ["features"])
        assert closed["acceptance"]["license"] == "my-terms" and closed["acceptance"]["how"] == how
        assert (extra["name"], extra["license"], extra["acceptance"]) == ("extra", "MIT", None)
    assert json.loads((out / "result.json").read_text())["weights"] == [
        {"name": "closed", "license": "MIT", "accepted": how, "experimental": False},
        {"name": "extra", "license": "MIT", "accepted": None, "experimental": False},
    ]
    report = (out / "report.html").read_text()
    words = "in the run file" if how == "run file" else f"on {closed['acceptance']['date']}"
    assert f"closed: MIT; terms of my-terms accepted {words} (https://example.org/terms)" in report
    assert assets.obstacle("closed") is None or how == "run file"  # a run's acceptance ends with it


def test_weights_are_part_of_the_key_of_the_stage_that_uses_them(learned, tmp_path, monkeypatch):
    before = stage_keys(load_config(learned), "cpu", 1)
    source = tmp_path / "learned_plugin.py"
    source.write_text(
        source.read_text()
        .replace('name="open")', 'name="open", content=CONTENT + b"2")')
        .replace("import TERMS,", "import CONTENT, TERMS,")
    )
    sys.modules.pop("learned_plugin")
    plugins.cache_clear()
    after = stage_keys(load_config(learned), "cpu", 1)
    assert before["masks"] == after["masks"] and before["features"] != after["features"]


def test_a_checkpoint_given_by_path_is_named_by_its_hash_and_licence(learned, tmp_path):
    path = tmp_path / "patient_smith.safetensors"
    path.write_bytes(CONTENT)
    path.with_suffix(".json").write_text('{"license": "CC0-1.0"}')
    learned["features"]["weights"] = str(path)
    (facts,) = used(load_config(learned), [{"name": "features"}])
    assert facts["license"] == "CC0-1.0" and facts["sha256"] == sha(CONTENT) and "smith" not in json.dumps(facts)
    path.with_suffix(".json").unlink()
    (facts,) = used(load_config(learned), [{"name": "features"}])
    assert facts["license"] == "not stated"


def test_a_licence_that_does_not_exist_is_refused(learned, tmp_path):
    with pytest.raises(AssetError, match="did you mean 'magicleap'"):
        run(learned, tmp_path / "out", accept_licenses=["magic-leap"])


def test_what_the_weights_decide_is_part_of_the_key_and_stands_in_the_manifest(tmp_path):
    """SuperGlue's threshold lies in the .json beside the tensors, whose hash does not know it."""
    from medrecon.networks.checkpoint import save_network
    from medrecon.pipeline.manifest import manifest
    from medrecon.testing.networks import small_superglue, small_superpoint

    save_network(tmp_path / "points.safetensors", small_superpoint(), "MIT", {})
    save_network(tmp_path / "glue.safetensors", small_superglue(), "MIT", {})
    (tmp_path / "pictures").mkdir()
    about_path = tmp_path / "glue.json"
    about = json.loads(about_path.read_text())

    def resolved(own, **options):
        about_path.write_text(json.dumps(about | {"config": about["config"] | {"match_threshold": own}}))
        return load_config(
            {
                "version": 1,
                "source": {"name": "image-folder", "path": str(tmp_path / "pictures")},
                "features": {"name": "superpoint", "weights": str(tmp_path / "points.safetensors")},
                "matching": {"name": "superglue", "weights": str(tmp_path / "glue.safetensors"), **options},
            }
        )

    key = lambda *given, **options: stage_keys(resolved(*given, **options), "cpu", 1)["matching"]
    assert key(0.5) == key(0.5) == key(0.9, match_threshold=0.5) != key(0.3)
    shown = manifest(resolved(0.45), "cpu", 1, [])["config"]["matching"]
    assert shown["match_threshold"] == 0.45 and shown["weights"] == "(path not recorded)"
    assert resolved(0.45).to_dict()["matching"]["match_threshold"] is None  # a run file goes on leaving it to them
