# SPDX-License-Identifier: Apache-2.0
"""Keyframe selection on sequences of which every fault is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medrecon.errors import InputError
from medrecon.images import cv2, write_png
from medrecon.ingest.frame_quality import MAX_MOTION, measure, motion
from medrecon.ingest.keyframes import (
    AllKeyframer,
    AllKeyframerConfig,
    QualityKeyframer,
    QualityKeyframerConfig,
    _fill,
)
from medrecon.progress import Quiet
from medrecon.testing import phantoms
from medrecon.types import Frame, FrameSet

W, H = 240, 160
CLIP = Path(__file__).parents[3] / "shared" / "data" / "endo.mp4"


@pytest.fixture(scope="module")
def wall():
    """A long textured wall that a camera passes along."""
    image = phantoms.texture_image(H, 900, seed=3, cell_px=16).astype(int)
    return np.clip(image + 20, 30, 255).astype(np.uint8)


def pan(wall, offsets):
    return [wall[:, o : o + W].copy() for o in offsets]


def frames_of(images, folder, ordered=True):
    frames = []
    for i, image in enumerate(images):
        path = folder / f"{i:06d}.png"
        write_png(path, image)
        frames.append(Frame(i, f"{i:06d}", path, image.shape[1], image.shape[0]))
    return FrameSet(tuple(frames), "test", ordered)


def select(frames, **options):
    return QualityKeyframer(QualityKeyframerConfig(**options)).select(frames, Quiet())


def ids(frames):
    return [f.frame_id for f in frames.frames]


def reasons(frames):
    return {d.frame_id: d.reason for d in frames.dropped}


def test_a_good_pan_is_kept_whole(wall, tmp_path):
    frames = frames_of(pan(wall, range(0, 300, 15)), tmp_path)
    out = select(frames)
    assert ids(out) == ids(frames) and out.dropped == ()


@pytest.mark.parametrize(
    "spoil, kind, figure",
    [
        (lambda i: cv2.GaussianBlur(i, (0, 0), 4), "blurred", "threshold 0.45"),
        (lambda i: (i * 0.05).astype(np.uint8), "dark", "threshold 0.12"),
        (lambda i: np.zeros_like(i), "dark", "0.00"),
        (lambda i: np.full_like(i, 255), "overexposed", "threshold 0.92"),
        (lambda i: cv2.circle(i.copy(), (120, 80), 55, (255, 255, 255), -1), "glare", "threshold 15%"),
    ],
    ids=["blur", "dark", "black", "white", "glare"],
)
def test_one_bad_frame_is_dropped_with_its_figure(wall, tmp_path, spoil, kind, figure):
    images = pan(wall, range(0, 240, 15))
    images[7] = spoil(images[7])
    out = select(frames_of(images, tmp_path))
    assert set(reasons(out)) == {7}
    assert reasons(out)[7].startswith(kind) and figure in reasons(out)[7]


def test_a_white_background_is_no_glare(wall, tmp_path):
    images = pan(wall, range(0, 240, 15))
    for image in images:
        image[:, :60] = image[:, -60:] = 255
    assert select(frames_of(images, tmp_path), min_motion=0).dropped == ()


def test_a_black_background_is_not_dark(tmp_path):
    y, x = np.mgrid[:H, :W]
    ball = (np.hypot(x - 120, y - 80) < 40)[..., None]
    images = [phantoms.texture_image(H, W, seed=s, cell_px=12) * ball.astype(np.uint8) for s in range(5)]
    assert select(frames_of(images, tmp_path)).dropped == ()


def test_still_and_duplicate_frames_go(wall, tmp_path):
    offsets = [0, 0, 0, 20, 40, 40, 60, 80]
    out = select(frames_of(pan(wall, offsets), tmp_path))
    assert ids(out) == [0, 3, 4, 6, 7]
    assert all(r.startswith("still: moved 0.000%") and "0.400%" in r for r in reasons(out).values())


def test_slow_motion_is_measured_from_the_last_frame_kept(wall, tmp_path):
    """One pixel a frame; diagonal 288 px, threshold 3.5 %: every eleventh frame has moved more than 10.1 px."""
    out = select(frames_of(pan(wall, range(40)), tmp_path), min_motion=0.035)
    assert ids(out) == [0, 11, 22, 33]


def test_unordered_sets_keep_frames_that_did_not_move(wall, tmp_path):
    frames = frames_of(pan(wall, [0, 0, 0, 20, 20]), tmp_path, ordered=False)
    assert select(frames).dropped == ()


def test_motion_is_the_shift_over_the_diagonal(wall, tmp_path):
    a, b, c = measure(frames_of(pan(wall, [100, 107, 600]), tmp_path).frames, Quiet())
    assert motion(a, b) == pytest.approx(7 / np.hypot(W, H), rel=0.03)
    assert motion(a, a) == 0
    assert motion(a, c) > 0.1 and motion(a, c) <= MAX_MOTION


def test_target_is_met_evenly_over_motion_not_time(wall, tmp_path):
    """Slow first half (3 px a frame), fast second half (15 px): equal way, so as many keyframes from either."""
    offsets = [3 * i for i in range(50)] + [150 + 15 * i for i in range(10)]
    out = select(frames_of(pan(wall, offsets), tmp_path), target=10)
    assert len(out) == 10
    slow = sum(i < 50 for i in ids(out))
    assert 4 <= slow <= 6
    assert len(out) + len(out.dropped) == 60
    assert all("target 10" in r for r in reasons(out).values())


def test_target_takes_the_sharpest_of_a_stretch(wall, tmp_path):
    images = pan(wall, range(0, 240, 8))
    for i in range(len(images)):
        if i % 3 != 1:
            images[i] = cv2.GaussianBlur(images[i], (0, 0), 1.2)
    out = select(frames_of(images, tmp_path), target=8, min_sharpness=0.0)
    assert np.mean([i % 3 == 1 for i in ids(out)]) > 0.8


def test_target_in_unordered_sets(wall, tmp_path):
    out = select(frames_of(pan(wall, range(0, 200, 10)), tmp_path, ordered=False), target=5)
    assert len(out) == 5
    assert np.diff(ids(out)).max() <= 8


def test_fill_gives_exactly_the_number_of_groups():
    rng = np.random.default_rng(0)
    for _ in range(50):
        stretch = np.sort(rng.integers(0, 20, rng.integers(1, 40)))
        groups = _fill(stretch, 20)
        assert len(np.unique(groups)) == min(20, len(stretch)) or len(np.unique(stretch)) == 20
        assert (np.diff(groups) >= 0).all() and set(groups) == set(range(groups.max() + 1))


def test_when_nothing_is_left_the_tally_is_told(wall, tmp_path):
    images = [np.zeros((H, W, 3), np.uint8)] * 4 + pan(wall, [0, 0, 0])
    with pytest.raises(InputError) as caught:
        select(frames_of(images, tmp_path))
    assert "1 of 7" in caught.value.cause and "4 dark" in caught.value.cause and "2 still" in caught.value.cause
    assert "min_motion" in caught.value.remedy


@pytest.mark.parametrize("keyframer", [AllKeyframer(AllKeyframerConfig()), QualityKeyframer(QualityKeyframerConfig())])
def test_fewer_than_three_frames(wall, tmp_path, keyframer):
    for n in (1, 2):
        with pytest.raises(InputError, match=f"only {n} frame.* 3 pictures"):
            keyframer.select(frames_of(pan(wall, range(n)), tmp_path), Quiet())


def test_all_keeps_all(wall, tmp_path):
    frames = frames_of(pan(wall, [0, 0, 0]), tmp_path)
    assert AllKeyframer(AllKeyframerConfig()).select(frames, Quiet()) == frames


def test_masks_are_looked_at(wall, tmp_path):
    """A frame whose usable part is black is dark, however bright the rest."""
    images = pan(wall, range(0, 90, 15))
    frames = frames_of(images, tmp_path)
    dark = images[2].copy()
    dark[:, :120] = 0
    write_png(tmp_path / "000002.png", dark)
    mask = np.zeros((H, W), bool)
    mask[:, :110] = True
    write_png(tmp_path / "mask.png", mask)
    masked = tuple(replace(f, mask_path=tmp_path / "mask.png") if f.frame_id == 2 else f for f in frames.frames)
    assert set(reasons(select(replace(frames, frames=masked)))) == {2}


def test_same_frames_same_choice(wall, tmp_path):
    frames = frames_of(pan(wall, [int(o) for o in np.cumsum(np.random.default_rng(0).integers(0, 12, 60))]), tmp_path)
    assert select(frames, target=12) == select(frames, target=12)


@pytest.mark.slow
@pytest.mark.skipif(not CLIP.exists(), reason="needs the laparoscopy clip")
def test_laparoscopy_clip(tmp_path):
    """250 frames of a moving scope: fifty keyframes, spread over the clip, and the scope's round border found."""
    from medrecon.ingest.border import find_circle

    video, images = cv2.VideoCapture(str(CLIP)), []
    while True:
        ok, image = video.read()
        if not ok:
            break
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    frames = frames_of(images, tmp_path)
    out = select(frames, target=50)
    assert len(frames) == 250 and len(out) == 50
    assert np.diff(ids(out)).max() <= 30 and ids(out)[0] < 10 and ids(out)[-1] > 235
    circle = find_circle(images[::10])
    assert circle.r == pytest.approx(0.78, abs=0.03) and circle.cx == pytest.approx(0.48, abs=0.02)
