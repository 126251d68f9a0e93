# SPDX-License-Identifier: Apache-2.0
"""Source dicom: values by hand, transfer syntaxes against uncompressed twins, order, time and choice of series."""

import cv2
import gdcm
import numpy as np
import openjpeg
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from medrecon.errors import InputError
from medrecon.images import read_any
from medrecon.ingest.dicom import DicomSource, DicomSourceConfig
from medrecon.ingest.pixels import Window, apply_window
from medrecon.progress import Quiet
from medrecon.testing.dicom_files import make_dicom, write_dicom, write_series

RNG = np.random.default_rng(2)
GREY = RNG.integers(0, 256, (18, 22), dtype=np.uint8)
RGB = RNG.integers(0, 256, (18, 22, 3), dtype=np.uint8)


def read(tmp_path, path, progress=None, **options):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return DicomSource(DicomSourceConfig(path=path, **options)).read(out, progress or Quiet())


def picture(tmp_path, pixels, options=None, **tags):
    """The one picture that the file gives."""
    frames = read(tmp_path, write_dicom(tmp_path / "in" / "a.dcm", pixels, **tags), **(options or {}))
    return read_any(frames.frames[0].image_path), frames


# --- transfer syntaxes ---------------------------------------------------------------------------------------------


def compressed(tmp_path, pixels, syntax):
    """A file in the syntax, written by an encoder that is not ours."""
    ds = make_dicom(pixels)
    path = tmp_path / "c.dcm"
    if syntax == RLELossless:
        ds.compress(RLELossless, encoding_plugin="pydicom")
    elif syntax == JPEG2000Lossless:
        frame = openjpeg.encode(pixels, photometric_interpretation=1 if pixels.ndim == 3 else 2, use_mct=False)
        ds.PixelData, ds.file_meta.TransferSyntaxUID = encapsulate([bytes(frame)]), syntax
        ds["PixelData"].is_undefined_length = True
    elif syntax.is_encapsulated:
        ds.save_as(tmp_path / "raw.dcm", enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(tmp_path / "raw.dcm"))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return path
    else:
        ds = make_dicom(pixels, syntax=syntax)
    ds.save_as(path, enforce_file_format=True)
    return path


