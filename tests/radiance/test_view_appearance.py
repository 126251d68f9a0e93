# SPDX-License-Identifier: Apache-2.0
"""Codes of held-out views: what each mode reads, what it leaves alone, and that a fit finds what made a picture."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon.images import read_rgb, write_png
from medrecon.progress import Quiet
from medrecon.radiance import RenderConfig, Renders, Scene, TrainingConfig
from medrecon.radiance.field_files import save_field
from medrecon.radiance.rendering import render_image, render_views
from medrecon.radiance.view_appearance import HeldoutAppearance, fit_code
from medrecon.runfolder import RunFolder

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import ball  # noqa: E402

SMALL = {"width": 16, "coarse_samples": 16, "fine_samples": 16, "max_degree": 3}
SMALL_GRID = {"width": 16, "levels": 3, "log2_size": 10, "finest": 32, "samples": 48, "occupancy_cells": 16}
ALL = ["nerf", "mipnerf", "mipgrid"]
SIZE = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    frames, sparse = ball(tmp_path_factory.mktemp("ball"), n=8, size=SIZE)
    return frames, sparse, Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=SIZE))


def field(scene, name="mipgrid", **options):
    """A field that is no good but in which a code makes a difference."""
    renderer = medrecon.create("renderer", name, **{**(SMALL_GRID if name == "mipgrid" else SMALL), **options})
    renderer.setup(scene, scene.train_ids, 0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in renderer.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return renderer.eval()


def shown(heldout, frame_id):
    scene, camera = heldout.scene, heldout.scene.cameras[frame_id]
    look = heldout.of(frame_id, camera)
    arguments = (scene.cam_from_sfm[frame_id], scene.near_far[frame_id], look.frame_id, look.appearance)
    return render_image(heldout.renderer, scene, camera, *arguments)


@pytest.mark.parametrize("name", ALL)
def test_a_fit_finds_the_look_of_a_picture_and_changes_nothing_else(data, name):
    """Pictures taken under a code of our own: fitted to their left half, the right half comes out as it was."""
    frames, _, scene = data
    renderer = field(scene, name, appearance_size=4)  # few enough to be told by half a tiny picture
    rays = scene.rays(scene.heldout_ids[0])
    left = torch.arange(SIZE * SIZE) % SIZE < SIZE // 2
    secret = 3 * torch.randn(renderer.appearance_size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        true, before = renderer.render(rays, secret), renderer.render(rays, "zero")
    state = {k: v.clone() for k, v in renderer.state_dict().items()}
    code = fit_code(renderer, rays[left], true.rgb[left])
    with torch.no_grad():
        after = renderer.render(rays, code)
    error = lambda out: float((out.rgb - true.rgb)[~left].square().mean())  # noqa: E731
    assert error(before) > 5e-4 and error(after) < 0.02 * error(before)
    assert torch.equal(after.depth, before.depth) and torch.equal(after.opacity, before.opacity)
    assert all(torch.equal(v, state[k]) for k, v in renderer.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in renderer.parameters())
    assert torch.equal(code, fit_code(renderer, rays[left], true.rgb[left]))


@pytest.mark.parametrize("name", ALL)
def test_zero_and_fitted_never_read_a_training_row(data, name):
    """What was learned of the training pictures is poisoned with NaN: these modes do not notice, the others do."""
    frames, _, scene = data
    renderer, poisoned = field(scene, name), field(scene, name)
    with torch.no_grad():
        poisoned.appearance.codes.fill_(float("nan"))
    frame_id = scene.heldout_ids[0]
    for mode in ("zero", "fitted"):
        clean, other = (shown(HeldoutAppearance(mode, r, scene, frames), frame_id) for r in (renderer, poisoned))
        assert all(np.array_equal(a, b) for a, b in zip(clean, other))
    for mode in ("mean", "nearest"):
        look = HeldoutAppearance(mode, poisoned, scene, frames).of(frame_id, scene.cameras[frame_id])
        rays = scene.rays(frame_id)
        rays.frame_ids.fill_(look.frame_id)
        with torch.no_grad():
            assert torch.isnan(poisoned.render(rays, look.appearance).rgb).any()


def test_the_right_half_teaches_nothing(tmp_path, data):
    frames, _, scene = data
    frame_id, half = scene.heldout_ids[0], SIZE // 2
    frame = frames.by_id()[frame_id]
    codes = []
    for k, part in enumerate((np.s_[:, :0], np.s_[:, half:], np.s_[:, :half])):
        image = frame.load_image().copy()
        image[part] = 255 - image[part]
        write_png(tmp_path / f"{k}.png", image)
        changed = [replace(f, image_path=tmp_path / f"{k}.png") if f is frame else f for f in frames.frames]
        heldout = HeldoutAppearance("fitted", field(scene), scene, replace(frames, frames=tuple(changed)))
        assert heldout.measured_from_px(scene.cameras[frame_id]) == half and "left half" in heldout.words
        codes.append(heldout.of(frame_id, scene.cameras[frame_id]).appearance)
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])


def test_masked_pixels_teach_nothing(tmp_path, data):
    _, _, scene = data
    frame_id = scene.heldout_ids[0]
    mask = np.ones((SIZE, SIZE), bool)
    mask[5:12, 2:9] = False
    frames, _ = ball(tmp_path, n=8, size=SIZE, masks={frame_id: mask})
    codes = []
    for _ in range(2):
        heldout = HeldoutAppearance("fitted", field(scene), scene, frames)
        codes.append(heldout.of(frame_id, scene.cameras[frame_id]).appearance)
        path = frames.by_id()[frame_id].image_path
        image = read_rgb(path)
        image[~mask] = 255
        write_png(path, image)
    assert torch.equal(*codes)


def test_nearest_is_nearest_in_time_and_says_so(data):
    frames, _, scene = data
    renderer, camera = field(scene), scene.cameras[scene.heldout_ids[0]]
    frame_id, others = scene.heldout_ids[0], scene.train_ids
    # The clock runs otherwise than the numbers: the last training picture was taken right after the held-out one.
    times = {i: 10.0 * k for k, i in enumerate(others)} | {frame_id: 10.0 * (len(others) - 1) - 1}
    timed = replace(frames, frames=tuple(replace(f, time_s=times[f.frame_id]) for f in frames.frames))
    by_time = HeldoutAppearance("nearest", renderer, scene, timed)
    assert by_time.of(frame_id, camera).frame_id == others[-1] and by_time.words == "nearest in time"
    by_order = HeldoutAppearance("nearest", renderer, scene, frames)
    position = [f.frame_id for f in frames.frames].index(frame_id)
    assert by_order.of(frame_id, camera).frame_id == frames.frames[position - 1].frame_id
    assert by_order.words == "nearest in the order of the pictures"
    # It is that picture's row that is read.
    rgb = shown(by_time, frame_id)[0]
    with torch.no_grad():
        rays = scene.rays(frame_id)
        expected = renderer.render_basic(rays, renderer.appearance.codes[-1]).rgb.view(SIZE, SIZE, 3)
    assert np.abs(rgb - 255 * expected.numpy()).max() <= 0.51


def test_without_codes_every_mode_is_none(data):
    frames, _, scene = data
    renderer = field(scene, appearance_size=0)
    for mode in ("zero", "mean", "nearest", "fitted"):
        heldout = HeldoutAppearance(mode, renderer, scene, frames)
        assert heldout.words == "none" and heldout.measured_from_px(scene.cameras[scene.heldout_ids[0]]) == 0


def test_the_render_stage_names_the_mode_and_the_half(tmp_path, data):
    frames, sparse, scene = data
    stages = tmp_path / "stages"
    for name in ("sfm", "radiance", "keyframes"):
        (stages / name).mkdir(parents=True)
    sparse.save(stages / "sfm")
    frames.save(stages / "keyframes" / "frames.json")
    scene.save(stages / "radiance" / "scene.json")
    save_field(stages / "radiance", field(scene), scene, 0, 0)
    for mode, words, first in (("zero", "zero", 0), ("fitted", "fitted on the left half, ", SIZE // 2)):
        config = RenderConfig(max_size_px=SIZE, path_frames=2, path_size_px=16, appearance=mode)
        render_views(RunFolder(tmp_path), config, tmp_path / mode, "cpu", Quiet())
        renders = Renders.load(tmp_path / mode)
        assert renders.appearance.startswith(words)
        assert [v.measured_from_px for v in renders.views] == [first] * len(scene.heldout_ids)
