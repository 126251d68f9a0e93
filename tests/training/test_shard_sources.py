# SPDX-License-Identifier: Apache-2.0
"""From volumes as they were published to shards: phantoms whose shape, place and values are known."""

import io
import plistlib
import tarfile
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest

from medrecon.assets import asset
from medrecon.assets.training_data import TRAINING_DATA
from medrecon.bench.planes import IN_SCIKIT_IMAGE
from medrecon.errors import AssetError, InputError
from medrecon.progress import Quiet
from medrecon.training import shard_sources
from medrecon.training.shard_formats import placed, read_invesalius, read_tiff_stack, read_volpack
from medrecon.training.shard_sources import SOURCES, PhotoSource, VolumeSource, build_shards, read_photo
from medrecon.training.shard_volumes import CT_RANGE_HU, prepare_ct, prepare_mr
from medrecon.training.shards import read_shards

TEST_SUBJECTS = {"lidc-idri-0001", "colin27", "invesalius-0051"}


def grid(shape, spacing):
    """float [3, X, Y, Z]: millimetres from the middle."""
    middle = (np.array(shape) - 1) / 2
    return (np.indices(shape) - middle[:, None, None, None]) * np.array(spacing)[:, None, None, None]


def body(spacing=(1.5, 1.5, 3.0)):
    """CT: an ellipsoid of water 120 x 90 x 120 mm with a bone ball towards anterior, and a tabletop behind it; RAS."""
    shape = tuple(int(round(e / s)) for e, s in zip((160, 160, 150), spacing))
    x, y, z = grid(shape, spacing)
    data = np.full(shape, -1000, np.int16)
    data[(x / 60) ** 2 + (y / 45) ** 2 + (z / 60) ** 2 < 1] = 0
    data[(x**2 + (y - 25) ** 2 + z**2) < 10**2] = 1000
    data[(abs(y + 60) < 3) & (abs(x) < 70)] = 200
    return data, spacing


def hu(shard, value_range=CT_RANGE_HU):
    return value_range[0] + shard.astype(float) / 255 * (value_range[1] - value_range[0])


