# SPDX-License-Identifier: Apache-2.0
"""Source image-folder: what goes in comes out, in natural order, without names."""

import json
import struct

import cv2
import numpy as np
import pytest

from medrecon.errors import InputError
from medrecon.images import read_any, write_png
from medrecon.ingest.image_folder import ImageFolderSource, ImageFolderSourceConfig
from medrecon.progress import Quiet
from medrecon.types import FrameSet

RNG = np.random.default_rng(1)


def read(tmp_path, folder, progress=None, **options):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return ImageFolderSource(ImageFolderSourceConfig(path=folder, **options)).read(out, progress or Quiet())


def save(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, rgb[..., ::-1] if rgb.ndim == 3 else rgb)
    assert ok
    path.write_bytes(data.tobytes())


def test_lossless_formats_round_trip_in_natural_order(tmp_path):
    folder = tmp_path / "Bilder von Jürgen 内視鏡"
    images = {n: RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8) for n in ("img2.png", "img10.bmp", "IMG1.TIFF")}
    for name, image in images.items():
        save(folder / name.replace("TIFF", "tiff"), image)
    (folder / "notes.txt").write_text("x")
    (folder / "._img2.png").write_bytes(b"resource fork")
    frames = read(tmp_path, folder)
    assert [f.name for f in frames.frames] == ["000000", "000001", "000002"]
    for frame, name in zip(frames.frames, ("IMG1.TIFF", "img2.png", "img10.bmp")):
        np.testing.assert_array_equal(frame.load_image(), images[name])
        assert (frame.width_px, frame.height_px) == (30, 20) and frame.time_s is None
    frames.save(tmp_path / "out" / "frames.json")
    text = (tmp_path / "out" / "frames.json").read_text()
    assert "img" not in text.lower().replace("images/", "") and "rgen" not in text
    assert FrameSet.load(tmp_path / "out" / "frames.json") == frames


def test_grey_stays_grey_and_alpha_is_dropped(tmp_path):
    grey = RNG.integers(0, 256, (9, 8), dtype=np.uint8)
    save(tmp_path / "in" / "a.png", grey)
    rgba = RNG.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "in" / "b.png"), rgba)
    frames = read(tmp_path, tmp_path / "in")
    np.testing.assert_array_equal(read_any(frames.frames[0].image_path), grey)
    np.testing.assert_array_equal(read_any(frames.frames[1].image_path), rgba[..., 2::-1])


def test_exif_orientation_is_applied(tmp_path):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255  # bright left half
    _, jpeg = cv2.imencode(".jpg", image)
    # EXIF with Orientation = 6: the stored picture must be turned 90 degrees clockwise to be upright.
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<I", 0)
    body = b"Exif\0\0" + tiff
    app1 = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg[:2].tobytes() + app1 + jpeg[2:].tobytes())
    out = read(tmp_path, tmp_path / "in").frames[0].load_image()
    assert out.shape == (32, 16, 3)
    assert out[:14].min() > 200 and out[18:].max() < 50  # left becomes top


def test_sixteen_bit_pictures_share_one_window(tmp_path):
    dark = np.full((10, 10), 1000, np.uint16)
    bright = np.full((10, 10), 3000, np.uint16)
    middle = np.full((10, 10), 2000, np.uint16)
    for n, image in enumerate((dark, bright, middle)):
        save(tmp_path / "in" / f"{n}.png", image)
    frames = read(tmp_path, tmp_path / "in")
    values = [int(f.load_image()[0, 0, 0]) for f in frames.frames]
    assert values == [0, 255, 128]  # (2000 - 1000) / 2000 * 255 = 127.5, rounded up
    assert any("1000 to 3000" in n for n in frames.notes)


def test_tiff_pages_are_frames(tmp_path):
    pages = [np.full((6, 7), v, np.uint8) for v in (10, 20, 30)]
    (tmp_path / "in").mkdir()
    cv2.imwritemulti(str(tmp_path / "in" / "stack.tif"), pages)
    save(tmp_path / "in" / "z.png", np.full((6, 7), 40, np.uint8))
    frames = read(tmp_path, tmp_path / "in")
    assert [int(f.load_image()[0, 0, 0]) for f in frames.frames] == [10, 20, 30, 40]


def test_selection_crop_and_shrink(tmp_path):
    for n in range(10):
        save(tmp_path / "in" / f"{n}.png", np.full((40, 60), 20 * n, np.uint8))
    frames = read(
        tmp_path, tmp_path / "in", stride=2, max_frames=3, crop=(10, 0, 40, 40), max_size_px=20,
        camera={"model": "PINHOLE", "params": (100, 110, 30, 20)},
    )  # fmt: skip
    assert [f.frame_id for f in frames.frames] == [0, 4, 8]
    frame = frames.frames[1]
    assert frame.load_image().shape == (20, 20, 3) and (frame.load_image() == 80).all()
    assert frame.camera.params == (50, 55, 10, 10)  # cx: (30 - 10) / 2
    with pytest.raises(InputError, match=r"crop \[50, 0, 40, 40\] leaves frame 0, which is 60x40"):
        read(tmp_path / "b", tmp_path / "in", crop=(50, 0, 40, 40)) if (tmp_path / "b").mkdir() is None else None


