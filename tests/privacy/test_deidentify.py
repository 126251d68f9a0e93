# SPDX-License-Identifier: Apache-2.0
"""De-identification: every identifying tag, nested and private ones, streams, UIDs that stay consistent."""

import io

import cv2
import numpy as np
import openjpeg
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from medrecon.errors import InputError
from medrecon.privacy import actions
from medrecon.privacy.deidentify import deidentify, deidentify_folder, map_uid, pseudonym
from medrecon.progress import Quiet
from medrecon.testing.dicom_files import make_dicom, write_dicom, write_series

KEY = b"k" * 32
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
MARK = "ZZMARK"

# Values that are valid for their VR, and cannot be met by chance.
MARKERS = {
    "AE": MARK, "AS": "077Y", "CS": MARK, "DA": "19770707", "DS": "7707.77", "DT": "19770707070707", "IS": "770777",
    "LO": f"{MARK} lo", "LT": f"{MARK} lt", "PN": f"{MARK}^Pn", "SH": f"{MARK} sh", "ST": f"{MARK} st",
    "TM": "070707.77", "UC": f"{MARK} uc", "UI": "1.2.77.707.77", "UN": MARK.encode(), "UR": f"http://{MARK}",
    "UT": f"{MARK} ut", "OB": MARK.encode(), "OW": MARK.encode(), "FD": 7707.77, "FL": 7707.0, "SL": 770777,
    "UL": 770777, "US": 7707, "SS": 7707,
}  # fmt: skip
LEAKS = [MARK.encode(), b"19770707", b"070707.77", b"1.2.77.707.77", b"7707.77", b"770777", b"077Y"]


def encoded(ds):
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def marked(tags):
    """The dataset elements of the given tags, each with its marker."""
    ds = Dataset()
    for tag in tags:
        vr = dictionary_VR(tag).split(" or ")[0]
        if vr == "SQ":
            item = Dataset()
            item.PatientName, item.StudyComments, item.CodeMeaning = f"{MARK}^X", f"{MARK} y", f"{MARK} z"
            ds.add_new(tag, "SQ", Sequence([item]))
        elif vr in MARKERS:
            ds.add_new(tag, vr, MARKERS[vr])
    return ds


def table_tags():
    known = [t for t in actions.table() if keyword_for_tag(t) and t >> 16 not in (0x0000, 0x0002, 0x0004)]
    return [t for t in known if t not in (0x00080016, 0x00080018)]


def test_the_table_is_the_standards():
    table = actions.table()
    assert len(table) > 600
    # Rows of PS3.15 Table E.1-1, looked up by hand.
    by_hand = {0x00100010: "Z", 0x00100020: "Z/D", 0x00100030: "Z", 0x00080050: "Z", 0x00080080: "X/Z/D",
               0x00080018: "U", 0x0020000D: "U", 0x0020000E: "U", 0x00200052: "U", 0x00081030: "X", 0x00104000: "X",
               0x00180010: "Z/D", 0x00080020: "Z", 0x00081140: "X/Z/U", 0x00880200: "X"}  # fmt: skip
    assert {t: table[t] for t in by_hand} == by_hand


def test_every_listed_element_loses_its_value_at_any_depth():
    ds = make_dicom(GREY)
    ds.update(marked(table_tags()))
    nested = marked(table_tags())
    nested.PatientComments = f"{MARK} deep"
    inner = Dataset()
    inner.ReferencedSeriesSequence = Sequence([nested])
    ds.DerivationCodeSequence = Sequence([inner])
    before = encoded(ds)
    assert before.count(MARK.encode()) > 300 and all(leak in before for leak in LEAKS)
    after = encoded(deidentify(ds, KEY))
    assert [leak for leak in LEAKS if leak in after] == []
    assert encoded(ds) == before, "the original is left as it is"


def test_what_the_table_does_not_list_is_judged_by_kind():
    ds = make_dicom(GREY, PatientName=f"{MARK}^Jane")
    block = ds.private_block(0x0011, f"{MARK} MAKER", create=True)
    block.add_new(0x01, "LO", f"{MARK} private")
    ds.add_new(0x60003000, "OW", MARK.encode())  # overlay
    ds.add_new(0x60000022, "LO", f"{MARK} overlay description")
    ds.add_new(0x50000010, "LO", f"{MARK} curve")
    ds.add_new(0x00189998, "LO", f"{MARK} not in the dictionary")
    ds.ContainerDescription = f"{MARK} unlisted text"
    ds.CalibrationDate = "19770707"
    ds.DateOfLastCalibration = "19770707"
    ds.IrradiationEventUID = "1.2.77.707.77"
    ds.Manufacturer, ds.ManufacturerModelName = "Maker", f"quotes {MARK.lower()}"
    ds.KVP, ds.ConvolutionKernel, ds.RotationDirection = "120", "BONE", "CW"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    out = deidentify(ds, KEY)
    after = encoded(out)
    assert [leak for leak in LEAKS if leak.lower() in after.lower()] == []
    assert (out.Manufacturer, out.KVP, out.ConvolutionKernel, out.RotationDirection) == ("Maker", 120, "BONE", "CW")
    assert out.ImageOrientationPatient == [1, 0, 0, 0, 1, 0] and out.PixelData == ds.PixelData
    assert not any(t.is_private for t in out.keys())


