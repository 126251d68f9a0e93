# SPDX-License-Identifier: Apache-2.0
"""Cache keys follow everything that decides a result and nothing else; results change places atomically."""

import numpy as np
import pytest

from medrecon.config.run_config import load_config
from medrecon.errors import InputError
from medrecon.images import write_png
from medrecon.pipeline.cache import STAMP, StageStore, digest_path, stage_keys
from medrecon.pipeline.stages import STAGE_LIST, STAGES


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for i in range(3):
        write_png(folder / f"{i}.png", np.full((8, 8, 3), i * 50, np.uint8))
    return folder


def config(pictures, *overrides):
    return load_config({"version": 1, "source": {"name": "image-folder", "path": str(pictures)}}, overrides)


def changed(a, b):
    return {name for name in a if a[name] != b[name]}


def downstream(*names):
    """Stages that depend on the named ones, the named ones included."""
    out = set(names)
    for stage in STAGE_LIST:
        if out & set(stage.needs):
            out.add(stage.name)
    return out


def test_same_settings_same_keys_wherever_the_input_lies(pictures, tmp_path):
    import shutil

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(pictures, elsewhere)
    assert stage_keys(config(pictures), "cpu", 2) == stage_keys(config(elsewhere), "cpu", 2)


@pytest.mark.parametrize(
    "override, first",
    [
        ("features.max_keypoints=99", ["features"]),
        ("matching.ratio=0.7", ["matching"]),
        ("pairing.name=sequential", ["matching"]),
        ("seed=3", ["matching"]),
        ("name=other title", []),
        ("export=[stl]", ["export"]),
    ],
)
def test_a_change_redoes_its_stage_and_what_depends_on_it(pictures, override, first):
    a = stage_keys(config(pictures), "cpu", 2)
    b = stage_keys(config(pictures, override), "cpu", 2)
    assert changed(a, b) == (downstream(*first) if first else set())


def test_changed_input_changes_everything(pictures):
    a = stage_keys(config(pictures), "cpu", 2)
    write_png(pictures / "2.png", np.full((8, 8, 3), 1, np.uint8))
    assert changed(a, stage_keys(config(pictures), "cpu", 2)) == set(STAGES)


def test_device_and_threads_count_only_where_they_matter(pictures):
    c = config(pictures)
    assert changed(stage_keys(c, "cpu", 2), stage_keys(c, "cuda", 2)) == downstream("radiance")
    assert changed(stage_keys(c, "cpu", 2), stage_keys(c, "cpu", 4)) == downstream("radiance")


def test_digest_of_missing_path_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        digest_path(tmp_path / "gone")


def finish(store, key, text):
    stage = STAGES["source"]
    folder = store.begin(stage, key, scratch=False)
    (folder / "x").write_text(text)
    return folder


def test_result_appears_whole_and_replaces_the_old_one(tmp_path):
    store = StageStore(tmp_path)
    finish(store, "k1", "one")
    assert not store.is_fresh("source", "k1")  # unfinished work is never taken for a result
    store.finish("source", "k1", 1.5)
    assert store.is_fresh("source", "k1") and not store.is_fresh("source", "k2")
    finish(store, "k2", "two")
    assert (store.final("source") / "x").read_text() == "one"  # the old one stands until the new one is whole
    store.finish("source", "k2", 1.0)
    assert (store.final("source") / "x").read_text() == "two"
    assert sorted(p.name for p in store.root.iterdir()) == ["source"]


def test_killed_between_stamp_and_rename_is_completed(tmp_path):
    store = StageStore(tmp_path)
    folder = finish(store, "k1", "one")
    (folder / STAMP).write_text('{"key": "k1", "seconds": 1}')
    assert StageStore(tmp_path).is_fresh("source", "k1")
    assert (store.final("source") / "x").read_text() == "one"


def test_killed_between_the_two_renames_is_completed(tmp_path):
    store = StageStore(tmp_path)
    finish(store, "k1", "one")
    store.finish("source", "k1", 1)
    folder = finish(store, "k2", "two")
    (folder / STAMP).write_text('{"key": "k2", "seconds": 1}')
    store.final("source").rename(store.root / ".source.old")
    assert StageStore(tmp_path).is_fresh("source", "k2")
    assert (store.final("source") / "x").read_text() == "two"
    assert sorted(p.name for p in store.root.iterdir()) == ["source"]


def test_unfinished_work_of_the_same_settings_is_found_again_and_of_others_removed(tmp_path):
    store = StageStore(tmp_path)
    finish(store, "k1", "half")
    again = store.begin(STAGES["source"], "k1", scratch=False)
    assert (again / "x").read_text() == "half"
    other = store.begin(STAGES["source"], "k2", scratch=False)
    assert list(other.iterdir()) == [] and not again.exists()


def test_broken_stamp_means_not_fresh(tmp_path):
    store = StageStore(tmp_path)
    finish(store, "k1", "one")
    store.finish("source", "k1", 1)
    (store.final("source") / STAMP).write_text("{not json")
    assert not store.is_fresh("source", "k1")