def test_a_ct_keeps_its_size_and_values_and_loses_the_table():
    data, spacing = body()
    shard, value_range = prepare_ct(placed(data, spacing, "RAS"), 2.0)
    assert value_range == CT_RANGE_HU and shard.dtype == np.uint8
    values = hu(shard)
    # Half way between air and water, so that voxels of the border count as much as they should.
    assert (values > -500).sum() * 8 == pytest.approx(4 / 3 * np.pi * 60 * 45 * 60, rel=0.02)
    assert np.median(values[values > -500]) == pytest.approx(0, abs=9.1)
    assert np.median(values[values > 700]) == pytest.approx(1000, abs=80)  # splines overshoot at sharp borders
    # The crop is the body's box, 4 mm of margin and a few of rounding; the table, 60 mm behind, is not in it.
    assert all(abs(n * 2.0 - size) < 16 for n, size in zip(shard.shape, (128, 98, 128)))
    assert ((values > 100) & (values < 300))[:, :4].sum() == 0


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SLA"])
def test_shards_are_upright_however_the_file_lies(axes):
    data, spacing = body((2.0, 2.0, 2.0))
    # The same body stored along other axes: found by asking where each stored axis points.
    order = [{"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[a] for a in axes]
    stored = np.transpose(data, order)
    for k, a in enumerate(axes):
        if a in "LPI":
            stored = np.flip(stored, k)
    shard, _ = prepare_ct(placed(stored, (2.0, 2.0, 2.0), axes), 2.0)
    reference, _ = prepare_ct(placed(data, spacing, "RAS"), 2.0)
    assert shard.shape == reference.shape
    bone = np.argwhere(hu(shard) > 700).mean(0)
    np.testing.assert_allclose(bone, np.argwhere(hu(reference) > 700).mean(0), atol=0.3)
    assert bone[1] > shard.shape[1] / 2 + 5  # towards anterior


def test_coarser_shards_do_not_alias():
    """A pattern of one voxel's period must vanish to its mean instead of showing up as slow beats."""
    data, spacing = body((1.0, 1.0, 1.0))
    inside = data == 0
    stripes = np.where(np.indices(data.shape).sum(0) % 2, 250, -250)
    shard, _ = prepare_ct(placed(np.where(inside, stripes, data).astype(np.int16), spacing, "RAS"), 2.2)
    core = tuple(slice(n // 2 - 12, n // 2 + 2) for n in shard.shape)
    assert hu(shard)[core].std() < 30  # plain subsampling leaves about 250


def test_an_mr_loses_haze_and_ringing_and_keeps_dark_holes_in_the_head():
    shape = (80, 90, 80)
    x, y, z = grid(shape, (2.0, 2.0, 2.0))
    rng = np.random.default_rng(0)
    data = rng.uniform(-20, 20, shape).astype(np.float32)
    head = (x / 60) ** 2 + (y / 70) ** 2 + (z / 60) ** 2 < 1
    data[head] = 500
    data[x**2 + y**2 + z**2 < 15**2] = 0  # a ventricle
    shard, (low, high) = prepare_mr(placed(data, (2.0, 2.0, 2.0), "RAS"), 2.0)
    assert low == 0 and high == pytest.approx(500, rel=0.01)
    assert shard[0].max() <= 10 and shard[tuple(n // 2 for n in shard.shape)] < 10
    assert (shard > 128).sum() * 8 == pytest.approx(4 / 3 * np.pi * (60 * 70 * 60 - 15**3), rel=0.03)
    far = grid(shard.shape, (2.0, 2.0, 2.0))
    air = (far[0] / 75) ** 2 + (far[1] / 85) ** 2 + (far[2] / 75) ** 2 > 1
    assert shard[air].max(initial=0) == 0


def test_nothing_to_be_found_is_an_error():
    with pytest.raises(InputError, match="no body"):
        prepare_ct(placed(np.full((20, 20, 20), -1000, np.int16), (3, 3, 3), "RAS"), 2.0)
    with pytest.raises(InputError, match="above zero"):
        prepare_mr(placed(np.zeros((20, 20, 20), np.int16), (3, 3, 3), "RAS"), 2.0)


def test_invesalius_projects(tmp_path):
    matrix = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
    facts = {"matrix": {"dtype": "int16", "filename": "m.dat", "shape": [4, 5, 6]}, "spacing": [0.5, 0.75, 2.0]}
    with tarfile.open(tmp_path / "x.inv3", "w:gz") as t:
        for name, raw in (("tmp/main.plist", plistlib.dumps(facts)), ("tmp/m.dat", matrix.tobytes())):
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            t.addfile(info, io.BytesIO(raw))
    volume = read_invesalius(tmp_path / "x.inv3")
    assert volume.data.shape == (6, 5, 4) and volume.data[5, 4, 3] == matrix[3, 4, 5]
    assert volume.spacing_mm == (0.5, 0.75, 2.0)
    (tmp_path / "y.inv3").write_bytes((tmp_path / "x.inv3").read_bytes()[:60])
    with pytest.raises(InputError, match="InVesalius"):
        read_invesalius(tmp_path / "y.inv3")


def test_volpack_and_tiff_stacks(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 256, (84, 128, 128), np.uint8)
    (tmp_path / "b.den").write_bytes(b"h" * 62 + voxels.tobytes())
    volume = read_volpack(tmp_path / "b.den")
    assert volume.data[3, 2, 1] == voxels[1, 2, 3]
    # The stack's first axis points to posterior, its second to inferior, its third to the right.
    np.testing.assert_array_equal(np.sign(volume.ras_from_ijk_mm[:3, :3]), [[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    (tmp_path / "short.den").write_bytes(voxels.tobytes()[:-1])
    with pytest.raises(InputError, match="ends early"):
        read_volpack(tmp_path / "short.den")
    import tifffile

    tifffile.imwrite(tmp_path / "s.tif", voxels[:5, :6, :7])
    stack = read_tiff_stack(tmp_path / "s.tif", (1.0, 2.0, 3.0), "RAS")
    assert stack.data.shape == (7, 6, 5) and stack.data[6, 5, 4] == voxels[4, 5, 6] and stack.spacing_mm == (1, 2, 3)
    (tmp_path / "no.tif").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read"):
        read_tiff_stack(tmp_path / "no.tif", (1.0, 2.0, 3.0), "RAS")


def test_photographs_are_cut_in_the_middle_and_not_stretched(tmp_path):
    image = np.zeros((600, 1000, 3), np.uint8)
    cv2.circle(image, (500, 300), 200, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "c.png"), image)
    photo = read_photo(tmp_path / "c.png")
    assert photo.shape == (384, 512) and photo.dtype == np.uint8
    rows, columns = np.nonzero(photo > 127)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == pytest.approx((400 * 384 / 600,) * 2, abs=3)
    assert (rows.mean(), columns.mean()) == pytest.approx((191.5, 255.5), abs=1)
    (tmp_path / "no.png").write_bytes(b"no")
    with pytest.raises(InputError, match="picture"):
        read_photo(tmp_path / "no.png")


# --- what is trained on, and building it


def test_no_test_subject_and_no_copyleft_is_trained_on():
    splits = {}
    for source in SOURCES:
        assert splits.setdefault(source.subject, source.split) == source.split
        license = asset(source.asset).license
        if source.split != "test":
            assert "GPL" not in license and "NC" not in license and "noncommercial" not in license.lower()
        assert (source.split == "test") == (source.subject in TEST_SUBJECTS)
    assert set(TEST_SUBJECTS) <= set(splits)
    for modality in ("CT", "MR"):
        for split in ("train", "val"):
            subjects = {s.subject for s in SOURCES if (s.modality, s.split) == (modality, split)}
            assert len(subjects) >= (1 if (modality, split) == ("CT", "val") else 2)
    # One head as CT and as MR, on one grid.
    frames = {(s.placement.frame, s.subject, s.modality) for s in SOURCES if getattr(s, "placement", None)}
    assert frames == {("vault", "dicom2stl-2", "CT"), ("vault", "dicom2stl-2", "MR")}
    assert {a.name for a in TRAINING_DATA} <= {s.asset for s in SOURCES}
    photos = [f for s in SOURCES if isinstance(s, PhotoSource) for f in s.files]
    assert not set(photos) & set(IN_SCIKIT_IMAGE.values()), "the benchmark measures on it"
    assert len(photos) == len(set(photos))


def test_the_table_of_the_docs_names_every_shard_with_its_split_and_licence():
    rows = {}
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) == 6 and cells[3] in ("train", "val", "test"):
            first, *more = cells[0].split(", ")
            for name in (first, *(m if not m.startswith("-") else first.rpartition("-")[0] + m for m in more)):
                rows[name] = cells
    for source in SOURCES:
        cells, license = rows.pop(source.name), asset(source.asset).license
        assert cells[3] == source.split and f"`{asset(source.asset).name}"[:12] in cells[1]
        assert license.startswith(cells[4].split(",")[0])
    assert not rows


@pytest.fixture
def two_sources(tmp_path, monkeypatch):
    """One volume and one photograph that are 'fetched', and one that is not."""
    data, spacing = body((2.5, 2.5, 3.0))
    nib.save(nib.Nifti1Image(data, np.diag([*spacing, 1.0])), tmp_path / "ct.nii.gz")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), np.full((60, 80), 99, np.uint8))
    cv2.imwrite(str(tmp_path / "photos" / "b.png"), np.full((60, 80), 77, np.uint8))
    here = {"totalsegmentator-chest": tmp_path / "ct.nii.gz", "scikit-image-photographs": tmp_path / "photos"}
    monkeypatch.setattr(shard_sources, "obstacle", lambda name: None if name in here else f"{name} not fetched")
    monkeypatch.setattr(shard_sources, "require", here.__getitem__)
    sources = (
        VolumeSource("one", "totalsegmentator-chest", "s1", "train", "CT", ("skin",), 3.0),
        PhotoSource("two", "scikit-image-photographs", "s2", "val", ("a.png", "b.png")),
        VolumeSource("three", "colin27", "colin27", "test", "MR", ("skin",), 3.0),
        VolumeSource("four", "colin27", "colin27", "test", "MR", ("brain",), 3.0, brain=True),
        VolumeSource("five", "inia19-macaque", "inia19", "val", "MR", ("brain",), 3.0),
    )
    monkeypatch.setattr(shard_sources, "SOURCES", sources)


def test_missing_assets_are_named_with_one_command_and_nothing_is_written(tmp_path, two_sources):
    with pytest.raises(AssetError) as e:
        build_shards(tmp_path / "out")
    assert e.value.remedy == "medrecon data fetch colin27 inia19-macaque" and not (tmp_path / "out").exists()
    assert "colin27 not fetched" in e.value.cause and "inia19-macaque not fetched" in e.value.cause


def test_skip_missing_builds_the_rest_and_says_what_is_left_out(tmp_path, two_sources):
    progress = Quiet()
    built = build_shards(tmp_path / "out", skip_missing=True, progress=progress)
    assert built.left_out == ("three", "four", "five") and [p.stem for p in built.written] == ["one", "two"]
    assert built.size_bytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    assert "three, four, five" in progress.said[0]
    one, two = read_shards(tmp_path / "out")
    assert one.meta.license == "Apache-2.0" and "TotalSegmentator" in one.meta.citation
    assert one.meta.value_range == CT_RANGE_HU and one.meta.presets == ("skin",) and one.spacing_mm == (3.0,) * 3
    assert two.photos.shape == (2, 384, 512) and two.photos[0, 0, 0] == 99 and two.photos[1, -1, -1] == 77


def test_the_same_assets_give_the_same_bytes(tmp_path, two_sources):
    for folder in ("a", "b"):
        build_shards(tmp_path / folder, ["one", "val"], skip_missing=True)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["one.npz", "two.npz"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_choices_that_cannot_be_made(tmp_path, two_sources):
    with pytest.raises(InputError, match="no shard or split called 'tran'"):
        build_shards(tmp_path / "out", ["tran"])
    with pytest.raises(InputError, match="no asset"):
        build_shards(tmp_path / "out", ["test"], skip_missing=True)
