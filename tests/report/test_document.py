# SPDX-License-Identifier: Apache-2.0
"""The report as a whole: complete, self-contained, escaped, and never stopped by what is missing."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from synthetic_run import MANIFEST

from medrecon.progress import Quiet
from medrecon.report import write
from medrecon.report.sections import prepared
from medrecon.runfolder import RunFolder
from medrecon.types import FrameSet
from medrecon.types.storage import read_json, write_json

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Text, ids, links and open elements of a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.anchors, self.sources, self.open, self.text, self.alts = set(), [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        if tag == "a":
            self.anchors.append(found["href"])
        if tag == "img":
            self.alts.append(found.get("alt"))
        self.sources += [found[k] for k in ("src", "srcset", "data") if k in found]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", "".join(self.text))


def report(run, tmp_path):
    out = tmp_path / "report.html"
    assert write(run, out, Quiet()) == out
    html = out.read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    return html, page


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    return report(finished, tmp_path_factory.mktemp("report"))


def test_every_section_is_there_and_the_links_lead_to_them(written):
    _, page = written
    wanted = {"summary", "input", "funnel", "matches", "model", "training", "views", "figures", "trust", "provenance"}
    assert wanted <= page.ids
    assert {a[1:] for a in page.anchors} <= page.ids and all(a.startswith("#") for a in page.anchors)


def test_nothing_is_loaded_from_anywhere(written):
    html, page = written
    assert page.sources and all(s.startswith("data:image/webp;base64,") for s in page.sources)
    assert "default-src 'none'" in html
    assert not re.search(r"""(?:https?:)?//[\w-]+\.|@import|url\(""", html.replace("data:image", ""))


def test_figures_come_with_unit_sigma_and_number(written):
    _, page = written
    for words in (
        "8 of 9",
        "24.13 ± 0.42",
        "0.83 ± 0.11",
        "mm²",
        "not measured",
        "no truth surface",
        "lower is better",
    ):
        assert words in page.words
    assert "Lengths in mm" in page.words and "known camera poses" in page.words and "± 1.2%" in page.words


def test_funnel_advice_and_attempts_are_told(written):
    _, page = written
    for words in (
        "View-graph components", "match more pairs, or film more slowly", "smaller ones of 3 frames",
        "smaller triangulation angle: 8 frames registered", "Too few matches with the model",
    ):  # fmt: skip
        assert words in page.words


def test_provenance_is_told(written):
    _, page = written
    for words in ("prebuilt kernels, no CUDA device", "Some CPU, 2 cores, 8 GB, no GPU", "2.13.0", "5 min 12 s",
                  "from the cache", "CC-BY-3.0 (chest CT)", "ef" * 32):  # fmt: skip
        assert words in page.words


def test_preparation_of_the_pictures_is_told(written):
    assert "copies prepared for matching (modality: kind mr, gamma 0.8)" in written[1].words
    assert prepared({"config": {"modality": {"kind": "none", "window": None, "gamma": 1.0}}}) == ""
    assert prepared(None) == prepared({"config": {}}) == prepared({"config": {"modality": "mr"}}) == ""


def test_paths_of_the_input_are_withheld(written, finished):
    html, _ = written
    assert "/home/" not in html and "doe/" not in html and "nii.gz" not in html
    assert str(finished.root) not in html and "(withheld)" in html


def test_every_picture_has_a_description(written):
    _, page = written
    assert len(page.alts) > 15 and all(page.alts)


def test_size_is_bounded(written):
    assert len(written[0]) < 12e6


def test_same_run_same_report(finished, tmp_path, written):
    assert report(finished, tmp_path)[0] == written[0]