def test_unreadable_pictures_are_dropped_with_reason(tmp_path):
    save(tmp_path / "in" / "1.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / "in" / "3.png", np.zeros((9, 8), np.uint8))
    (tmp_path / "in" / "2 Doe.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    progress = Quiet()
    frames = read(tmp_path, tmp_path / "in", progress)
    assert [f.frame_id for f in frames.frames] == [0, 2]
    assert [(d.frame_id, d.name) for d in frames.dropped] == [(1, "000001")] and "damaged" in frames.dropped[0].reason
    assert "picture 2 of 3" in progress.said[0] and "Doe" not in str(progress.said) + str(frames)
    assert any("differ in size" in n for n in frames.notes)


def test_user_masks(tmp_path):
    image = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    mask = np.zeros((12, 10), bool)
    mask[3:7, 2:] = True
    for n in ("a1", "a2"):
        save(tmp_path / "in" / f"{n}.png", image)
    (tmp_path / "masks").mkdir()
    write_png(tmp_path / "masks" / "a2.png", mask)
    frames = read(tmp_path, tmp_path / "in", masks_path=tmp_path / "masks", crop=(0, 2, 10, 8))
    assert frames.frames[0].mask_path is None
    assert frames.frames[1].mask_path == tmp_path / "out" / "user_masks" / "000001.png"
    np.testing.assert_array_equal(frames.frames[1].load_mask(), mask[2:10])
    assert "1 of 2 pictures have a user mask" in frames.notes


@pytest.mark.parametrize(
    "size, names, cause", [((5, 5), ["a1"], "mask of picture 1 is 5x5"), ((12, 10), ["b"], "none of the 1 masks")]
)
def test_masks_that_do_not_fit(tmp_path, size, names, cause):
    save(tmp_path / "in" / "a1.png", np.zeros((12, 10), np.uint8))
    for n in names:
        save(tmp_path / "masks" / f"{n}.png", np.zeros(size, np.uint8))
    with pytest.raises(InputError, match=cause) as error:
        read(tmp_path, tmp_path / "in", masks_path=tmp_path / "masks")
    assert error.value.remedy


def test_known_poses_follow_opencv_axes(tmp_path):
    save(tmp_path / "in" / "view_1.png", np.zeros((40, 60), np.uint8))
    save(tmp_path / "in" / "view_2.png", np.zeros((40, 60), np.uint8))
    # An OpenGL camera at (1, 2, 3) with its own axes along the world's: it looks along -z, y is up.
    world_from_gl = np.eye(4)
    world_from_gl[:3, 3] = (1, 2, 3)
    data = {
        "fl_x": 50.0, "fl_y": 51.0, "cx": 30.0, "cy": 20.0, "w": 60, "h": 40,
        "frames": [{"file_path": "./images/view_2.jpg", "transform_matrix": world_from_gl.tolist()}],
    }  # fmt: skip
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    frames = read(tmp_path, tmp_path / "in", poses_path=tmp_path / "transforms.json", poses_unit_mm=10)
    assert frames.frames[0].cam_from_world_mm is None
    pose, camera = frames.frames[1].cam_from_world_mm, frames.frames[1].camera
    np.testing.assert_allclose(pose.center, (10, 20, 30))
    # A point 5 mm in front (world -z), 1 mm up and 2 mm right of the camera.
    np.testing.assert_allclose(pose.apply(np.array([12.0, 21.0, 25.0])), (2, -1, 5))
    assert camera.model == "PINHOLE" and camera.params == (50, 51, 30, 20)


def test_a_killed_run_is_resumed_and_ends_the_same(tmp_path):
    for n in range(4):
        save(tmp_path / "in" / f"{n}.png", RNG.integers(0, 256, (8, 9, 3), dtype=np.uint8))
    first = read(tmp_path, tmp_path / "in")
    images = sorted((tmp_path / "out" / "images").iterdir())
    before = [p.read_bytes() for p in images]
    stamp = images[0].stat().st_mtime_ns
    images[2].unlink()
    images[3].rename(images[3].with_name(".000003.png.partial"))
    assert read(tmp_path, tmp_path / "in") == first
    assert [p.read_bytes() for p in sorted((tmp_path / "out" / "images").iterdir())] == before
    assert images[0].stat().st_mtime_ns == stamp
