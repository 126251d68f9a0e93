# SPDX-License-Identifier: Apache-2.0
"""The matching benchmark from end to end on few and small pairs: what it writes, reuses, and leaves out."""

import csv
import json
from importlib.util import find_spec

import pytest

import medrecon
from medrecon.bench import matching, methods, predict
from medrecon.bench.case_sets import CaseSettings
from medrecon.bench.methods import available, component_key, extractor_name, parse, sections, split_names
from medrecon.bench.volumes import VolumeChoice
from medrecon.cli import main
from medrecon.errors import ConfigError, StageError
from medrecon.plugins.manager import plugins
from medrecon.progress import Quiet

TINY = CaseSettings(160, 1, 2, 1, (6.0, 15.0), {"noise": (15.0,)}, 1, 1)
SIFT, ORB, GONE = "sift+nearest-neighbour", "orb+nearest-neighbour", "not-there+nearest-neighbour"


def measure(out, monkeypatch, methods=(SIFT, GONE), seeds=2, **options):
    monkeypatch.setattr(matching, "settings", lambda quick, seeds: TINY)
    options = {"methods": methods, "budget": 200, "threads": 1, "plots": False, **options}
    progress = Quiet()
    results = medrecon.create("benchmark", "matching", **options).run(out, True, seeds, progress)
    return results, progress.said


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        results, said = measure(out, patch)
    return out, results, said


def test_files_hold_what_was_returned(done):
    out, results, _ = done
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["schema"] == 1 and results["seeds"] == 2 and results["budget"] == 200 and results["threads"] == 1
    assert results["machine"]["cores"] and results["versions"]["torch"]
    n = sum(results["n_cases"].values())
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert len(rows) == n and {r["method"] for r in rows} == {SIFT}
    assert {r["seed"] for r in rows} == {"0", "1"}
    text = (out / "results.md").read_text()
    assert "## Views" in text and "## Modality" in text and SIFT in text and " ± " in text and "nan" not in text.lower()


def test_figures_are_in_range_and_have_a_spread(done):
    _, results, _ = done
    for group in ("views", "homography", "modality", "sweep"):
        for name, figure in results["figures"][SIFT][group].items():
            if figure["mean"] is None:
                continue
            if any(w in name for w in ("mma", "auc", "precision", "recall", "repeatability", "cells")):
                assert 0 <= figure["mean"] <= 1, name
            assert figure["std"] is None or figure["std"] >= 0
    views = results["figures"][SIFT]["views"]
    assert views["mma_3px"]["std"] is not None and views["pose_auc_20deg"]["mean"] is not None
    assert views["keypoints"]["mean"] <= 200
    assert results["figures"][SIFT]["homography"]["mma_3px"]["mean"] > 0.5  # SIFT on small warps: not by chance


def test_what_cannot_be_run_is_listed_with_reason_and_command(done):
    out, results, said = done
    gone = next(m for m in results["methods"] if m["name"] == GONE)
    assert gone["status"] == "skipped" and "not-there" in gone["reason"] and gone["command"]
    assert any(GONE in line for line in said)
    assert "## Not run" in (out / "results.md").read_text()


def test_methods_say_what_they_were_made_of(done):
    sift = done[1]["methods"][0]
    assert sift["extractor"]["name"] == "sift" and sift["extractor"]["max_keypoints"] == 200
    assert sift["matcher"]["name"] == "nearest-neighbour" and sift["license"] == "Apache-2.0"
    assert 50 < sift["peak_memory_mb"] < 20000


def test_again_nothing_is_predicted_and_the_figures_are_the_same(done, monkeypatch):
    out, results, _ = done

    def refuse(*_):
        raise AssertionError("nothing should be predicted again")

    monkeypatch.setattr(predict, "_work", refuse)
    again, _ = measure(out, monkeypatch)
    assert again["figures"] == results["figures"]
    # One feature file is lost: it alone is made again.
    lost = next((out / "predictions").glob("sift-*/*.npz"))
    lost.unlink()
    asked = []
    monkeypatch.setattr(predict, "_work", lambda job, method, progress: asked.append(job))
    with pytest.raises(medrecon.MedreconError):
        measure(out, monkeypatch)
    assert [job["images"] for job in asked] == [[lost.stem]]


