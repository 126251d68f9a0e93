# SPDX-License-Identifier: Apache-2.0
"""The trainer: it learns, honours masks, resumes bit for bit, and survives what is wrong with a checkpoint."""

import json
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import medrecon
from medrecon.errors import InputError, StageError
from medrecon.images import read_rgb, write_png
from medrecon.progress import Quiet
from medrecon.radiance import Scene, TrainingConfig, load_field
from medrecon.radiance.checkpoint import NAME, Trace
from medrecon.radiance.field_files import sha256
from medrecon.radiance.pictures import PixelPool
from medrecon.radiance.schedule import Schedule
from medrecon.radiance.train import train
from medrecon.runfolder import RunFolder

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import ball  # noqa: E402

TINY = {"width": 16, "coarse_samples": 8, "fine_samples": 8, "probes": 24, "max_degree": 5, "occupancy_warmup": 5,
        "occupancy_every": 4}  # fmt: skip


def small_training(**more) -> TrainingConfig:
    return TrainingConfig(**{"iterations": 24, "rays_per_batch": 128, "max_size_px": 24, "evaluate_every": 8, **more})


TINY_GRID = {"width": 16, "levels": 4, "log2_size": 12, "finest": 64, "samples": 64, "occupancy_cells": 32,
             "samples_per_batch": 4096, "occupancy_every": 4}  # fmt: skip


def make(name="mipnerf", **options):
    return medrecon.create("renderer", name, **{**(TINY_GRID if name == "mipgrid" else TINY), **options})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    return ball(tmp_path_factory.mktemp("ball"), n=8, size=24)


class StopAfter(Quiet):
    """Progress that stops the training after some steps, in the way that is asked for."""

    def __init__(self, steps: int, how: str):
        super().__init__()
        self.left, self.how = steps, how

    def advance(self, n: int = 1, **figures) -> None:
        self.left -= n
        if self.left <= 0 < self.left + n:
            if self.how == "kill":
                raise SystemExit("killed")  # no handler of the trainer may run for it
            if self.how == "signal":
                os.kill(os.getpid(), signal.SIGINT)
            if self.how == "interrupt":
                raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["mipnerf", "nerf", "mipgrid"])
def test_it_learns_a_ball(tmp_path, data, name):
    frames, sparse = data
    training = small_training(iterations=150, rays_per_batch=256, learning_rate=1e-2, evaluate_every=50)
    # Six views 50 degrees apart say little about view dependence: the ball has none.
    looks = {"coarse_samples": 12, "fine_samples": 12}
    if name == "mipgrid":  # it is quick to explain six pictures by what differs between them
        looks = {"finest": 32, "samples_per_batch": 16384, "appearance_size": 0}
    renderer = make(name, width=32, direction_degree=0, **looks)
    train(frames, sparse, renderer, training, tmp_path, 0, "cpu", Quiet())
    history = json.loads((tmp_path / "history.json").read_text())
    held = [h["heldout_psnr_db"] for h in history if "heldout_psnr_db" in h]
    assert len(held) == 3 and held[-1] > 20 and history[-1]["psnr_db"] > history[0]["psnr_db"] + 8
    assert [h["step"] for h in history] == sorted(h["step"] for h in history) and history[-1]["step"] == 150
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "field.json",
        "field.safetensors",
        "history.json",
        "scene.json",
    ]


def final_state(folder: Path) -> dict:
    return load_file(folder / "field.safetensors")


