# SPDX-License-Identifier: Apache-2.0
"""Bad input to the picture sources: one message with cause and remedy, exit code 3, and no incomplete file."""

import contextlib
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLSLossless

from medrecon.errors import InputError, MedreconError, StageError
from medrecon.images import read_any
from medrecon.ingest.dicom import DicomSource, DicomSourceConfig
from medrecon.ingest.dicom_series import find_series, read_volume
from medrecon.ingest.image_folder import ImageFolderSource, ImageFolderSourceConfig
from medrecon.ingest.video import VideoSource, VideoSourceConfig
from medrecon.progress import Quiet
from medrecon.testing.dicom_files import make_dicom, write_dicom, write_series

GREY = np.arange(80, dtype=np.uint8).reshape(8, 10)
STACK = np.arange(6 * 80, dtype=np.int16).reshape(6, 8, 10)


def images(path, **options):
    return lambda out: ImageFolderSource(ImageFolderSourceConfig(path=path, **options)).read(out, Quiet())


def video(path, **options):
    return lambda out: VideoSource(VideoSourceConfig(path=path, **options)).read(out, Quiet())


def dicom(path, **options):
    return lambda out: DicomSource(DicomSourceConfig(path=path, **options)).read(out, Quiet())


def volume(path):
    return lambda out: read_volume(find_series(path)[0])


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def png(width, height, rows=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path.parent


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def header_only_avi(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 32))
    writer.release()
    return path


def unreadable(path):
    """Root may read anything, so the failure is made where the source asks the system."""
    path.mkdir()
    return path