def test_a_changed_option_never_reuses(done, monkeypatch):
    out, *_ = done
    asked = []
    monkeypatch.setattr(predict, "_work", lambda job, method, progress: asked.append(job))
    for change in ({"budget": 300}, {"options": {"sift": {"octave_layers": 4}}}, {"threads": 2}):
        with pytest.raises(medrecon.MedreconError):
            measure(out, monkeypatch, **change)
        assert {"images", "pairs"} == {k for job in asked for k in job} & {"images", "pairs"}
        asked.clear()
    # The matcher alone changed: the features are used again.
    with pytest.raises(medrecon.MedreconError):
        measure(out, monkeypatch, options={"nearest-neighbour": {"ratio": 0.7}})
    assert not [job for job in asked if "images" in job and len(job["images"]) > 1]


def test_keys_hold_options_and_provider():
    key = lambda **options: component_key(sections(parse((SIFT,), 100, options)[0])[0])  # noqa: E731
    assert key() == key() and key() != key(sift={"sigma": 1.5})


def test_case_key_follows_content_not_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"1")
    key = lambda: matching.MatchingBenchmark(  # noqa: E731
        matching.MatchingBenchmarkConfig(images=tmp_path / "a")
    )._case_key(TINY)
    first = key()
    assert key() == first
    (tmp_path / "a" / "x.png").write_bytes(b"2")
    assert key() != first


def test_a_method_that_breaks_is_reported_and_the_others_go_on(done, tmp_path, monkeypatch):
    (tmp_path / "bench_broken.py").write_text(
        "from medrecon.plugins import Component, hookimpl\n"
        "from medrecon.config import ComponentConfig\n"
        "class C(ComponentConfig):\n    max_keypoints: int = 5\n"
        "class X:\n"
        "    def __init__(self, config): pass\n"
        "    def extract(self, image, mask=None): raise RuntimeError('the sky fell')\n"
        "@hookimpl\n"
        "def medrecon_components():\n"
        "    return [Component('extractor', 'broken', 'bench_broken:X', 'bench_broken:C', 'breaks')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MEDRECON_PLUGINS", "bench_broken")
    plugins.cache_clear()
    try:
        cases = predict.CaseFolder(next((done[0] / "cases").iterdir()))
        broken = parse(("broken+nearest-neighbour",), 10, {})[0]
        assert available(broken) is None
        with pytest.raises(StageError, match="the sky fell"):
            predict.predict(broken, cases, tmp_path / "p", 1, Quiet())
        with pytest.raises(StageError, match="every method failed"):
            measure(done[0], monkeypatch, methods=("broken+nearest-neighbour",))
    finally:
        plugins.cache_clear()


def test_nothing_to_run_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(StageError, match="no method can be run"):
        measure(tmp_path, monkeypatch, methods=(GONE,))
    assert not list(tmp_path.iterdir())


def test_methods_by_name():
    assert [m.name for m in parse((), 64, {})][0] == SIFT
    (mine,) = parse(("orb+nearest-neighbour",), 64, {"orb": {"levels": 4}})
    assert mine.extractor_options == {"max_keypoints": 64, "levels": 4}
    for names, words in ((("sift",), "not extractor"), ((SIFT, SIFT), "twice")):
        with pytest.raises(ConfigError, match=words):
            parse(names, 64, {})
    with pytest.raises(ConfigError, match="no method uses"):
        parse((SIFT,), 64, {"surf": {}})
    with pytest.raises(ConfigError, match="octaves_layer"):
        available(parse((SIFT,), 64, {"sift": {"octaves_layer": 4}})[0])


def test_options_in_a_methods_name():
    names = (
        "orb[levels=4, fast_threshold=9]+nearest-neighbour[ratio=0.9],sift+nearest-neighbour , orb+nearest-neighbour"
    )
    one, plain, other = parse(split_names(names), 64, {"orb": {"levels": 7}, "nearest-neighbour": {"mutual": False}})
    assert one.name == "orb[levels=4, fast_threshold=9]+nearest-neighbour[ratio=0.9]" and one.extractor == "orb"
    assert one.extractor_options == {"max_keypoints": 64, "levels": 4, "fast_threshold": 9}
    assert one.matcher_options == {"mutual": False, "ratio": 0.9}
    assert plain.extractor == "sift" and other.extractor_options["levels"] == 7
    assert component_key(sections(one)[0]) != component_key(sections(other)[0])
    assert extractor_name(one.name) == "orb[levels=4, fast_threshold=9]" and extractor_name(SIFT) == "sift"
    assert parse(("superpoint+superglue-indoor",), 64, {})[0].matcher_options == {"weights": "superglue-indoor"}
    assert split_names(",, a[b=1,c=2]+d ,e+f") == ("a[b=1,c=2]+d", "e+f")


