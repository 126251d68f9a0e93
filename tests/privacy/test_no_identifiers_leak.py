# SPDX-License-Identifier: Apache-2.0
"""Nothing that identifies gets past a source: markers in every tag and file name, then all output is searched."""

import logging
import warnings

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medrecon.errors import InputError
from medrecon.ingest.dicom import DicomSource, DicomSourceConfig
from medrecon.ingest.dicom_io import quiet
from medrecon.ingest.dicom_series import find_series, read_volume
from medrecon.ingest.image_folder import ImageFolderSource, ImageFolderSourceConfig
from medrecon.ingest.video import VideoSource, VideoSourceConfig
from medrecon.privacy.deidentify import deidentify_folder
from medrecon.progress import Quiet
from medrecon.testing.dicom_files import write_series

MARK = "QQMARKER"
# Elements that must hold what they say for the file to be an image at all.
_STRUCTURAL = {"SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SpecificCharacterSet",
               "PhotometricInterpretation", "FrameOfReferenceUID", "ImageType", "VOILUTFunction"}  # fmt: skip
_TEXT = ("LO", "SH", "LT", "ST", "UT", "UC", "PN", "AE", "CS", "UR")


def tags_with_markers():
    """Every text element of the dictionary, named after itself."""
    out = {}
    for tag, (vr, _vm, _name, retired, keyword) in DicomDictionary.items():
        if vr in _TEXT and keyword and not retired and tag >> 16 > 2 and keyword not in _STRUCTURAL:
            out[keyword] = MARK + keyword[:8].upper()
    item = Dataset()
    item.PatientName, item.StudyComments = MARK, MARK
    return {
        **out,
        # De-identification keeps codes and the maker's name, unless they quote a word of the patient's name, as here.
        "PatientName": f"{MARK}^JANE",
        "PatientBirthDate": "19770707",
        "StudyDate": "19770707",
        "RequestAttributesSequence": Sequence([item]),
    }


class Ears(logging.Handler):
    def __init__(self):
        super().__init__(0)
        self.heard = []

    def emit(self, record):
        self.heard.append(record.getMessage())


@pytest.fixture
def listen(tmp_path, capfd):
    """Runs something on out_dir; returns all it wrote, said, logged, warned of and printed, as bytes."""

    def run(action):
        progress, ears, out = Quiet(), Ears(), tmp_path / "out"
        out.mkdir()
        logging.getLogger().addHandler(ears)
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.DEBUG)
        error = ""
        capfd.readouterr()
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                try:
                    result = action(out, progress)
                except InputError as e:
                    result, error = None, f"{e} {e.__cause__} {e.__suppress_context__ or e.__context__}"
        finally:
            logging.getLogger().removeHandler(ears)
            logging.getLogger().setLevel(level)
        if hasattr(result, "save"):
            result.save(out / "frames.json")
        printed = capfd.readouterr()
        texts = [*progress.said, *ears.heard, *[str(w.message) for w in warned], printed.out, printed.err, error]
        texts += [p.relative_to(out).as_posix() for p in out.rglob("*")]
        data = "\n".join(texts).encode() + b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
        return data, result, error

    return run


def assert_silent(data):
    assert MARK.lower() not in data.decode("latin-1").lower() and b"19770707" not in data


@pytest.fixture
def marked_series(tmp_path):
    folder = tmp_path / MARK / f"{MARK}^Jane"
    with quiet():  # some markers break the rules of their VR: so do real files
        write_series(
            folder, np.random.default_rng(0).integers(0, 900, (4, 16, 16), dtype=np.int16),
            name=lambda k: f"{MARK}_{k}.dcm", **{**tags_with_markers(), "BurnedInAnnotation": "YES"},
        )  # fmt: skip
    raw = next(folder.iterdir()).read_bytes()
    assert raw.count(MARK.encode()) > 500 and b"19770707" in raw
    return folder


