# SPDX-License-Identifier: Apache-2.0
"""Source video: known frames, their times, rotation, and clips that break off."""

from pathlib import Path

import medrecon.images  # noqa: F401

import cv2  # isort: skip
import numpy as np
import pytest
from pydantic import ValidationError

from medrecon.errors import InputError
from medrecon.ingest.video import VideoSource, VideoSourceConfig
from medrecon.progress import Quiet

CLIP = Path(__file__).parents[3] / "shared" / "data" / "endo.mp4"


def read(tmp_path, path, progress=None, **options):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return VideoSource(VideoSourceConfig(path=path, **options)).read(out, progress or Quiet())


@pytest.fixture
def clip(tmp_path):
    """30 frames at 10 frames a second; frame n is grey with value 8 n, its top left quarter white."""
    path = tmp_path / "Mme Müller endo.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for n in range(30):
        image = np.full((48, 64, 3), 8 * n, np.uint8)
        image[:24, :32] = 255
        writer.write(image)
    writer.release()
    return path


def grey(frame):
    return float(frame.load_image()[36:, 40:].mean())


def test_every_frame_with_its_time(tmp_path, clip):
    frames = read(tmp_path, clip)
    assert [f.frame_id for f in frames.frames] == list(range(30)) and frames.ordered
    np.testing.assert_allclose([f.time_s for f in frames.frames], np.arange(30) / 10, atol=1e-6)
    np.testing.assert_allclose([grey(f) for f in frames.frames], 8 * np.arange(30), atol=3)
    assert "30 of 30 frames taken" in frames.notes and "ller" not in str(frames.notes) + frames.source


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"stride": 7}, [0, 7, 14, 21, 28]),
        ({"max_frames": 4}, [0, 10, 19, 29]),
        ({"fps": 2}, [0, 5, 10, 15, 20, 25]),
        ({"fps": 4}, [0, 2, 5, 8, 10, 12, 15, 18, 20, 22, 25, 28]),
        ({"fps": 100, "end_s": 0.5}, [0, 1, 2, 3, 4, 5]),
        ({"start_s": 1.0, "end_s": 1.35}, [10, 11, 12, 13]),
        ({"stride": 3, "max_frames": 1}, [0]),
    ],
)
def test_selection(tmp_path, clip, options, wanted):
    frames = read(tmp_path, clip, **options)
    assert [f.frame_id for f in frames.frames] == wanted
    np.testing.assert_allclose([grey(f) for f in frames.frames], 8 * np.array(wanted), atol=3)


def test_rotation_metadata_is_applied(tmp_path):
    path = tmp_path / "r.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255  # bright left half
    for _ in range(3):
        writer.write(image)
    writer.release()
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes after the type
    one = 0x10000
    matrix = [0, one, 0, -one & 0xFFFFFFFF, 0, 0, 0, 0, 0x40000000]  # 90 degrees clockwise (ISO 14496-12)
    data[at : at + 36] = b"".join(v.to_bytes(4, "big") for v in matrix)
    path.write_bytes(data)
    out = read(tmp_path, path).frames[0].load_image()
    assert out.shape == (64, 48, 3)
    assert out[:28].mean() > 240 and out[36:].mean() < 15  # left becomes top


def test_a_clip_that_breaks_off_keeps_what_decodes(tmp_path, clip):
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * 0.7)])
    progress = Quiet()
    frames = read(tmp_path, clip, progress)
    n = len(frames)
    assert 5 < n < 25
    assert "breaks off" in progress.said[0] and "breaks off" in " ".join(frames.notes)
    np.testing.assert_allclose([grey(f) for f in frames.frames[:-1]], 8 * np.arange(n - 1), atol=3)


def test_bad_options():
    for options in ({"fps": 5, "stride": 2}, {"start_s": 2, "end_s": 1}, {"fps": 0}, {"crop": (0, 0, 0, 5)}):
        with pytest.raises(ValidationError):
            VideoSourceConfig(path="x.mp4", **options)


def test_seconds_beyond_the_clip(tmp_path, clip):
    with pytest.raises(InputError, match="the clip lasts 3.00 s") as error:
        read(tmp_path, clip, start_s=10)
    assert error.value.remedy


@pytest.mark.skipif(not CLIP.exists(), reason="the laparoscopy clip is not at hand")
def test_laparoscopy_clip(tmp_path):
    frames = read(tmp_path, CLIP, max_frames=4, max_size_px=320)
    assert [f.frame_id for f in frames.frames] == [0, 83, 166, 249]
    assert all((f.width_px, f.height_px) == (320, 180) for f in frames.frames)
    np.testing.assert_allclose([f.time_s for f in frames.frames], np.array([0, 83, 166, 249]) / 25, atol=1e-3)


@pytest.mark.skipif(not CLIP.exists(), reason="the laparoscopy clip is not at hand")
def test_truncated_mp4_says_so(tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(CLIP.read_bytes()[: CLIP.stat().st_size // 10])
    progress = Quiet()
    frames = read(tmp_path, path, progress, stride=5, max_size_px=160)
    assert 2 <= len(frames) < 10
    assert "breaks off" in progress.said[0] and "breaks off" in " ".join(frames.notes)
