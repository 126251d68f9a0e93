# SPDX-License-Identifier: Apache-2.0
"""Shards: what is written comes back, and what cannot be used says so."""

import json

import numpy as np
import pytest

from medrecon.errors import InputError
from medrecon.training.shards import ShardMeta, read_shards, write_photos, write_volume

RNG = np.random.default_rng(3)


def meta(name="thorax", subject="s1", split="train", modality="CT", **more):
    return ShardMeta(name, subject, split, modality, "CC0-1.0", "nobody", **more)


def test_what_is_written_comes_back(tmp_path):
    volume = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)
    photos = RNG.integers(0, 256, (2, 8, 9), dtype=np.uint8)
    write_volume(tmp_path, meta(value_range=(-1000.0, 1500.0), presets=("bone", "skin")), volume, (1.0, 1.5, 2.0))
    write_photos(tmp_path, meta("album", "photos", "train", "photo"), photos)
    album, thorax = read_shards(tmp_path, "train")
    np.testing.assert_array_equal(thorax.volume, volume)
    np.testing.assert_array_equal(album.photos, photos)
    assert thorax.spacing_mm == (1.0, 1.5, 2.0) and thorax.meta.presets == ("bone", "skin")
    assert thorax.meta.value_range == (-1000.0, 1500.0) and album.volume is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["album.npz", "thorax.npz"]


def test_digest_follows_the_contents(tmp_path):
    volume = np.zeros((3, 3, 3), np.uint8)
    digests = set()
    for spacing, value, license in (((1, 1, 1), 0, "a"), ((1, 1, 2), 0, "a"), ((1, 1, 1), 9, "a"), ((1, 1, 1), 0, "b")):
        volume[1, 1, 1] = value
        write_volume(tmp_path, ShardMeta("v", "s", "val", "MR", license, ""), volume, spacing)
        digests.add(read_shards(tmp_path)[0].digest)
    assert len(digests) == 4
    write_volume(tmp_path, ShardMeta("v", "s", "val", "MR", "b", ""), volume, (1, 1, 1))
    assert read_shards(tmp_path)[0].digest in digests


def test_splits_are_kept_apart(tmp_path):
    volume = np.zeros((3, 3, 3), np.uint8)
    write_volume(tmp_path, meta("a", "s1", "train"), volume, (1, 1, 1))
    write_volume(tmp_path, meta("b", "s2", "test"), volume, (1, 1, 1))
    assert [s.meta.name for s in read_shards(tmp_path, "test")] == ["b"]
    assert len(read_shards(tmp_path)) == 2
    with pytest.raises(InputError, match="no shards of the split val"):
        read_shards(tmp_path, "val")
    write_volume(tmp_path, meta("c", "s1", "test"), volume, (1, 1, 1))
    with pytest.raises(InputError, match="subject 's1' is in train and test"):
        read_shards(tmp_path, "train")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"split": "training"}, "split 'training'"),
        ({"modality": "US"}, "modality 'US'"),
        ({"presets": ("bones",)}, "preset 'bones'"),
        ({"value_range": (5.0, 5.0)}, "value_range"),
    ],
)
def test_facts_are_checked(change, words):
    with pytest.raises(InputError, match=words):
        meta(**change)


def test_arrays_are_checked(tmp_path):
    with pytest.raises(InputError, match="uint8"):
        write_volume(tmp_path, meta(), np.zeros((3, 3, 3), np.int16), (1, 1, 1))
    with pytest.raises(InputError, match="spacing"):
        write_volume(tmp_path, meta(), np.zeros((3, 3, 3), np.uint8), (1, 0, 1))
    with pytest.raises(InputError, match="photo"):
        write_volume(tmp_path, meta(modality="photo"), np.zeros((3, 3, 3), np.uint8), (1, 1, 1))
    with pytest.raises(InputError, match="photo"):
        write_photos(tmp_path, meta(), np.zeros((3, 3, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_shards(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no shards"):
        read_shards(tmp_path)
    path = write_volume(tmp_path, meta(), np.zeros((9, 9, 9), np.uint8), (1, 1, 1))
    whole = path.read_bytes()
    for damaged in (b"", b"PK\3\4nothing", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="thorax.npz"):
            read_shards(tmp_path)
    facts = {"version": 1, "name": "thorax", "subject": "s", "split": "train", "modality": "CT"}
    for arrays in (
        {},
        {"meta": np.array(json.dumps(facts))},
        {"meta": np.array(json.dumps({**facts, "version": 99}))},
        {"meta": np.array([1, None], dtype=object)},
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match="thorax.npz"):
            read_shards(tmp_path)