@pytest.mark.parametrize(
    ("how", "name"), [("interrupt", "mipnerf"), ("signal", "mipnerf"), ("kill", "mipnerf"), ("kill", "mipgrid")]
)
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, data, how, name):
    frames, sparse = data
    training = small_training(checkpoint_seconds=1e-6 if how == "kill" else 1e6)
    train(frames, sparse, make(name), training, tmp_path / "whole", 5, "cpu", Quiet())
    stopped = {"kill": SystemExit}.get(how, KeyboardInterrupt)
    with pytest.raises(stopped):
        train(frames, sparse, make(name), training, tmp_path / "part", 5, "cpu", StopAfter(11, how))
    assert not (tmp_path / "part" / "field.json").exists()
    assert json.loads((tmp_path / "part" / NAME).read_text())["step"] in (10, 11)
    said = Quiet()
    train(frames, sparse, make(name), training, tmp_path / "part", 5, "cpu", said)
    assert any("going on" in s for s in said.said)
    a, b = final_state(tmp_path / "whole"), final_state(tmp_path / "part")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    figures = [
        [
            {k: v for k, v in h.items() if k != "seconds"}
            for h in json.loads((tmp_path / d / "history.json").read_text())
        ]
        for d in ("whole", "part")
    ]
    assert figures[0] == figures[1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_seed_decides(tmp_path, data):
    frames, sparse = data
    states = []
    for k, seed in enumerate((1, 1, 2)):
        train(frames, sparse, make(), small_training(iterations=6), tmp_path / str(k), seed, "cpu", Quiet())
        states.append(final_state(tmp_path / str(k)))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def _pickle(folder, path):
    path.write_bytes(pickle.dumps({"evil": 1}))


def _truncate(folder, path):
    path.write_bytes(path.read_bytes()[:100])


def _edit(change):
    def apply(folder, path):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


def _json(**change):
    def apply(folder, path):
        data = json.loads((folder / NAME).read_text())
        (folder / NAME).write_text(json.dumps({**data, **change}))

    return apply


def _nan(tensors):
    tensors["field.networks.0.density_head.weight"][0, 0] = float("nan")


def _shape(tensors):
    tensors["field.networks.0.density_head.weight"] = torch.zeros(3, 3)


HOSTILE = {
    "pickle": _pickle,
    "truncated": _truncate,
    "not finite": _edit(_nan),
    "wrong shape": _edit(_shape),
    "tensor missing": _edit(lambda t: t.pop("field.grid.occupied")),
    "tensor too many": _edit(lambda t: t.update(more=torch.zeros(2))),
    "gone": lambda folder, path: path.unlink(),
    "schema": _json(schema=77),
    "other seed": _json(seed=99),
    "other options": _json(options={"width": 4}),
    "path out of the folder": _json(tensors="../../../../etc/passwd"),
    "step of nonsense": _json(step="many"),
    "json cut off": lambda folder, path: (folder / NAME).write_text('{"schema": 1,'),
}


BEHIND_THE_CHECKSUM = ["pickle", "not finite", "wrong shape", "tensor missing", "tensor too many"]
FEW = small_training(iterations=4, evaluate_every=0)


@pytest.fixture(scope="module")
def stopped_and_clean(tmp_path_factory, data):
    """A folder with a checkpoint, and the field an undisturbed run ends with."""
    stopped, clean = tmp_path_factory.mktemp("stopped"), tmp_path_factory.mktemp("clean")
    with pytest.raises(KeyboardInterrupt):
        train(*data, make(), FEW, stopped, 0, "cpu", StopAfter(2, "interrupt"))
    train(*data, make(), FEW, clean, 0, "cpu", Quiet())
    return stopped, final_state(clean)


@pytest.mark.parametrize(("what", "vouched"), [(w, False) for w in HOSTILE] + [(w, True) for w in BEHIND_THE_CHECKSUM])
def test_hostile_checkpoints_restart_with_a_message(tmp_path, data, stopped_and_clean, what, vouched):
    """``vouched``: the checksum was made to fit, so that the checks behind it are reached."""
    stopped, clean = stopped_and_clean
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    tensors = next(folder.glob("checkpoint-*.safetensors"))
    HOSTILE[what](folder, tensors)
    if vouched:
        _json(sha256=sha256(tensors))(folder, tensors)
    said = Quiet()
    train(*data, make(), FEW, folder, 0, "cpu", said)
    assert any("anew" in s for s in said.said)
    found = final_state(folder)
    assert all(torch.equal(found[k], clean[k]) for k in clean)


def test_masked_pixels_are_never_drawn(tmp_path):
    """Masked pixels are painted in a colour found nowhere else: it must never turn up in a batch."""
    mask = np.ones((24, 24), bool)
    mask[6:14, 8:20] = False
    ids = [10 + 3 * k for k in range(6)]
    frames, sparse = ball(tmp_path, n=6, size=24, masks={i: mask for i in ids})
    for f in frames.frames:
        image = read_rgb(f.image_path)
        image[~mask] = (255, 0, 255)
        write_png(f.image_path, image)
    for size in (24, 12):
        scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=size))
        pool = PixelPool.build(scene, frames, scene.train_ids)
        generator = torch.Generator().manual_seed(0)
        _, rgb = pool.rays(pool.draw(20000, 0.25, generator), scene)
        magenta = (rgb[:, 0] > 0.95) & (rgb[:, 1] < 0.05) & (rgb[:, 2] > 0.95)
        assert not magenta.any() and rgb.max() > 0.5


def test_what_lies_under_a_mask_changes_no_bit_of_the_field(tmp_path):
    """Glare, instruments and the rim of an endoscope, painted in two ways below their masks."""
    ids = [10 + 3 * k for k in range(6)]
    v, u = np.mgrid[:24, :24]
    rim = np.hypot(u - 11.5, v - 11.5) < 11
    masks = {i: rim & ~((np.abs(u - 6 - k) < 2) & (v > 4 * k)) for k, i in enumerate(ids)}
    states = []
    for colour in ((255, 0, 255), (1, 2, 3)):
        frames, sparse = ball(tmp_path / str(colour[0]), n=6, size=24, masks=masks)
        for f in frames.frames:
            image = read_rgb(f.image_path)
            image[~masks[f.frame_id]] = colour
            write_png(f.image_path, image)
        out = tmp_path / f"field{colour[0]}"
        train(frames, sparse, make("mipgrid"), small_training(iterations=10, evaluate_every=5), out, 0, "cpu", Quiet())
        entries = json.loads((out / "history.json").read_text())
        states.append((final_state(out), [h.get("heldout_psnr_db") for h in entries]))
    (a, seen), (b, again) = states
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and seen == again


