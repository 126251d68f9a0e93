# SPDX-License-Identifier: Apache-2.0
"""The masks stage and the search for an endoscope's circular view."""

import numpy as np
import pytest

from medrecon.errors import InputError
from medrecon.images import cv2, read_mask, write_png
from medrecon.ingest.border import find_circle, follow_circle
from medrecon.ingest.masks import MaskConfig, write_masks
from medrecon.progress import Quiet
from medrecon.testing import phantoms
from medrecon.types import Frame, FrameSet

W, H = 320, 180


def texture(seed, height=H, width=W):
    return np.clip(phantoms.texture_image(height, width, seed=seed, cell_px=20).astype(int) + 30, 40, 255).astype(
        np.uint8
    )


def scope(seed, cx=0.48, cy=0.55, r=0.75, shake=(0, 0), noise=6):
    """Texture behind a black surround with a round opening; noise as a coded video has it."""
    y, x = np.mgrid[:H, :W] + 0.5
    distance = np.hypot(x - cx * W - shake[0], y - cy * H - shake[1])
    opening = np.clip(r * H - distance + 0.5, 0, 1)[..., None]
    rng = np.random.default_rng(seed)
    image = texture(seed) * opening + rng.integers(0, noise, (H, W, 1))
    return np.clip(image, 0, 255).astype(np.uint8)


def frames_of(images, folder, masks=None):
    out = []
    for i, image in enumerate(images):
        path = folder / "in" / f"{i:06d}.png"
        write_png(path, image)
        mask_path = None
        if masks is not None and masks[i] is not None:
            mask_path = folder / "in" / f"mask{i}.png"
            write_png(mask_path, masks[i])
        out.append(Frame(i, f"{i:06d}", path, image.shape[1], image.shape[0], mask_path))
    return FrameSet(tuple(out), "test")


@pytest.mark.parametrize("cx, cy, r", [(0.48, 0.55, 0.75), (0.5, 0.5, 0.48), (0.35, 0.5, 0.5), (0.5, 0.5, 0.9)])
def test_circle_is_found_within_two_percent(cx, cy, r):
    found = find_circle([scope(s, cx, cy, r) for s in range(6)])
    assert found is not None
    assert abs(found.cx - cx) * W < 0.02 * r * H and abs(found.cy - cy) * H < 0.02 * r * H
    assert abs(found.r - r) < 0.02 * r