def test_preamble_and_file_meta_are_rewritten():
    ds = make_dicom(GREY)
    ds.preamble = (MARK * 30).encode()[:128]
    ds.file_meta.SourceApplicationEntityTitle = MARK
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.77.707.77", MARK.encode()
    after = encoded(deidentify(ds, KEY))
    assert [leak for leak in LEAKS if leak in after] == []
    again = pydicom.dcmread(io.BytesIO(after))
    assert again.file_meta.MediaStorageSOPInstanceUID == again.SOPInstanceUID != ds.SOPInstanceUID
    assert again.SOPClassUID == ds.SOPClassUID


def test_what_was_done_is_stated():
    out = deidentify(make_dicom(GREY, PatientID="123"), KEY)
    assert out.PatientIdentityRemoved == "YES" and out.LongitudinalTemporalInformationModified == "REMOVED"
    (code,) = out.DeidentificationMethodCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("113100", "DCM") and "PS3.15" in out.DeidentificationMethod
    assert out.PatientID == str(out.PatientName) == pseudonym("/123", KEY)


def test_uids_stay_consistent_and_depend_on_the_key():
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.1.2"
    a = deidentify(make_dicom(GREY, number=1, SourceImageSequence=Sequence([reference])), KEY)
    b = deidentify(make_dicom(GREY, number=2), KEY)
    assert a.SeriesInstanceUID == b.SeriesInstanceUID == map_uid("1.2.3.1", KEY)
    assert a.SourceImageSequence[0].ReferencedSOPInstanceUID == b.SOPInstanceUID != a.SOPInstanceUID
    assert a.SourceImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    other = map_uid("1.2.3.1", b"other" * 8)
    assert other != a.SeriesInstanceUID
    for uid in (other, a.SOPInstanceUID):
        assert uid.startswith("2.25.") and len(uid) <= 64 and pydicom.uid.UID(uid).is_valid


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "examples_ybr_color.dcm", "image_dfl.dcm",
                                  "MR_small_implicit.dcm", "JPEG2000.dcm", "examples_palette.dcm"])  # fmt: skip
def test_published_files_keep_their_pixels_and_lose_their_names(name):
    ds = pydicom.dcmread(get_testdata_file(name, download=False))
    ds.PatientName, ds.InstitutionName = f"{MARK}^A", MARK
    data = encoded(deidentify(ds, KEY))
    again = pydicom.dcmread(io.BytesIO(data))
    np.testing.assert_array_equal(again.pixel_array, ds.pixel_array)
    assert again.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    assert MARK.encode() not in data and str(ds.StudyInstanceUID).encode() not in data
    assert again.get("StudyDate", "") == "" and again.get("PatientBirthDate", "") == ""


def test_comments_in_compressed_streams_go(tmp_path):
    comment = b"\xff\xfe" + (len(MARK) + 2).to_bytes(2, "big") + MARK.encode()
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), (0, 0), 3)
    jpeg = cv2.imencode(".jpg", smooth)[1].tobytes()
    exif = b"\xff\xe1" + (len(MARK) + 8).to_bytes(2, "big") + b"Exif\0\0" + MARK.encode()
    j2k = bytes(openjpeg.encode(smooth, photometric_interpretation=2))
    after_siz = 2 + 2 + int.from_bytes(j2k[4:6], "big")
    com = b"\xff\x64" + (len(MARK) + 4).to_bytes(2, "big") + b"\0\1" + MARK.encode()
    for syntax, frame in (
        (JPEGBaseline8Bit, jpeg[:2] + comment + exif + jpeg[2:]),
        (JPEG2000Lossless, j2k[:after_siz] + com + j2k[after_siz:]),
    ):
        ds = make_dicom(np.stack([smooth] * 2), syntax=syntax, frames=[frame, frame], NumberOfFrames=2)
        before = encoded(ds)
        assert before.count(MARK.encode()) >= 2
        after = encoded(deidentify(ds, KEY))
        assert MARK.encode() not in after and encoded(ds) == before
        np.testing.assert_array_equal(
            pydicom.dcmread(io.BytesIO(after)).pixel_array, pydicom.dcmread(io.BytesIO(before)).pixel_array
        )