def test_pool_rays_are_the_scenes_rays(data):
    """Drawn pixels against ``Scene.rays`` of the same frame, and colours against the picture."""
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24))
    pool = PixelPool.build(scene, frames, scene.train_ids)
    for position, frame_id in enumerate(scene.train_ids):
        rays, rgb = pool.rays(torch.arange(24 * 24) + position * 24 * 24, scene)
        whole = scene.rays(frame_id)
        assert torch.allclose(rays.directions, whole.directions, atol=1e-6) and (rays.frame_ids == frame_id).all()
        assert torch.allclose(rays.radii, whole.radii) and torch.allclose(rays.near, whole.near, atol=1e-5)
        picture = frames.by_id()[frame_id].load_image().reshape(-1, 3)
        assert ((rgb * 255).round().byte().numpy() == picture).all()


def test_pool_of_several_sizes(data):
    """As many rays of each size; cones as wide as the pixels are large, colours those of the reduced pictures."""
    frames, sparse = data
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24))
    pool = PixelPool.build(scene, frames, scene.train_ids, (1.0, 0.5, 0.25))
    n = len(scene.train_ids)
    sizes = torch.tensor([24 * 24, 12 * 12, 6 * 6])
    assert len(pool.colours) == n * sizes.sum()
    border = torch.cat([torch.zeros(1), (n * sizes).cumsum(0)])
    pixels = pool.draw(900, 0.25, torch.Generator().manual_seed(0))
    assert [int(((pixels >= a) & (pixels < b)).sum()) for a, b in zip(border, border[1:])] == [300, 300, 300]
    position, frame_id = 2, scene.train_ids[2]
    whole = scene.rays(frame_id)
    picture = frames.by_id()[frame_id].load_image().astype(float)
    for k, (side, factor) in enumerate([(24, 1), (12, 2), (6, 4)]):
        first = int(border[k]) + position * side * side
        rays, rgb = pool.rays(torch.arange(side * side) + first, scene)
        assert (rays.frame_ids == frame_id).all()
        assert torch.allclose(rays.radii, factor * whole.radii[0], rtol=0.2)
        middle = whole.directions.view(side, factor, side, factor, 3).mean((1, 3)).view(-1, 3)
        assert torch.allclose(rays.directions, middle, atol=1e-5)
        reduced = picture.reshape(side, factor, side, factor, 3).mean((1, 3)).reshape(-1, 3)
        assert np.abs((rgb * 255).numpy() - reduced).max() <= 0.51


def test_it_learns_from_several_sizes(tmp_path, data):
    frames, sparse = data
    training = small_training(iterations=100, rays_per_batch=256, scales=(1.0, 0.5), pyramid=(0.2,))
    train(frames, sparse, make(width=32, direction_degree=0), training, tmp_path, 0, "cpu", Quiet())
    history = json.loads((tmp_path / "history.json").read_text())
    assert history[-1]["psnr_db"] > history[0]["psnr_db"] + 5


def test_masks_that_hide_everything(tmp_path):
    ids = [10 + 3 * k for k in range(4)]
    frames, sparse = ball(tmp_path, n=4, size=24, masks={i: np.zeros((24, 24), bool) for i in ids})
    with pytest.raises(StageError, match="masks hide everything"):
        train(frames, sparse, make(), small_training(), tmp_path / "out", 0, "cpu", Quiet())


def test_divergence_is_said(tmp_path, data):
    frames, sparse = data
    renderer = make()
    real = renderer.loss
    renderer.loss = lambda *a: (real(*a)[0] * float("nan"), {"psnr_db": 0.0})
    with pytest.raises(StageError, match="diverged"):
        train(frames, sparse, renderer, small_training(), tmp_path, 0, "cpu", Quiet())
    assert not (tmp_path / "field.safetensors").exists()


def test_learning_rate_is_a_function_of_the_step():
    training = small_training(iterations=100, learning_rate=1e-2, learning_rate_final=1e-4, warmup_steps=10)
    schedule = Schedule.of(training, 5000)
    rates = [schedule.learning_rate(Trace(step=s, seconds=1e3 * s)) for s in range(100)]
    assert rates[0] < 0.3e-2 and max(rates) <= 1e-2 and rates[-1] == pytest.approx(1e-4)
    assert all(a > b for a, b in zip(rates[10:], rates[11:]))


