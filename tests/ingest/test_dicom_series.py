# SPDX-License-Identifier: Apache-2.0
"""DICOM series and the volumes they make: geometry decides, defects are named."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, RLELossless

from medrecon.errors import InputError
from medrecon.ingest.dicom_series import find_series, read_volume
from medrecon.testing.dicom_files import make_dicom, write_dicom, write_series

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 3000, (7, 5, 6), dtype=np.int16)  # [k, j, i]


def read(folder):
    (series,) = find_series(folder)
    return read_volume(series)


def test_order_is_by_geometry_not_by_name_or_number(tmp_path):
    order = RNG.permutation(7)
    write_series(
        tmp_path,
        VOLUME,
        name=lambda k: f"{order[k]}.dcm",
        instance_number=lambda k: int(order[::-1][k]),
    )
    volume = read(tmp_path)
    assert volume.data.dtype == np.int16 and volume.data.shape == (6, 5, 7)
    np.testing.assert_array_equal(volume.data, VOLUME.transpose(2, 1, 0) - 1024)


def test_affine_maps_voxels_to_ras_mm(tmp_path):
    # A coronal stack: rows run to the left (+x LPS), columns to the feet (-z); the normal is +y (posterior).
    spacing, origin = (0.5, 0.75, 2.0), np.array([-10.0, 20.0, 30.0])
    write_series(tmp_path, VOLUME, spacing=spacing, origin=tuple(origin), orientation=(1, 0, 0, 0, 0, -1))
    volume = read(tmp_path)
    i, j, k = 4, 3, 5
    lps = origin + i * 0.5 * np.array([1, 0, 0]) + j * 0.75 * np.array([0, 0, -1]) + k * 2.0 * np.array([0, 1, 0])
    ras = volume.ras_from_ijk_mm @ [i, j, k, 1]
    np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-9)
    assert volume.data[i, j, k] == VOLUME[k, j, i] - 1024
    np.testing.assert_allclose(volume.spacing_mm, spacing)
    assert volume.modality == "CT"


def test_oblique_orientation(tmp_path):
    angle = np.radians(33)
    row, column = (np.cos(angle), np.sin(angle), 0), (0, 0, 1)
    write_series(tmp_path, VOLUME, orientation=(*row, *column))
    volume = read(tmp_path)
    axes = volume.ras_from_ijk_mm[:3, :3] / np.array(volume.spacing_mm)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(axes[:, 0], [-row[0], -row[1], 0], atol=1e-6)


def test_rescale_per_slice_and_fraction_gives_float(tmp_path):
    for k in range(3):
        write_series(
            tmp_path, VOLUME[k : k + 1], origin=(0, 0, 2.0 * k), name=lambda _, k=k: f"{k}.dcm",
            RescaleSlope=f"{0.5 * (k + 1)}", RescaleIntercept=f"{k}",
        )  # fmt: skip
    volume = read(tmp_path)
    assert volume.data.dtype == np.float32
    for k in range(3):
        np.testing.assert_array_equal(volume.data[:, :, k], VOLUME[k].T * np.float32(0.5 * (k + 1)) + k)


def test_whole_values_beyond_int16_become_float(tmp_path):
    write_series(tmp_path, np.full((2, 3, 3), 65000, np.uint16), RescaleIntercept=0)
    volume = read(tmp_path)
    assert volume.data.dtype == np.float32 and (volume.data == 65000).all()


def test_other_files_are_ignored_and_series_kept_apart(tmp_path):
    write_series(tmp_path / "a", VOLUME)
    write_series(tmp_path / "b", VOLUME[:3], series="1.2.3.2")
    write_series(tmp_path / "scout", VOLUME[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "a" / "000.dcm").read_bytes())
    series = find_series(tmp_path)
    assert [(s.n_images, s.localizer) for s in series] == [(7, False), (3, False), (1, True)]
    assert series[0].label == "CT, 7 images of 6x5 px"
    assert read_volume(series[0]).data.shape == (6, 5, 7)


def test_compressed_slices(tmp_path):
    for k, path in enumerate(write_series(tmp_path, VOLUME)):
        import pydicom

        ds = pydicom.dcmread(path)
        ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        ds.save_as(path)
        assert ds.file_meta.TransferSyntaxUID == RLELossless, k
    np.testing.assert_array_equal(read(tmp_path).data, VOLUME.transpose(2, 1, 0) - 1024)


def enhanced(order, **tags):
    """One enhanced CT file whose frames lie in the given order along the normal."""

    def item(**values):
        ds = Dataset()
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        return ds

    shared = item(
        PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
        PixelMeasuresSequence=Sequence([item(PixelSpacing=[0.75, 0.5])]),
        PixelValueTransformationSequence=Sequence([item(RescaleSlope=2, RescaleIntercept=-1000)]),
    )
    frames = [item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, 1.5 * k])])) for k in order]
    return make_dicom(
        VOLUME[order],
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=len(order),
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
        **tags,
    )


def test_enhanced_multi_frame(tmp_path):
    enhanced(RNG.permutation(7)).save_as(tmp_path / "e.dcm", enforce_file_format=True)
    volume = read(tmp_path / "e.dcm")
    np.testing.assert_array_equal(volume.data, VOLUME.transpose(2, 1, 0) * 2 - 1000)
    np.testing.assert_allclose(volume.spacing_mm, (0.5, 0.75, 1.5))


def test_enhanced_four_dimensional_is_refused(tmp_path):
    enhanced(np.array([0, 1, 2, 0, 1, 2])).save_as(tmp_path / "e.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="6 slices share 3 positions"):
        read(tmp_path)


def tilt(k):
    return np.array([0, 0.5 * k, 0])


def gap(k):
    return np.array([0, 0, 2.0 * (k >= 4)])


def uneven(k):
    return np.array([0, 0, 0.7 * (k == 3)])


@pytest.mark.parametrize(
    "options, cause",
    [
        ({"shift": tilt}, r"sideways by up to 3.00 mm.*tilted by about 14.0 degrees"),
        ({"shift": gap}, r"2 mm expected, 4 mm found between slices 4 and 5 of 7, as if 1 were missing"),
        ({"shift": uneven}, r"unevenly spaced: 2 mm expected, 2.7 mm found between slices 3 and 4"),
        ({"shift": lambda k: np.array([0, 0, -2.0 * (k == 6)])}, "7 slices share 6 positions"),
        ({"ImageType": ["DERIVED", "SECONDARY", "LOCALIZER"]}, "scout"),
        ({"PixelSpacing": None}, "lacks or garbles the position, orientation or pixel spacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "lacks or garbles"),
        ({"PixelSpacing": [0, 1]}, "pixel spacing that is not positive"),
        ({"PixelData": None}, "holds no pixel data"),
        ({"RescaleSlope": "nan"}, "lacks or garbles|damaged"),
    ],
)
def test_defects_are_named_with_a_remedy(tmp_path, options, cause):
    write_series(tmp_path / "Jane Doe", VOLUME, name=lambda k: f"DOE {k}.dcm", PatientName="DOE^JANE", **options)
    with pytest.raises(InputError, match=cause) as error:
        read(tmp_path)
    assert error.value.remedy
    assert "doe" not in str(error.value).lower()


def test_rounded_positions_are_no_defect(tmp_path):
    # 0.625 mm steps written with one decimal: gaps of 0.6 and 0.7 mm... still one regular grid.
    write_series(
        tmp_path, VOLUME, spacing=(0.5, 0.5, 0.625), origin=(0, 0, 0),
        shift=lambda k: np.array([0, 0, round(0.625 * k + 1e-9, 1) - 0.625 * k]),
    )  # fmt: skip
    assert read(tmp_path).spacing_mm[2] == pytest.approx(0.625, rel=0.03)


def test_mixed_sizes(tmp_path):
    write_series(tmp_path / "a", VOLUME)
    write_series(tmp_path / "b", VOLUME[:2, :4], origin=(-10, 20, 44))
    with pytest.raises(InputError, match="2 of 6x4, 7 of 6x5") as error:
        read(tmp_path)
    assert error.value.remedy


def test_truncated_pixels_and_header(tmp_path):
    paths = write_series(tmp_path, VOLUME)
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[:-20])
    with pytest.raises(InputError, match="DICOM file 4 of 7.*cut off or damaged"):
        read(tmp_path)
    paths[3].write_bytes(whole[:200])
    with pytest.raises(InputError, match="DICOM file 4 of 7 begins as DICOM but is cut off"):
        read(tmp_path)


def test_single_slice_colour_and_nothing(tmp_path):
    write_series(tmp_path / "one", VOLUME[:1])
    with pytest.raises(InputError, match="one slice"):
        read(tmp_path / "one")
    for n in (1, 2):
        write_dicom(tmp_path / "rgb" / f"{n}.dcm", np.zeros((4, 4, 3), np.uint8), number=n)
    with pytest.raises(InputError, match="colour picture"):
        read(tmp_path / "rgb")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.dcm").write_text("not DICOM")
    with pytest.raises(InputError, match="none of the 1 files found is DICOM"):
        find_series(tmp_path / "none")
    with pytest.raises(InputError, match="does not exist"):
        find_series(tmp_path / "nowhere")
    report = make_dicom(np.zeros((2, 2), np.uint8), Rows=None, Columns=None, PixelData=None)
    (tmp_path / "report").mkdir()
    report.save_as(tmp_path / "report" / "r.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="1 DICOM files were found but none holds pixel data"):
        find_series(tmp_path / "report")