def test_everything_from_outside_is_escaped(make_run, tmp_path):
    run = make_run()
    bad = "<script>alert(1)</script>\"'&</script>"
    frames_path = run.stage_dir("masks") / "frames.json"
    frames = read_json(frames_path)
    frames["source"], frames["notes"], frames["dropped"] = bad, [bad], [[0, bad, bad]]
    frames["frames"][0]["name"] = bad
    write_json(frames_path, frames)
    shutil.copy(frames_path, run.stage_dir("source") / "frames.json")
    model = read_json(run.stage_dir("sfm") / "model.json")
    model["funnel"] = [[bad, 1.0, bad, False, bad]]
    model["attempts"], model["scale"]["source"] = [bad], bad
    model["unregistered"] = {k: bad for k in model["unregistered"]}
    write_json(run.stage_dir("sfm") / "model.json", model)
    metrics = read_json(run.stage_dir("analysis") / "metrics.json")
    metrics[0].update(name=bad, source=bad, note=bad, unit=bad)
    write_json(run.stage_dir("analysis") / "metrics.json", metrics)
    renders = read_json(run.stage_dir("render") / "renders.json")
    renders["renderer"] = renders["appearance"] = bad
    write_json(run.stage_dir("render") / "renders.json", renders)
    manifest = json.loads(json.dumps(MANIFEST))
    manifest.update(medrecon_version=bad, device=bad, licences=[bad], versions={bad: bad}, config={bad: bad}, seed=bad)
    manifest["weights"] = [{"name": bad, "license": bad, "acceptance": {"license": bad, "how": bad, "url": bad}}, bad]
    manifest["stages"][0]["key"] = bad
    manifest["ops_backend"] = {"name": bad, "reason": bad}
    write_json(run.root / "manifest.json", manifest)

    html, page = report(RunFolder(run.root), tmp_path)
    assert "<script>alert" not in html
    assert page.words.count(bad) >= 19


@pytest.mark.parametrize("last", range(0, 11))
def test_a_run_that_stopped_early_is_reported_as_far_as_it_got(make_run, tmp_path, last):
    run = make_run()
    stages = [s["name"] for s in MANIFEST["stages"]]
    for stage in stages[last:]:
        shutil.rmtree(run.stage_dir(stage))
    manifest = {**MANIFEST, "stages": MANIFEST["stages"][:last]}
    write_json(run.root / "manifest.json", manifest)
    html, page = report(RunFolder(run.root), tmp_path)
    reported = {"features", "matching", "sfm", "radiance", "render", "surface", "analysis"}
    for stage in reported & set(stages[last:]):
        # the surface is missed only where there is something else to show in the 3-D view
        if stage != "surface" or "sfm" in stages[:last]:
            assert f"has not reached the {stage} stage" in page.words
    for stage in reported & set(stages[:last]):
        assert f"has not reached the {stage} stage" not in page.words
    assert ("has not reached the source stage" in page.words) == (last == 0)


def test_an_empty_folder_is_reported_as_such(tmp_path):
    (tmp_path / "run").mkdir()
    _, page = report(RunFolder(tmp_path / "run"), tmp_path)
    assert "Nothing was measured yet" in page.words and "Scale unknown" in page.words


@pytest.mark.parametrize(
    "file",
    [
        "stages/source/frames.json", "stages/masks/frames.json", "stages/matching/graph.npz", "stages/sfm/model.npz",
        "stages/sfm/model.json", "stages/radiance/history.json", "stages/render/renders.json",
        "stages/surface/mesh.npz", "stages/analysis/metrics.json",
    ],
)  # fmt: skip
def test_a_broken_file_costs_its_section_only(make_run, tmp_path, file):
    run = make_run()
    (run.root / file).write_bytes(b"{ this is nothing")
    html, page = report(run, tmp_path)
    assert "cannot be read; run again with --force" in page.words
    assert str(tmp_path) not in html


@pytest.mark.parametrize("content", [b"[]", b"3", b'{"stages": 7, "machine": [], "versions": null, "config": "x"}'])
def test_an_odd_manifest_is_no_obstacle(make_run, tmp_path, content):
    run = make_run()  # the run folder has read the sound manifest already
    (run.root / "manifest.json").write_bytes(content)
    _, page = report(run, tmp_path)
    assert "Provenance" in page.words and "24.13" in page.words


