# SPDX-License-Identifier: Apache-2.0
"""Volumes on disk: what is read is what was written, at its place in mm; what cannot be read says why."""

import gzip
import os

import nibabel as nib
import nrrd
import numpy as np
import pytest

from medrecon.errors import InputError
from medrecon.ingest import volume as volume_module
from medrecon.ingest.volume import canonical, describe, load_volume
from medrecon.types import Volume

AFFINE = np.array([[-0.7, 0.02, 0, 166], [0.01, 0.7, 0.1, -187.6], [0, -0.05, 2.5, -340], [0, 0, 0, 1]])


def _data(shape=(5, 6, 7), dtype=np.int16):
    return np.random.default_rng(0).integers(-1000, 2000, shape).astype(dtype)


def _nifti(path, data, affine=AFFINE, kind=nib.Nifti1Image, **header):
    image = kind(data, affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_round_trip(tmp_path, kind, suffix):
    data = _data()
    volume = load_volume(_nifti(tmp_path / f"ä volume{suffix}", data, kind=kind))
    assert volume.data.dtype == np.int16 and np.array_equal(volume.data, data)
    assert np.allclose(volume.ras_from_ijk_mm, AFFINE, atol=1e-6)


def test_suffix_does_not_matter(tmp_path):
    good = _nifti(tmp_path / "a.nii.gz", _data())
    for name in ("a.nii", "a.img", "noname"):
        other = tmp_path / name
        other.write_bytes(good.read_bytes())
        assert np.array_equal(load_volume(other).data, _data())


def test_slope_and_intercept_are_applied(tmp_path):
    stored = _data(dtype=np.uint8)
    for slope, inter, dtype in [(2, -1024, np.int16), (0.5, 3.25, np.float32), (1, 0, np.int16)]:
        image = nib.Nifti1Image(stored, AFFINE)
        image.header.set_slope_inter(slope, inter)
        nib.save(image, tmp_path / "s.nii")
        # nibabel resets the two when saving; write them where the standard has them
        raw = bytearray((tmp_path / "s.nii").read_bytes())
        raw[112:120] = np.array([slope, inter], "<f4").tobytes()
        (tmp_path / "s.nii").write_bytes(raw)
        volume = load_volume(tmp_path / "s.nii")
        assert volume.data.dtype == dtype
        assert np.array_equal(volume.data, stored.astype(np.float64) * slope + inter)


def test_big_endian_and_units(tmp_path):
    image = nib.Nifti1Image(_data(), AFFINE).as_reoriented([[0, 1], [1, 1], [2, 1]])
    big = nib.Nifti1Image(_data().astype(">i2"), AFFINE, header=nib.Nifti1Header(endianness=">"))
    big.header.set_data_dtype(">i2")
    big.header.set_xyzt_units("mm")
    nib.save(big, tmp_path / "big.nii")
    assert np.array_equal(load_volume(tmp_path / "big.nii").data, _data())
    image.header.set_xyzt_units("meter")
    image.set_sform(AFFINE, 1)
    nib.save(image, tmp_path / "metre.nii")
    assert np.allclose(load_volume(tmp_path / "metre.nii").ras_from_ijk_mm[:3], AFFINE[:3] * 1000, atol=1e-2)


def test_four_dimensions_need_a_frame(tmp_path):
    data = _data((4, 5, 6, 3))
    path = _nifti(tmp_path / "t.nii.gz", data)
    with pytest.raises(InputError, match="3 volumes") as e:
        load_volume(path)
    assert "frame: 0 to 2" in e.value.remedy
    with pytest.raises(InputError, match="no frame 3"):
        load_volume(path, frame=3)
    assert np.array_equal(load_volume(path, frame=2).data, data[..., 2])
    assert load_volume(_nifti(tmp_path / "one.nii.gz", data[..., :1])).data.shape == (4, 5, 6)


def test_orientation_that_is_not_stated_is_not_guessed(tmp_path):
    image = nib.Nifti1Image(_data(), None)
    image.header.set_zooms((0.5, 0.75, 2))
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "lost.nii")
    raw = nib.load(tmp_path / "lost.nii").header
    assert raw["sform_code"] == 0 and raw["qform_code"] == 0
    with pytest.raises(InputError, match="how it lies") as e:
        load_volume(tmp_path / "lost.nii")
    assert "assume_ras" in e.value.remedy
    volume = load_volume(tmp_path / "lost.nii", assume_ras=True)
    assert np.allclose(volume.spacing_mm, (0.5, 0.75, 2)) and "not stated" in volume.notes[0]


def test_sform_wins_over_qform(tmp_path):
    image = nib.Nifti1Image(_data(), AFFINE)
    image.set_qform(np.diag([1, 1, 1, 1.0]), 1)
    image.set_sform(np.diag([-1, 2, 3, 1.0]), 2)
    nib.save(image, tmp_path / "both.nii")
    assert np.allclose(load_volume(tmp_path / "both.nii").ras_from_ijk_mm, np.diag([-1, 2, 3, 1.0]))