# name -> (what to run, given a folder to prepare; a word of the cause)
CASES = {
    # image folders
    "images: no such folder": (lambda d: images(d / "none"), "does not exist"),
    "images: a file instead of a folder": (lambda d: images(put(d / "a.png", b"x")), "is a file"),
    "images: empty folder": (lambda d: images(unreadable(d / "e")), "holds no pictures"),
    "images: only other files": (lambda d: images(put(d / "i" / "a.txt", b"x").parent), "holds no pictures"),
    "images: only folders": (lambda d: images(put(d / "i" / "sub" / "a.png", b"x").parents[1]), "1 folders"),
    "images: DICOM files": (lambda d: images(write_dicom(d / "i" / "a.dcm", GREY).parent), "holds no pictures"),
    "images: zero bytes": (lambda d: images(put(d / "i" / "a.png", b"").parent), "empty"),
    "images: corrupted PNG": (lambda d: images(put(d / "i" / "a.png", png(8, 8, b"\0" * 9)).parent), "damaged"),
    "images: text called PNG": (lambda d: images(put(d / "i" / "a.png", b"hello" * 99).parent), "damaged"),
    "images: PNG claims 60000x60000": (
        lambda d: images(put(d / "i" / "a.png", png(60000, 60000)).parent),
        "60000x60000",
    ),
    "images: BMP claims a huge size": (
        lambda d: images(put(d / "i" / "a.bmp", b"BM" + bytes(12) + struct.pack("<Iii", 40, 90000, -90000)).parent),
        "90000x90000",
    ),
    "images: TIFF of floats with NaN": (
        lambda d: images(tiff(d / "i" / "a.tif", np.full((8, 8), np.nan, np.float32))),
        "NaN",
    ),
    "images: TIFF of floats": (lambda d: images(tiff(d / "i" / "a.tif", np.ones((8, 8), np.float32))), "float32"),
    "images: crop outside": (
        lambda d: images(tiff(d / "i" / "a.png", GREY), crop=(5, 5, 10, 10)),
        "leaves frame 0",
    ),
    "images: masks folder is missing": (
        lambda d: images(tiff(d / "i" / "a.png", GREY), masks_path=d / "none"),
        "masks_path",
    ),
    "images: poses are not JSON": (
        lambda d: images(tiff(d / "i" / "a.png", GREY), poses_path=put(d / "t.json", b"{")),
        "transforms.json",
    ),
    "images: poses are binary": (
        lambda d: images(tiff(d / "i" / "a.png", GREY), poses_path=put(d / "t.json", b"\xff\xfe\x80")),
        "poses_path",
    ),
    "images: a pose that mirrors": (
        lambda d: images(
            tiff(d / "i" / "a.png", GREY),
            poses_path=put(
                d / "t.json",
                b'{"frames": [{"file_path": "a", "transform_matrix": [[-1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}]}',
            ),
        ),
        "not a rotation",
    ),
    "images: poses of other pictures": (
        lambda d: images(tiff(d / "i" / "a.png", GREY), poses_path=put(d / "t.json", b'{"frames": []}')),
        "names none",
    ),
    # video
    "video: no such file": (lambda d: video(d / "none.mp4"), "does not exist"),
    "video: a folder": (lambda d: video(unreadable(d / "e")), "is a folder"),
    "video: zero bytes": (lambda d: video(put(d / "a.mp4", b"")), "empty"),
    "video: text called .mp4": (lambda d: video(put(d / "a.mp4", b"These are notes.\n" * 50)), "plain text"),
    "video: rubbish": (lambda d: video(put(d / "a.mp4", bytes(range(256)) * 40)), "not a video"),
    "video: zero frames": (lambda d: video(header_only_avi(d / "a.avi")), "video"),
    # DICOM pictures
    "dicom: no such path": (lambda d: dicom(d / "none"), "does not exist"),
    "dicom: empty folder": (lambda d: dicom(unreadable(d / "e")), "none of the 0 files"),
    "dicom: nothing is DICOM": (lambda d: dicom(put(d / "i" / "a.dcm", b"x" * 300).parent), "none of the 1 files"),
    "dicom: header cut off": (lambda d: dicom(cut(write_dicom(d / "a.dcm", GREY), 180)), "cut off or damaged"),
    "dicom: pixels cut off": (lambda d: dicom(cut(write_dicom(d / "a.dcm", GREY), -30)), "cut off or damaged"),
    "dicom: no pixel data": (lambda d: dicom(write_dicom(d / "a.dcm", GREY, PixelData=None)), "no pixel data"),
    "dicom: claims more frames than there are": (
        lambda d: dicom(write_dicom(d / "a.dcm", GREY, NumberOfFrames=9)),
        "cut off or damaged",
    ),
    "dicom: absurd size": (
        lambda d: dicom(write_dicom(d / "a.dcm", GREY, Rows=65535, Columns=65535, NumberOfFrames=9999)),
        "cannot be right",
    ),
    "dicom: no decoder": (
        lambda d: dicom(
            write_dicom(d / "a.dcm", GREY, syntax=UID("1.2.840.10008.1.2.4.94"), frames=[b"\xff\x0a\x00\x00"])
        ),
        "decoder",
    ),
    "dicom: damaged stream": (
        lambda d: dicom(write_dicom(d / "a.dcm", GREY, syntax=JPEGLSLossless, frames=[b"\xff\xd8" * 9])),
        "damaged",
    ),
    "dicom: two series": (
        lambda d: dicom([write_dicom(d / "i" / s, GREY, series=f"1.2.{s}") for s in ("1", "2")][0].parent),
        "several",
    ),
    "dicom: no such window": (
        lambda d: dicom(write_dicom(d / "a.dcm", GREY, WindowCenter=1, WindowWidth=9), window_index=3),
        "window_index 3",
    ),
    "dicom: window of no width": (
        lambda d: dicom(write_dicom(d / "a.dcm", GREY, WindowCenter=1, WindowWidth=0)),
        "cannot be applied",
    ),
    "dicom: palette is missing": (
        lambda d: dicom(write_dicom(d / "a.dcm", GREY, PhotometricInterpretation="PALETTE COLOR")),
        "palette",
    ),
    # DICOM volumes
    "volume: gantry tilt": (
        lambda d: volume(write_series(d / "i", STACK, shift=lambda k: np.array([0, 0.4 * k, 0]))[0].parent),
        "tilted",
    ),
    "volume: uneven gaps": (
        lambda d: volume(write_series(d / "i", STACK, shift=lambda k: np.array([0, 0, k * k / 5]))[0].parent),
        "unevenly",
    ),
    "volume: a slice is missing": (
        lambda d: volume(write_series(d / "i", STACK, shift=lambda k: np.array([0, 0, 2.0 * (k > 2)]))[0].parent),
        "1 were missing",
    ),
    "volume: the same slice twice": (
        lambda d: volume(write_series(d / "i", STACK, shift=lambda k: np.array([0, 0, -2.0 * (k > 2)]))[0].parent),
        "share 5 positions",
    ),
    "volume: one slice": (lambda d: volume(write_series(d / "i", STACK[:1])[0]), "one slice"),
    "volume: a slice is cut off": (
        lambda d: volume(cut(write_series(d / "i", STACK)[2], -50).parent),
        "DICOM file 3 of 6",
    ),
    "volume: positions are missing": (
        lambda d: volume(write_series(d / "i", STACK, ImagePositionPatient=None)[0].parent),
        "lacks or garbles",
    ),
    "volume: screenshots in colour": (
        lambda d: volume(write_series(d / "i", np.zeros((2, 8, 10, 3), np.uint8))[0].parent),
        "colour",
    ),
}