class Clock:
    """Time that passes by being asked for, however busy the machine is."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.01
        return self.now


def test_the_clock_ends_a_training_that_asks_for_minutes(tmp_path, data, monkeypatch):
    monkeypatch.setattr("medrecon.radiance.train.time", Clock())
    training = small_training(iterations=None, minutes=0.03, pyramid=(0.5,), warmup_steps=0, checkpoint_seconds=1e-6)
    schedule = Schedule.of(training, 5000)
    at = [Trace(step=7, seconds=s) for s in (0, 0.8, 1.0, 1.8)]
    assert [schedule.pyramid_level(t) for t in at] == [0, 0, 1, 1] and [schedule.over(t) for t in at] == 3 * [False] + [
        True
    ]
    rates = [schedule.learning_rate(t) for t in at]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(training.learning_rate_final)
    with pytest.raises(SystemExit):
        train(*data, make(), training, tmp_path, 0, "cpu", StopAfter(1, "kill"))  # in the first second
    spent = json.loads((tmp_path / NAME).read_text())["seconds"]
    train(*data, make(), training, tmp_path, 0, "cpu", Quiet())
    history = json.loads((tmp_path / "history.json").read_text())
    # What is left of the time, not all of it again.
    assert 0.9 < spent < 1 and 1.8 <= history[-1]["seconds"] < 1.9 and history[-1]["step"] > 1
    with pytest.raises(ValueError, match="not both"):
        small_training(minutes=1)


def glances(*values):
    return [{"step": 100 * (k + 1), "seconds": 1.0 * k, "heldout_psnr_db": v} for k, v in enumerate(values)]


def test_a_curve_is_flat_when_four_glances_gain_nothing():
    training = small_training(iterations=10_000, pyramid=(0.02,), evaluate_every=100, stop_gain_db=0.1)
    schedule = Schedule.of(training, 1)
    flat = lambda *values: schedule.is_flat(Trace(step=100 * len(values), history=glances(*values)))  # noqa: E731
    assert not flat(20, 25, 25, 25, 25)  # the first was of small pictures
    assert flat(20, 25, 25, 25, 25, 25.05) and not flat(20, 25, 25, 25, 25, 25.15)
    assert flat(20, 25, 26, 25.9, 25.8, 25.9, 26.05)
    assert not Schedule.of(small_training(), 1).is_flat(Trace(step=600, history=glances(20, 25, 25, 25, 25, 25)))

    history = glances(20, 25, 25, 25, 25, 25)
    history[-1]["flat"] = True
    at = [Trace(step=s, history=history) for s in (600, 660, 719, 720)]
    assert [schedule.over(t) for t in at] == [False, False, False, True]
    rates = [schedule.learning_rate(t) for t in at]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(training.learning_rate_final)
    half = (training.learning_rate_final * schedule.learning_rate(at[0])) ** 0.5
    assert rates[1] == pytest.approx(half)  # exponential in between
    with pytest.raises(ValueError, match="held-out"):
        small_training(stop_gain_db=0.1, evaluate_every=0)


def test_a_training_that_gains_no_more_ends_also_when_it_was_stopped(tmp_path, data):
    options = {"iterations": 500, "pyramid": (), "evaluate_every": 5, "stop_gain_db": 10.0, "checkpoint_seconds": 1e-6}
    training, said = small_training(**options), Quiet()
    train(*data, make(), training, tmp_path / "whole", 5, "cpu", said)
    history = json.loads((tmp_path / "whole" / "history.json").read_text())
    flat = [h["step"] for h in history if h.get("flat")]
    assert flat == [25] and history[-1]["step"] == 30 and any("gain no more" in s for s in said.said)
    with pytest.raises(SystemExit):
        train(*data, make(), training, tmp_path / "part", 5, "cpu", StopAfter(27, "kill"))
    train(*data, make(), training, tmp_path / "part", 5, "cpu", Quiet())
    a, b = final_state(tmp_path / "whole"), final_state(tmp_path / "part")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_trained_field_is_loaded_again(tmp_path, data):
    frames, sparse = data
    folder = tmp_path / "stages" / "radiance"
    renderer = make("nerf")
    train(frames, sparse, renderer, small_training(iterations=5), folder, 3, "cpu", Quiet())
    loaded, scene = load_field(RunFolder(tmp_path))
    rays = scene.rays(scene.heldout_ids[0])
    with torch.no_grad():
        assert torch.equal(renderer.eval().render(rays).rgb, loaded.render(rays).rgb)
    assert loaded.name == "nerf" and not loaded.training

    (folder / "field.safetensors").write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(InputError, match="safetensors"):
        load_field(RunFolder(tmp_path))
    (folder / "field.json").write_text("{}")
    with pytest.raises(InputError, match="field.json"):
        load_field(RunFolder(tmp_path))