def _rgb(path):
    return _nifti(path, np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))


def _cut(path, keep=0.6):
    good = _nifti(path, _data((30, 30, 30)))
    good.write_bytes(good.read_bytes()[: int(good.stat().st_size * keep)])
    return good


def _flipped_bit(path):
    """Contents damaged, length kept: only the checksum tells."""
    raw = bytearray(gzip.compress(_nifti(path.with_suffix(".tmp.nii"), _data((30, 30, 30))).read_bytes(), 0))
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    return path


def _huge(path, dims=(30000, 30000, 30000)):
    raw = bytearray(_nifti(path.with_suffix(".tmp.nii"), _data()).read_bytes())
    raw[42:48] = np.array(dims, "<i2").tobytes()
    path.write_bytes(raw)
    return path


def _negative(path):
    return _huge(path, (5, -6, 7))


def _with_nan(path):
    data = _data(dtype=np.float32)
    data[2, 2, 2] = np.nan
    return _nifti(path, data)


def _singular(path):
    affine = AFFINE.copy()
    affine[:, 2] = affine[:, 1]
    image = nib.Nifti1Image(_data(), np.eye(4))
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def _text(path):
    path.write_text("This is no volume at all. " * 40)
    return path


def _empty(path):
    path.write_bytes(b"")
    return path


def _bad_gzip(path):
    path.write_bytes(b"\x1f\x8b" + bytes(600))
    return path


def _flat(path):
    return _nifti(path, _data((8, 9)))