def test_dicom_source(marked_series, listen):
    data, frames, error = listen(lambda out, p: DicomSource(DicomSourceConfig(path=marked_series)).read(out, p))
    assert not error and len(frames) == 4
    assert_silent(data)


def test_volume(marked_series, listen):
    data, volume, error = listen(lambda out, p: read_volume(find_series(marked_series)[0]))
    assert not error and volume.data.shape == (16, 16, 4)
    assert MARK not in repr(volume.notes) + volume.modality
    assert_silent(data)


def test_deidentify(marked_series, listen):
    data, report, error = listen(lambda out, p: deidentify_folder(marked_series, out / "clean", p))
    assert not error and report.n_written == 4
    assert_silent(data)


@pytest.mark.parametrize("damage", ["truncate", "no pixels", "two series", "tilt", "garbled header", "window"])
def test_errors_about_damaged_dicom(marked_series, listen, damage):
    paths = sorted(marked_series.iterdir())
    options = {}
    if damage == "truncate":
        paths[1].write_bytes(paths[1].read_bytes()[:-100])
    elif damage == "garbled header":
        raw = bytearray(paths[1].read_bytes())
        raw[400:440] = b"\xff" * 40
        paths[1].write_bytes(raw)
    elif damage == "window":
        options["window_index"] = 7
    with quiet():
        for path in [] if damage not in ("no pixels", "two series", "tilt", "window") else paths[:2]:
            ds = pydicom.dcmread(path)
            if damage == "no pixels":
                del ds.PixelData
            elif damage == "window":
                ds.WindowCenter, ds.WindowWidth = 1, 2
            elif damage == "two series":
                ds.SeriesInstanceUID = "1.2.5"
            else:
                ds.ImagePositionPatient = [0, ds.InstanceNumber * 3, ds.ImagePositionPatient[2]]
            ds.save_as(path)

    def action(out, p):
        if damage == "tilt":
            return read_volume(find_series(marked_series)[0])
        return DicomSource(DicomSourceConfig(path=marked_series, **options)).read(out, p)

    data, _, error = listen(action)
    assert "try:" in error
    assert_silent(data)


@pytest.mark.parametrize("broken", [False, True])
def test_image_folder(tmp_path, listen, broken):
    folder = tmp_path / MARK
    folder.mkdir()
    for n in range(3):
        cv2.imwrite(str(folder / f"{MARK} {n}.tif"), np.full((8, 8), n, np.uint8))
    (folder / f"{MARK} 1.tif").write_bytes((folder / f"{MARK} 1.tif").read_bytes()[:60])
    if broken:
        for path in folder.iterdir():
            path.write_bytes(b"II*\0" + MARK.encode() * 9)
    data, frames, error = listen(lambda out, p: ImageFolderSource(ImageFolderSourceConfig(path=folder)).read(out, p))
    assert ("try:" in error) if broken else (len(frames) == 2 and len(frames.dropped) == 1)
    assert_silent(data)


@pytest.mark.parametrize("broken", [False, True])
def test_video(tmp_path, listen, broken):
    path = tmp_path / f"{MARK}.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    for n in range(8):
        writer.write(np.full((32, 32, 3), 30 * n, np.uint8))
    writer.release()
    if broken:
        path.write_bytes(path.read_bytes()[:150])
    data, frames, error = listen(lambda out, p: VideoSource(VideoSourceConfig(path=path)).read(out, p))
    assert ("try:" in error) if broken else len(frames) == 8
    assert_silent(data)


def test_missing_paths_are_not_quoted(tmp_path, listen):
    missing = tmp_path / MARK / "x.mp4"
    for n, source in enumerate((
        lambda: find_series(missing),
        lambda: ImageFolderSource(ImageFolderSourceConfig(path=missing)).read(tmp_path / "o", Quiet()),
        lambda: VideoSource(VideoSourceConfig(path=missing)).read(tmp_path / "o", Quiet()),
    )):  # fmt: skip
        with pytest.raises(InputError, match="does not exist") as error:
            source()
        assert MARK not in str(error.value) and error.value.remedy, n