def assert_only_complete_files(out):
    for path in out.rglob("*"):
        if path.is_file():
            assert path.suffix == ".png", path.name
            read_any(path)


@pytest.mark.parametrize("name", CASES)
def test_one_message_with_cause_and_remedy(name, tmp_path):
    prepare, cause = CASES[name]
    folder = tmp_path / "Ordner mit Leerzeichen é 内"
    folder.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    run = prepare(folder)
    with pytest.raises(InputError) as error:
        run(out)
    assert cause in error.value.cause, error.value.cause
    assert error.value.remedy and error.value.exit_code == 3
    assert "\n" not in error.value.cause and "Ordner" not in str(error.value)
    assert_only_complete_files(out)


@pytest.mark.parametrize("kind", ["images", "dicom"])
def test_folder_that_may_not_be_read(kind, tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="may not be read") as error:
        {"images": images, "dicom": dicom}[kind](tmp_path)(tmp_path)
    assert "read permission" in error.value.remedy


@contextlib.contextmanager
def full_disk_after(n, monkeypatch):
    """The n-th rename into place fails as on a full disk."""
    real, calls = os.replace, []

    def replace(a, b):
        calls.append(b)
        if len(calls) > n:
            raise OSError(28, "No space left on device")
        real(a, b)

    with monkeypatch.context() as m:
        m.setattr(os, "replace", replace)
        yield


@pytest.mark.parametrize("kind", ["images", "dicom"])
def test_full_disk_leaves_whole_pictures_and_the_next_run_goes_on(kind, tmp_path, monkeypatch):
    for n in range(4):
        if kind == "images":
            tiff(tmp_path / "in" / f"{n}.png", GREY + n)
        else:
            write_dicom(tmp_path / "in" / f"{n}.dcm", GREY + np.uint8(n), number=n)
    run, out = {"images": images, "dicom": dicom}[kind](tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    with full_disk_after(2, monkeypatch), pytest.raises(StageError, match="No space left") as error:
        run(out)
    assert error.value.exit_code == 4 and "resumes" in error.value.remedy
    assert_only_complete_files(out)
    assert len(list((out / "images").iterdir())) == 2
    frames = run(out)
    assert len(frames) == 4
    np.testing.assert_array_equal(read_any(frames.frames[3].image_path), GREY + 3)


def test_output_folder_that_may_not_be_written(tmp_path):
    tiff(tmp_path / "in" / "a.png", GREY)
    put(tmp_path / "out", b"a file where the folder should be")
    with pytest.raises(MedreconError, match="cannot be written") as error:
        images(tmp_path / "in")(tmp_path / "out")
    assert error.value.remedy


def test_camera_with_too_few_parameters():
    with pytest.raises(ValidationError, match="OPENCV takes 8 parameters"):
        ImageFolderSourceConfig(path="x", camera={"model": "OPENCV", "params": (1, 2, 3)})


def test_hostile_headers_do_not_crash_the_reader(tmp_path):
    """Bytes of a good file are flipped: it reads, or it is an InputError; nothing else."""
    rng = np.random.default_rng(3)
    good = tmp_path / "good.dcm"
    make_dicom(GREY, syntax=ExplicitVRLittleEndian, WindowCenter=40, WindowWidth=80).save_as(
        good, enforce_file_format=True
    )
    data = good.read_bytes()
    outcomes = set()
    for n in range(60):
        bad = bytearray(data)
        for at in rng.integers(132, len(data), 6):
            bad[at] = rng.integers(0, 256)
        path = put(tmp_path / f"{n}" / "x.dcm", bytes(bad))
        try:
            dicom(path)(tmp_path / f"{n}")
            outcomes.add("read")
        except InputError as e:
            assert e.remedy
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