@pytest.mark.parametrize(
    "pixels, tags, black",
    [
        (GREY + 1, {}, 0),
        (GREY + 1, {"PhotometricInterpretation": "MONOCHROME1"}, 255),
        (GREY.astype(np.int16) + 7, {}, -32768),
        (np.stack([GREY + 1] * 3, -1), {}, 0),
        (np.stack([GREY + 1] * 2), {"NumberOfFrames": 2}, 0),
    ],
)
def test_rectangles_are_blacked_out(pixels, tags, black):
    ds = make_dicom(pixels, **tags)
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        ds.compress(RLELossless, encoding_plugin="pydicom")
    before = encoded(ds)
    out = pydicom.dcmread(io.BytesIO(encoded(deidentify(ds, KEY, blackout=[(2, 1, 3, 4), (0, 0, 1, 1)]))))
    want = pixels.copy().reshape(
        -1, 6, 8, pixels.shape[-1] if tags.get("NumberOfFrames") is None and pixels.ndim == 3 else 1
    )
    want[:, 1:5, 2:5] = black
    want[:, 0, 0] = black
    np.testing.assert_array_equal(out.pixel_array, want.reshape(pixels.shape))
    assert [c.CodeValue for c in out.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert encoded(ds) == before
    with pytest.raises(InputError, match=r"leaves a picture of 8x6") as error:
        deidentify(ds, KEY, blackout=[(6, 0, 3, 1)])
    assert error.value.remedy


# --- folders -------------------------------------------------------------------------------------------------------


def test_folder(tmp_path):
    src, dst = tmp_path / "Doe Jane", tmp_path / "clean"
    write_series(src / "CT", np.zeros((3, 4, 5), np.int16), name=lambda k: f"DOE_JANE_{k}.dcm", PatientName="DOE^JANE")
    write_dicom(src / "us.dcm", GREY, series="1.5", Modality="US", PatientID="other")
    report = make_dicom(GREY, Rows=None, Columns=None, PixelData=None, PatientName="DOE^JANE")
    report.save_as(src / "sr.dcm", enforce_file_format=True)
    (src / "letter.txt").write_text("DOE")
    before = {p: p.read_bytes() for p in src.rglob("*.*") if p.is_file()}
    progress = Quiet()
    result = deidentify_folder(src, dst, progress, KEY)
    assert (result.n_written, result.n_left_out, result.n_ignored) == (4, 1, 1)
    assert sorted(p.name for p in dst.iterdir()) == [f"00000{n}.dcm" for n in (1, 2, 3, 4)]
    assert not any(b"DOE" in p.read_bytes() for p in dst.iterdir()) and "DOE" not in str(progress.said)
    assert len(result.warnings) == 1 and "silent" in result.warnings[0] and progress.said == list(result.warnings)
    assert {p: p.read_bytes() for p in before} == before
    assert len({pydicom.dcmread(p).PatientID for p in dst.iterdir()}) == 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_without_a_key_nothing_can_be_linked(tmp_path):
    write_dicom(tmp_path / "in" / "a.dcm", GREY)
    for n in ("x", "y"):
        deidentify_folder(tmp_path / "in", tmp_path / n, Quiet())
    a, b = (pydicom.dcmread(tmp_path / n / "000001.dcm").SOPInstanceUID for n in ("x", "y"))
    assert a != b
    with pytest.raises(InputError, match="5 bytes, which can be guessed"):
        deidentify_folder(tmp_path / "in", tmp_path / "z", Quiet(), b"short")


@pytest.mark.parametrize(
    "where, cause",
    [("in", "lies in the source"), ("in/out", "lies in the source"), (".", "or around it"), ("full", "already holds")],
)
def test_unsuitable_output_folders(tmp_path, where, cause):
    write_dicom(tmp_path / "in" / "a.dcm", GREY)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(InputError, match=cause) as error:
        deidentify_folder(tmp_path / "in", tmp_path / where, Quiet(), KEY)
    assert error.value.remedy and sorted(p.name for p in (tmp_path / "in").iterdir()) == ["a.dcm"]


def test_nothing_is_left_when_a_file_is_damaged(tmp_path):
    paths = write_series(tmp_path / "in", np.zeros((3, 4, 5), np.int16))
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    with pytest.raises(InputError, match="DICOM file 3 of 3") as error:
        deidentify_folder(tmp_path / "in", tmp_path / "out", Quiet(), KEY)
    assert error.value.remedy and sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing to de-identify"):
        deidentify_folder(tmp_path / "empty", tmp_path / "out", Quiet(), KEY)