def test_our_own_row_is_there_where_its_weights_ship(monkeypatch):
    if not methods.ships_weights():
        assert methods.OURS not in [m.name for m in parse((), 64, {})]
        why_not = available(parse((methods.OURS,), 64, {})[0])
        assert "ships no weights" in why_not.reason and why_not.command
    monkeypatch.setattr(methods, "ships_weights", lambda: True)
    ours = parse((), 64, {})[-1]
    assert ours.name == methods.OURS and ours.matcher_options == {"weights": "superglue-medrecon"}
    assert ours.extractor_options["weights"] == "superpoint-medrecon"


def test_a_methods_name_shows_no_folder():
    (method,) = parse(
        ("superpoint[weights=/home/me/net.safetensors,detector=sift]+superglue[weights=b/c.pth]",), 64, {}
    )
    assert method.name == "superpoint[weights=net.safetensors,detector=sift]+superglue[weights=c.pth]"
    assert method.extractor_options["weights"] == "/home/me/net.safetensors"


@pytest.mark.parametrize(
    "name",
    ["sift[+nearest-neighbour", "sift]+nearest-neighbour", "sift[a=[1]]+nearest-neighbour", "sift[levels]+nearest-neighbour",
     "sift[=3]+nearest-neighbour", "[a=1]+nearest-neighbour", "sift+nearest-neighbour[ratio=1]x", "sift+orb+surf"],
)  # fmt: skip
def test_names_that_are_no_method(name):
    with pytest.raises(ConfigError) as caught:
        parse((name,), 64, {})
    assert caught.value.remedy


def test_variants_of_one_extractor_have_rows_and_predictions_of_their_own(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    variant = "sift[octave_layers=2]+nearest-neighbour"
    results, _ = measure(tmp_path, monkeypatch, methods=(SIFT, variant), seeds=1, plots=True)
    assert [m["name"] for m in results["methods"]] == [SIFT, variant]
    assert results["methods"][1]["extractor"]["octave_layers"] == 2
    assert results["figures"][SIFT]["all"] != results["figures"][variant]["all"]
    assert len(list((tmp_path / "predictions").glob("sift-*"))) == 4
    assert (tmp_path / "keypoints.png").stat().st_size > 1000


def test_command_line(done, monkeypatch, capfd):
    out, *_ = done
    monkeypatch.setattr(matching, "settings", lambda quick, seeds: TINY)
    arguments = ["bench", "matching", "--quick", "--seeds", "2", "--methods", f"{SIFT},{GONE}", "--budget", "200"]
    assert main([*arguments, "--threads", "1", "--no-plots", "--silent", "--out", str(out)]) == 0
    assert "# Matching benchmark" in capfd.readouterr().out
    assert main(["bench", "list"]) == 0
    listed = capfd.readouterr().out
    assert "matching" in listed and "front-ends" in listed and SIFT in listed
    assert main([*arguments, "--volume", "x,colour=red", "--out", str(out)]) == 2
    assert main(["bench", "front-ends", "--out", str(out)]) == 2
    assert main(["bench", "run", "matchin", "--out", str(out)]) == 2
    assert main([*arguments, "--volume", str(out / "nowhere.nii"), "--no-plots", "--out", str(out)]) == 3


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plots_are_pictures(done, monkeypatch):
    from medrecon.images import read_rgb

    out, *_ = done
    measure(out, monkeypatch, plots=True)
    for name in ("accuracy", "sweeps", "keypoints"):
        image = read_rgb(out / f"{name}.png")
        assert min(image.shape[:2]) > 200 and image.std() > 5


def test_plots_without_matplotlib_are_refused_before_any_work(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match="matplotlib") as e:
        measure(tmp_path, monkeypatch, plots=True)
    assert "--no-plots" in e.value.remedy and not list(tmp_path.iterdir())


def test_volume_choice_is_a_plain_model():
    assert VolumeChoice().subject == "chest-ct bone"