BAD = {
    "rgb": (_rgb, "not one number each"),
    "complex": (lambda p: _nifti(p, _data().astype(np.complex64)), "not one number each"),
    "truncated .nii": (_cut, "read"),
    "damaged inside gzip": (_flipped_bit, "damaged"),
    "27 million million voxels": (_huge, "more than medrecon reads"),
    "negative size": (_negative, "-6|negative|read"),
    "NaN": (_with_nan, "NaN"),
    "singular affine": (_singular, "singular"),
    "text": (_text, "neither NIfTI nor NRRD nor DICOM"),
    "empty": (_empty, "empty"),
    "not gzip": (_bad_gzip, "gzip"),
    "two-dimensional": (_flat, "2-dimensional|three axes"),
    "five-dimensional": (lambda p: _nifti(p, _data((3, 3, 3, 2, 2))), "5-dimensional"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_nifti_says_why(tmp_path, case):
    make, match = BAD[case]
    path = make(tmp_path / "bad.nii")
    with pytest.raises(InputError, match=match) as e:
        load_volume(path)
    assert e.value.remedy and e.value.exit_code == 3


@pytest.mark.parametrize("keep", [0.0005, 0.3, 0.98, 0.9999])
def test_truncated_gzip(tmp_path, keep):
    path = tmp_path / "cut.nii.gz"
    good = _nifti(path, _data((40, 40, 40)))
    good.write_bytes(good.read_bytes()[: max(30, int(good.stat().st_size * keep) - 4)])
    with pytest.raises(InputError, match="early|damaged|cut short|neither"):
        load_volume(path)


def test_more_than_the_memory_is_refused_before_reading(tmp_path, monkeypatch):
    path = _nifti(tmp_path / "v.nii", _data((64, 64, 64)))
    monkeypatch.setattr(volume_module, "available_memory", lambda: 10**6)
    with pytest.raises(InputError, match="GiB are free"):
        load_volume(path)


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_volume(tmp_path / "none.nii.gz")
    path = _nifti(tmp_path / "secret.nii", _data())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match="cannot be read"):
        load_volume(path)


def _nrrd(path, data, **header):
    nrrd.write(str(path), data, header, index_order="F")
    return path


def test_nrrd_lps_becomes_ras(tmp_path):
    data, ras = _data(), AFFINE.copy()
    lps = np.diag([-1, -1, 1, 1.0]) @ ras
    for space, affine in [("left-posterior-superior", lps), ("RAS", ras), ("LAS", np.diag([-1, 1, 1, 1.0]) @ ras)]:
        path = _nrrd(
            tmp_path / "v.nrrd", data, **{"space": space, "space directions": affine[:3, :3].T,
                                          "space origin": affine[:3, 3], "kinds": ["domain"] * 3}
        )  # fmt: skip
        volume = load_volume(path)
        assert np.array_equal(volume.data, data) and volume.data.dtype == np.int16
        assert np.allclose(volume.ras_from_ijk_mm, ras)


def test_nrrd_frames_and_detached_header(tmp_path):
    data = _data((3, 4, 5, 6))
    directions = np.vstack([np.full(3, np.nan), np.diag([1, 2, 3.0])])
    header = {"space": "right-anterior-superior", "space directions": directions, "space origin": [1, 2, 3],
              "kinds": ["list", "domain", "domain", "domain"]}  # fmt: skip
    path = _nrrd(tmp_path / "t.nrrd", data, **header)
    with pytest.raises(InputError, match="3 volumes"):
        load_volume(path)
    volume = load_volume(path, frame=1)
    assert np.array_equal(volume.data, data[1])
    assert np.allclose(volume.ras_from_ijk_mm, [[1, 0, 0, 1], [0, 2, 0, 2], [0, 0, 3, 3], [0, 0, 0, 1]])
    nrrd.write(str(tmp_path / "d.nhdr"), data[0], {"space": "RAS", "space directions": np.eye(3),
                                                   "space origin": [0, 0, 0]}, detached_header=True)  # fmt: skip
    assert np.array_equal(load_volume(tmp_path / "d.nhdr").data, data[0])
    next(tmp_path.glob("d.raw*")).unlink()
    with pytest.raises(InputError, match="cannot|read"):
        load_volume(tmp_path / "d.nhdr")


def test_bad_nrrd_says_why(tmp_path):
    with pytest.raises(InputError, match="how it lies"):
        load_volume(_nrrd(tmp_path / "a.nrrd", _data(), spacings=[1, 1, 2.0]))
    assert load_volume(tmp_path / "a.nrrd", assume_ras=True).spacing_mm == (1, 1, 2)
    with pytest.raises(InputError, match="colours"):
        load_volume(_nrrd(tmp_path / "b.nrrd", _data((3, 4, 4, 4)), kinds=["RGB-color", "space", "space", "space"]))
    path = _nrrd(tmp_path / "c.nrrd", _data((20, 20, 20)), space="RAS", **{"space directions": np.eye(3)})
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match="cut short|read"):
        load_volume(path)
    with pytest.raises(InputError, match="2 spatial axes"):
        load_volume(_nrrd(tmp_path / "e.nrrd", _data((4, 4)), kinds=["domain"] * 2))
    path.write_bytes(b"NRRD0005\ntype: int16\ndimension: 3\nsizes: 9000 9000 9000\nencoding: raw\nspace: RAS\n"
                     b"space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\n\n")  # fmt: skip
    with pytest.raises(InputError, match="more than medrecon reads"):
        load_volume(path)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_canonical_moves_no_voxel(signs, order):
    affine = np.eye(4)
    affine[:3, :3] = (np.array([[0.7, 0.05, 0], [-0.05, 0.7, 0.1], [0, -0.1, 2.5]]) * signs)[:, order]
    affine[:3, 3] = (10, -20, 30)
    before = Volume(_data(), affine)
    after = canonical(before)
    assert (np.abs(after.ras_from_ijk_mm[:3, :3]).argmax(0) == [0, 1, 2]).all()
    assert (np.diag(after.ras_from_ijk_mm) > 0).all() and np.linalg.det(after.ras_from_ijk_mm) > 0

    def placed(v):
        ijk = np.argwhere(np.ones(v.data.shape, bool))
        mm = ijk @ v.ras_from_ijk_mm[:3, :3].T + v.ras_from_ijk_mm[:3, 3]
        return {tuple(p): x for p, x in zip(np.round(mm, 6) + 0.0, v.data[tuple(ijk.T)])}

    assert placed(before) == placed(after)


def test_description_is_right_and_names_nobody(tmp_path):
    path = _nifti(tmp_path / "Doe^Jane.nii", _data((10, 20, 30)), np.diag([-0.5, 0.75, 2, 1.0]), descrip=b"Jane Doe")
    rows = dict(describe(load_volume(path)))
    assert rows["size"] == "10 x 20 x 30 voxels" and rows["spacing"] == "0.5 x 0.75 x 2 mm"
    assert "LAS" in rows["axes point to"] and rows["handedness"] == "left-handed"
    assert "Doe" not in str(describe(load_volume(path)))


def test_dicom_series_equals_its_nifti_twin():
    """The 133-slice chest CT: same voxels, same affine, from both files (`make check-data` fetches them first)."""
    from medrecon import assets

    folder, twin = assets.path("lidc-idri-0001-dicom"), assets.path("lidc-idri-0001-nifti")
    if not (folder and twin):
        pytest.skip("not fetched: medrecon data fetch lidc-idri-0001-dicom lidc-idri-0001-nifti")
    dicom = sorted(folder.rglob("*.dcm"))[0]
    a, b = canonical(load_volume(dicom.parent)), canonical(load_volume(twin))
    assert a.data.shape == (512, 512, 133)
    assert np.array_equal(a.data, b.data)
    assert np.allclose(a.ras_from_ijk_mm, b.ras_from_ijk_mm, atol=1e-4)
    assert np.array_equal(canonical(load_volume(dicom)).data, a.data), "one slice leads to its series"