def test_pictures_that_are_gone_are_left_out(make_run, tmp_path):
    run = make_run()
    for path in run.root.rglob("*.png"):
        path.unlink()
    _, page = report(run, tmp_path)
    assert "The pictures themselves are no longer there" in page.words
    assert "No held-out view was rendered" in page.words


def test_unknown_scale_is_said_everywhere(make_run, tmp_path):
    run = make_run(metric=False)
    _, page = report(run, tmp_path)
    assert "must not be read as millimetres" in page.words and "Lengths in mm" not in page.words
    assert "units²" in page.words
    depth = re.search(r"Depth, [\d.]+ \(bright\) to [\d.]+ (\w+)", page.words)
    assert depth.group(1) == "units"


def test_depth_is_in_mm_when_the_scale_is_known(written):
    near, far = re.search(r"Depth, ([\d.]+) \(bright\) to ([\d.]+) mm", written[1].words).groups()
    assert 29.5 < float(near) < 32 and 35 < float(far) < 40.1


def test_report_replaces_the_old_one_in_one_step(finished, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("old")
    import medrecon.report.document as document

    def broken(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", broken)
        with pytest.raises(OSError, match="No space"):
            document.write(finished, out, Quiet())
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]


def test_progress_is_told(finished, tmp_path):
    quiet = Quiet()
    write(finished, tmp_path / "r.html", quiet)
    assert len(quiet.said) == 1 and "MB" in quiet.said[0]


def test_an_unmasked_run_without_keyframes(make_run, tmp_path):
    run = make_run()
    shutil.rmtree(run.stage_dir("masks"))
    shutil.rmtree(run.stage_dir("keyframes"))
    assert isinstance(run.frames, FrameSet)
    _, page = report(run, tmp_path)
    assert "3 of 4" not in page.words and "2 of 4" in page.words


def test_licences_are_grouped_with_the_rare_ones_first():
    from medrecon.report.sections import provenance

    licences = ["extractor sift: Apache-2.0", "matcher m: LicenseRef-Research", "mapper x: Apache-2.0", "CC-BY-3.0"]
    shown = provenance({"licences": licences}).licences
    assert shown == ("CC-BY-3.0", "LicenseRef-Research: matcher m", "Apache-2.0: extractor sift, mapper x")


def test_weights_stand_with_their_licence_and_how_it_was_accepted():
    from medrecon.report.sections import provenance

    stored = {"license": "magicleap", "how": "stored", "date": "2026-11-22", "url": "https://example.org"}
    weights = [
        {"name": "a", "license": "MIT", "acceptance": None, "experimental": True},
        {"name": "b", "license": "Research", "acceptance": stored},
        {"name": "c", "license": "Research", "acceptance": {**stored, "how": "run file", "date": ""}},
        {},
    ]
    assert provenance({"weights": weights}).weights == (
        "a: MIT; experimental weights",
        "b: Research; terms of magicleap accepted on 2026-11-22 (https://example.org)",
        "c: Research; terms of magicleap accepted in the run file (https://example.org)",
        "unnamed: licence not recorded",
    )


def test_frames_left_out_are_grouped_by_the_kind_of_reason():
    from medrecon.report.sections import Group, groups

    pairs = [
        ("1", "dark"),
        ("2", "still: moved 0.1%"),
        ("3", "still: moved 0.2%"),
        ("4", "blurred: 3"),
        ("5", "blurred: 3"),
    ]
    assert groups(pairs) == [
        Group("still", ("2", "3"), ("moved 0.1%", "moved 0.2%")),
        Group("blurred: 3", ("4", "5")),
        Group("dark", ("1",)),
    ]
    assert groups([]) == []