def test_circle_with_text_beside_it_and_an_instrument_in_it():
    images = [scope(s, 0.5, 0.5, 0.5) for s in range(6)]
    for image in images:
        cv2.putText(image, "12:03", (5, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
        cv2.line(image, (220, 178), (170, 100), (3, 3, 3), 12)
    found = find_circle(images)
    assert found is not None and abs(found.r - 0.5) < 0.01 and abs(found.cx - 0.5) < 0.01


def test_shaking_view_is_followed_frame_by_frame():
    shakes = [(0, 0), (5, 0), (-4, 2), (3, -3), (0, 4), (-3, 0)]
    images = [scope(s, 0.5, 0.5, 0.6, shake) for s, shake in enumerate(shakes)]
    common = find_circle(images)
    for image, shake in zip(images, shakes):
        own = follow_circle(image, common)
        assert abs(own.cx * W - (160 + shake[0])) < 1.5 and abs(own.cy * H - (90 + shake[1])) < 1.5
        assert common.mask(W, H)[image.max(2) < 10].mean() < 0.02  # the common one is inside nearly every view


def sphere_views(radius_px):
    """A textured ball that turns in front of black, drifting a little as rendered orbits do."""
    y, x = np.mgrid[:H, :W]
    for s in range(8):
        inside = np.hypot(x - 160 - 3 * s, y - 90 + s) < radius_px
        yield texture(s) * inside[..., None].astype(np.uint8)


def body_views():
    """An egg-shaped body that turns in front of black and fills the height."""
    y, x = np.mgrid[:H, :W]
    for s in range(12):
        a = s * np.pi / 6
        u, v = (x - 160) * np.cos(a) + (y - 90) * np.sin(a), (y - 90) * np.cos(a) - (x - 160) * np.sin(a)
        yield texture(s) * ((u / 85) ** 2 + (v / 55) ** 2 < 1)[..., None].astype(np.uint8)


def pillar_box():
    for s in range(6):
        image = texture(s)
        image[:, :60] = image[:, -60:] = 2
        yield image


@pytest.mark.parametrize(
    "images",
    [
        [texture(s) for s in range(6)],
        list(sphere_views(60)),
        list(body_views()),
        list(pillar_box()),
        [np.zeros((H, W, 3), np.uint8)] * 4,
        [np.full((H, W, 3), 255, np.uint8)] * 4,
        [texture(0, 16, 16)],
        [],
    ],
    ids=["full image", "ball on black", "turning body on black", "pillar box", "black", "white", "tiny", "none"],
)
def test_no_circle_where_there_is_none(images):
    assert find_circle(images) is None


def test_auto_border_masks_the_surround_only(tmp_path):
    progress = Quiet()
    frames = frames_of([scope(s) for s in range(4)], tmp_path)
    out = write_masks(frames, MaskConfig(), tmp_path / "out", progress)
    y, x = np.mgrid[:H, :W] + 0.5
    distance = np.hypot(x - 0.48 * W, y - 0.55 * H) / (0.75 * H)
    for f in out.frames:
        assert f.mask_path == tmp_path / "out" / "masks" / f"{f.frame_id:06d}.png"
        use = f.load_mask()
        assert not use[distance > 1].any() and use[distance < 0.95].all()
    assert "circular endoscope view found" in progress.said[0]


def test_full_pictures_get_no_mask_file(tmp_path):
    frames = frames_of([texture(s) for s in range(3)], tmp_path, masks=[None, np.ones((H, W), bool), None])
    out = write_masks(frames, MaskConfig(), tmp_path / "out", Quiet())
    assert [f.mask_path for f in out.frames] == [None] * 3
    assert not (tmp_path / "out").exists()


def test_explicit_circle_and_none(tmp_path):
    frames = frames_of([scope(s) for s in range(3)], tmp_path)
    config = MaskConfig(border=(0.5, 0.5, 0.25), border_margin=0)
    use = write_masks(frames, config, tmp_path / "out", Quiet()).frames[0].load_mask()
    assert abs(use.sum() - np.pi * (0.25 * H) ** 2) < 0.02 * use.sum()
    assert write_masks(frames, MaskConfig(border="none"), tmp_path / "no", Quiet()).frames[0].mask_path is None


def test_specular_spots_are_masked_and_grown(tmp_path):
    images = [(texture(s) * [0.9, 0.4, 0.35]).astype(np.uint8) for s in range(3)]
    for image in images:
        cv2.circle(image, (100, 80), 6, (255, 252, 250), -1)
        cv2.circle(image, (220, 80), 6, (255, 120, 100), -1)  # bright but coloured
    frames = frames_of(images, tmp_path)
    use = (
        write_masks(frames, MaskConfig(specular=True, specular_margin=0.01), tmp_path / "out", Quiet())
        .frames[0]
        .load_mask()
    )
    y, x = np.mgrid[:H, :W]
    distance = np.hypot(x - 100, y - 80)
    margin = round(0.01 * np.hypot(W, H))
    assert not use[distance <= 6 + margin - 1].any() and use[distance > 6 + margin + 1].all()


def test_black_background_option(tmp_path):
    frames = frames_of(list(sphere_views(60))[:3], tmp_path)
    assert write_masks(frames, MaskConfig(), tmp_path / "keep", Quiet()).frames[0].mask_path is None
    out = write_masks(frames, MaskConfig(background="black"), tmp_path / "black", Quiet())
    assert np.array_equal(out.frames[0].load_mask(), frames.frames[0].load_image().max(2) > 0)


def halves():
    left, top = np.zeros((H, W), bool), np.zeros((H, W), bool)
    left[:, : W // 2] = True
    top[: H // 2] = True
    return left, top


def test_masks_are_combined_by_and(tmp_path):
    left, _ = halves()
    frames = frames_of(list(sphere_views(60))[:3], tmp_path, masks=[left] * 3)
    out = write_masks(frames, MaskConfig(background="black"), tmp_path / "out", Quiet())
    assert np.array_equal(out.frames[1].load_mask(), left & (frames.frames[1].load_image().max(2) > 0))


@pytest.mark.parametrize("white_means", ["use", "ignore"])
def test_user_folder_replaces_the_sources_masks(tmp_path, white_means):
    left, top = halves()
    frames = frames_of([texture(s) for s in range(3)], tmp_path, masks=[left] * 3)
    for name in ("000000", "1"):
        write_png(tmp_path / "mine" / f"{name}.png", top)
    config = MaskConfig(folder=tmp_path / "mine", white_means=white_means)
    out = write_masks(frames, config, tmp_path / "out", Quiet())
    expected = top if white_means == "use" else ~top
    assert np.array_equal(out.frames[0].load_mask(), expected) and np.array_equal(out.frames[1].load_mask(), expected)
    assert np.array_equal(out.frames[2].load_mask(), left)  # never inverted: the source knows its polarity


def test_frames_hidden_whole_are_dropped_with_reason(tmp_path):
    nothing = np.zeros((H, W), bool)
    frames = frames_of([texture(s) for s in range(4)], tmp_path, masks=[None, nothing, None, None])
    out = write_masks(frames, MaskConfig(), tmp_path / "out", Quiet())
    assert [f.frame_id for f in out.frames] == [0, 2, 3]
    assert out.dropped[0].frame_id == 1 and "0.0%" in out.dropped[0].reason and "2.0%" in out.dropped[0].reason
    frames = frames_of([texture(s) for s in range(3)], tmp_path / "b", masks=[nothing] * 3)
    with pytest.raises(InputError, match="hide 3 of 3"):
        write_masks(frames, MaskConfig(), tmp_path / "out2", Quiet())


def test_wrong_masks_are_named(tmp_path):
    frames = frames_of([texture(s) for s in range(3)], tmp_path, masks=[np.zeros((9, 9), bool), None, None])
    with pytest.raises(InputError, match="frame 000000 is 9x9"):
        write_masks(frames, MaskConfig(), tmp_path / "out", Quiet())
    frames = frames_of([texture(s) for s in range(3)], tmp_path / "b")
    with pytest.raises(InputError, match="cannot be read"):
        write_masks(frames, MaskConfig(folder=tmp_path / "nowhere"), tmp_path / "out", Quiet())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no mask for any"):
        write_masks(frames, MaskConfig(folder=tmp_path / "empty"), tmp_path / "out", Quiet())


def test_written_masks_are_pure_black_and_white(tmp_path):
    out = write_masks(frames_of([scope(s) for s in range(3)], tmp_path), MaskConfig(), tmp_path / "out", Quiet())
    raw = cv2.imread(str(out.frames[0].mask_path), cv2.IMREAD_UNCHANGED)
    assert raw.ndim == 2 and set(np.unique(raw)) == {0, 255}
    assert np.array_equal(raw == 255, read_mask(out.frames[0].mask_path))