LOSSLESS = [
    ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEGLSLossless,
    JPEGLosslessSV1, JPEG2000Lossless,
]  # fmt: skip


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.keyword)
def test_lossless_syntaxes_keep_every_value(tmp_path, syntax):
    pixels = RNG.integers(0, 4096, (50, 70), dtype=np.uint16)
    path = compressed(tmp_path, pixels, syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    frames = read(tmp_path, path, window=(2047.5, 4095))
    want = np.floor(np.clip((pixels - 2047.0) / 4094 + 0.5, 0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(read_any(frames.frames[0].image_path), want)
    assert frames.notes[1] == syntax.name


def test_jpeg_baseline_colour(tmp_path):
    flat = np.zeros((16, 16, 3), np.uint8) + np.array([200, 90, 30], np.uint8)
    _, jpeg = cv2.imencode(".jpg", flat[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    image, _ = picture(
        tmp_path, flat, syntax=JPEGBaseline8Bit, frames=[jpeg.tobytes()], PhotometricInterpretation="YBR_FULL_422"
    )
    assert np.abs(image.astype(int) - flat).max() <= 3


@pytest.mark.parametrize(
    "name, twin",
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),
    ],
)
def test_published_files_equal_their_uncompressed_twins(tmp_path, name, twin):
    (tmp_path / "b").mkdir()
    path, other = (get_testdata_file(n, download=False) for n in (name, twin))
    a = read(tmp_path, path).frames[0].load_image().astype(int)
    b = read(tmp_path / "b", other).frames[0].load_image().astype(int)
    tolerance = 1 if name.startswith("SC_rgb_gdcm_KY") else 0  # lossy JPEG 2000
    assert a.std() > 10 and np.abs(a - b).max() <= tolerance


# --- values --------------------------------------------------------------------------------------------------------


def test_window_formulas_by_hand():
    # PS3.3 C.11.2.1.2.1, the note's worked example: 8 bits, c = 2048, w = 4096 maps 0..4095 to 0..255.
    x = np.array([-5, 0, 2047.5, 4095, 5000])
    np.testing.assert_allclose(apply_window(x, Window(2048, 4096)), [0, 0, 0.5, 1, 1], atol=1e-12)
    np.testing.assert_allclose(apply_window(np.array([0, 2, 4]), Window(2, 4, "LINEAR_EXACT")), [0, 0.5, 1])
    sigmoid = apply_window(np.array([2.0, 3.0]), Window(2, 4, "SIGMOID"))
    np.testing.assert_allclose(sigmoid, [0.5, 1 / (1 + np.exp(-1))])
    np.testing.assert_array_equal(apply_window(np.array([-1, 0, 1]), Window(0.5, 1)), [0, 0, 1])
    with pytest.raises(InputError, match="cannot be applied"):
        apply_window(x, Window(0, 0.5))


VALUES = np.array([[0, 50, 100, 150, 200, 250]], np.int16)


@pytest.mark.parametrize(
    "tags, options, want",
    [
        # HU = v - 100; LINEAR c 50 w 101: from 0 to 100 HU
        ({"RescaleSlope": 1, "RescaleIntercept": -100, "WindowCenter": 50.5, "WindowWidth": 101}, {},
         [0, 0, 0, 128, 255, 255]),
        ({"WindowCenter": [10, 125], "WindowWidth": [1, 250], "VOILUTFunction": "LINEAR_EXACT"}, {"window_index": 1},
         [0, 51, 102, 153, 204, 255]),
        ({"WindowCenter": 10, "WindowWidth": 2}, {"window": (125.5, 251)}, [0, 51, 102, 153, 204, 255]),
        ({"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 125.5, "WindowWidth": 251}, {},
         [255, 204, 153, 102, 51, 0]),
    ],
)  # fmt: skip
def test_rescale_window_and_polarity(tmp_path, tags, options, want):
    image, _ = picture(tmp_path, VALUES, options, **tags)
    np.testing.assert_array_equal(image[0], want)


def lut(first, entries, bits, keyword):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
    if keyword == "ModalityLUTSequence":
        item.ModalityLUTType = "US"
    return {keyword: Sequence([item])}


def test_voi_lut(tmp_path):
    # stored 0..3 map through the table; beyond its ends the first and last entries hold
    pixels = np.array([[0, 1, 2, 3, 9]], np.uint16)
    image, frames = picture(tmp_path, pixels, **lut(1, [0, 1023, 512], 10, "VOILUTSequence"))
    np.testing.assert_array_equal(image[0], [0, 0, 255, 128, 128])
    assert "VOI look-up table" in frames.notes


def test_modality_lut(tmp_path):
    pixels = np.array([[0, 1, 2]], np.uint16)
    image, _ = picture(tmp_path, pixels, {"window": (500.5, 1001)}, **lut(0, [1000, 0, 500], 16, "ModalityLUTSequence"))
    np.testing.assert_array_equal(image[0], [255, 0, 128])


def test_twelve_signed_bits_with_rubbish_above_them(tmp_path):
    values = np.array([[-2048, -1, 0, 1000, 2047]], np.int16)
    stored = (values.view(np.uint16) & 0x0FFF) | 0x5000  # overlay bits of old machines
    image, _ = picture(tmp_path, stored, {"window": (0, 4096)}, BitsStored=12, HighBit=11, PixelRepresentation=1)
    want = np.floor(np.clip((values + 0.5) / 4095 + 0.5, 0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(image, want)


def test_without_window_eight_bits_are_shown_as_they_are(tmp_path):
    image, frames = picture(tmp_path, GREY)
    np.testing.assert_array_equal(image, GREY)
    assert "full range" in frames.notes


def test_without_window_one_range_serves_the_series_and_padding_does_not_count(tmp_path):
    for n, value in enumerate((100, 200, 300)):
        pixels = np.full((10, 10), value, np.int16)
        pixels[0] = -2000
        write_dicom(tmp_path / "in" / f"{n}.dcm", pixels, number=n, PixelPaddingValue=-2000)
    frames = read(tmp_path, tmp_path / "in")
    assert [int(f.load_image()[5, 5, 0]) for f in frames.frames] == [0, 128, 255]


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_and_planar_configuration(tmp_path, planar):
    ds = make_dicom(RGB, PlanarConfiguration=planar)
    if planar:
        ds.PixelData = np.ascontiguousarray(RGB.transpose(2, 0, 1)).tobytes()
    (tmp_path / "in").mkdir()
    ds.save_as(tmp_path / "in" / "a.dcm", enforce_file_format=True)
    image = read(tmp_path, tmp_path / "in").frames[0].load_image()
    np.testing.assert_array_equal(image, RGB)


def test_ybr_full_becomes_rgb(tmp_path):
    # BT.601 full range, computed by hand: Y 81, Cb 90, Cr 240 is a pure red of (238, 14, 14)
    ybr = np.zeros((4, 4, 3), np.uint8) + np.array([81, 90, 240], np.uint8)
    image, _ = picture(tmp_path, ybr, PhotometricInterpretation="YBR_FULL")
    y, cb, cr = 81, 90 - 128, 240 - 128
    want = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    np.testing.assert_allclose(image[0, 0], want, atol=1)


def test_palette(tmp_path):
    def table(values):
        return np.array(values, "<u2").tobytes()

    descriptor = [4, 0, 16]
    image, _ = picture(
        tmp_path,
        np.array([[0, 1, 2, 3]], np.uint8),
        PhotometricInterpretation="PALETTE COLOR",
        RedPaletteColorLookupTableDescriptor=descriptor,
        GreenPaletteColorLookupTableDescriptor=descriptor,
        BluePaletteColorLookupTableDescriptor=descriptor,
        RedPaletteColorLookupTableData=table([0, 65535, 0, 0]),
        GreenPaletteColorLookupTableData=table([0, 0, 65535, 0]),
        BluePaletteColorLookupTableData=table([0, 0, 0, 65535]),
    )
    np.testing.assert_array_equal(image[0], [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])


def test_sixteen_bit_colour(tmp_path):
    image, _ = picture(tmp_path, RGB.astype(np.uint16) * 257)
    np.testing.assert_array_equal(image, RGB)


# --- frames, order, time -------------------------------------------------------------------------------------------

CINE = np.arange(5, dtype=np.uint8)[:, None, None] * 50 + np.zeros((1, 6, 8), np.uint8)


def firsts(frames):
    return [int(f.load_image()[0, 0, 0]) for f in frames.frames]


@pytest.mark.parametrize(
    "tags, times",
    [
        ({"FrameTime": 40}, [0, 0.04, 0.08, 0.12, 0.16]),
        ({"FrameTimeVector": [0, 10, 20, 30, 40]}, [0, 0.01, 0.03, 0.06, 0.1]),
        ({"CineRate": 10}, [0, 0.1, 0.2, 0.3, 0.4]),
        ({}, [None] * 5),
        ({"FrameTime": 0}, [None] * 5),
    ],
)
def test_multi_frame_times(tmp_path, tags, times):
    path = write_dicom(
        tmp_path / "in" / "a.dcm", CINE, NumberOfFrames=5, Modality="US", BurnedInAnnotation="NO",
        SOPClassUID=UltrasoundMultiFrameImageStorage, **tags,
    )  # fmt: skip
    frames = read(tmp_path, path)
    assert firsts(frames) == [0, 50, 100, 150, 200]
    got = [f.time_s for f in frames.frames]
    assert got == times if times[0] is None else np.allclose(got, times)
    assert firsts(read(tmp_path, path, stride=2)) == [0, 100, 200]


def test_published_cine(tmp_path):
    frames = read(tmp_path, get_testdata_file("examples_ybr_color.dcm", download=False), max_frames=3)
    assert [f.frame_id for f in frames.frames] == [0, 14, 29]
    assert frames.frames[1].load_image().shape == (240, 320, 3)


@pytest.mark.parametrize("order", ["position", "time", "number"])
def test_single_frames_are_ordered(tmp_path, order):
    shuffled = [3, 0, 4, 1, 2]
    for k in range(5):
        tags = {"InstanceNumber": 9 - k}
        if order == "position":
            tags |= {"ImagePositionPatient": [0, 0, 2.5 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            tags |= {"AcquisitionTime": f"1200{59 - k:02d}", "PixelSpacing": [0.5, 0.25]}
        elif order == "time":
            tags |= {"AcquisitionDate": "20200101", "AcquisitionTime": f"1200{k:02d}.5"}
        else:
            tags["InstanceNumber"] = k
        write_dicom(tmp_path / "in" / f"{shuffled[k]}.dcm", CINE[k], **tags, series="1.2.3.1")
    frames = read(tmp_path, tmp_path / "in")
    assert firsts(frames) == [0, 50, 100, 150, 200]
    assert order in frames.notes[0]
    if order == "time":
        assert [f.time_s for f in frames.frames] == [0, 1, 2, 3, 4]
    if order == "position":
        assert frames.frames[0].pixel_spacing_mm == (0.5, 0.25)


def test_spacing_follows_the_shrinking(tmp_path):
    _, frames = picture(tmp_path, np.zeros((64, 32), np.uint8), {"max_size_px": 16}, PixelSpacing=[0.5, 0.25])
    assert frames.frames[0].pixel_spacing_mm == (2.0, 1.0)


def test_several_series_are_listed_without_identifiers(tmp_path):
    write_series(tmp_path / "in" / "DOE", np.zeros((3, 4, 5), np.int16), PatientName="DOE^JANE")
    write_dicom(tmp_path / "in" / "DOE2.dcm", GREY, series="1.9", Modality="DOE MODALITY", SeriesDescription="DOE")
    with pytest.raises(InputError, match="0: CT, 3 images of 5x4 px; 1: unknown modality, 1 image of 22x18 px") as e:
        read(tmp_path, tmp_path / "in")
    assert "DOE" not in str(e.value) and "series: NUMBER" in e.value.remedy
    np.testing.assert_array_equal(read_any(read(tmp_path, tmp_path / "in", series=1).frames[0].image_path), GREY)
    with pytest.raises(InputError, match="no series 7"):
        read(tmp_path, tmp_path / "in", series=7)


@pytest.mark.parametrize(
    "tags, warned",
    [
        ({"BurnedInAnnotation": "YES"}, True),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, True),
        ({"Modality": "US"}, True),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.1", "Modality": "ES"}, False),
    ],
)
def test_burned_in_text_is_warned_of_once(tmp_path, tags, warned):
    for n in range(2):
        write_dicom(tmp_path / "in" / f"{n}.dcm", GREY, number=n, **tags)
    progress = Quiet()
    frames = read(tmp_path, tmp_path / "in", progress)
    assert len(progress.said) == warned
    assert any("crop" in n for n in frames.notes) == warned


def test_video_inside_dicom(tmp_path):
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for n in range(6):
        writer.write(np.full((48, 64, 3), 40 * n, np.uint8))
    writer.release()
    frames = read(
        tmp_path,
        write_dicom(
            tmp_path / "in" / "a.dcm", np.zeros((6, 48, 64, 3), np.uint8), syntax=MPEG4HP41, NumberOfFrames=6,
            frames=[path.read_bytes()], PhotometricInterpretation="YBR_PARTIAL_420", FrameTime=100,
        ),
        stride=2,
    )  # fmt: skip
    assert np.allclose(firsts(frames), [0, 80, 160], atol=4) and frames.frames[1].time_s == pytest.approx(0.2)
