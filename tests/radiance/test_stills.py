# SPDX-License-Identifier: Apache-2.0
"""``medrecon render``: pictures at poses of one's own."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import medrecon
from medrecon.cli import main
from medrecon.images import read_rgb
from medrecon.radiance import Scene, TrainingConfig, load_field
from medrecon.radiance.field_files import save_field
from medrecon.radiance.rendering import render_image
from medrecon.runfolder import RunFolder
from medrecon.types import Scale, Sim3
from medrecon.types.storage import read_npz, write_json

sys.path.insert(0, str(Path(__file__).parent))
from radiance_ball import ball  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run as far as rendering goes; its field is as ``setup`` leaves it, which is enough to tell poses."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("run")
    frames, sparse = ball(root / "stages" / "source", n=6, size=24)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    import dataclasses

    sparse = dataclasses.replace(sparse, scale=Scale("mm", Sim3(3.7, turn, np.array([5.0, -8, 2])), "known", 0.01))
    (root / "stages" / "keyframes").mkdir(parents=True)
    for stage in ("source", "keyframes"):
        frames.save(root / "stages" / stage / "frames.json")
    (root / "stages" / "sfm").mkdir()
    sparse.save(root / "stages" / "sfm")
    folder = root / "stages" / "radiance"
    folder.mkdir()
    scene = Scene.from_sparse(frames, sparse, TrainingConfig(max_size_px=24, holdout_every=0))
    scene.save(folder / "scene.json")
    options = {"levels": 4, "log2_size": 12, "finest": 64, "width": 16, "samples": 64, "occupancy_cells": 16}
    renderer = medrecon.create("renderer", "mipgrid", **options)
    renderer.setup(scene, scene.train_ids, 0)
    with torch.no_grad():
        renderer.table.add_(0.5 * torch.randn(renderer.table.shape, generator=torch.Generator().manual_seed(2)))
    save_field(folder, renderer, scene, 0, 0)
    write_json(root / "manifest.json", {"stages": [{"name": n} for n in ("source", "keyframes", "sfm", "radiance")]})
    return RunFolder(root)


def test_exported_poses_give_the_views_of_those_cameras(run, tmp_path, capsys):
    """Out through the transforms exporter, in again by --poses: over millimetres, a turn and two conventions of axes."""
    (exported,) = medrecon.create("exporter", "transforms").export(run, tmp_path)
    data = json.loads(exported.read_text())
    data["frames"] = [data["frames"][4], data["frames"][1], data["frames"][2]]
    poses = tmp_path / "poses.json"
    poses.write_text(json.dumps(data))
    out = tmp_path / "out"
    assert main(["render", str(run.root), "--poses", str(poses), "--out", str(out)]) == 0
    assert "3 pictures" in capsys.readouterr().out
    renderer, scene = load_field(run)
    ids = [int(Path(f["file_path"]).stem) for f in data["frames"]]
    for i in ids:
        picture = read_rgb(out / "pictures" / f"{i:06d}.png")
        rgb, depth, _ = render_image(
            renderer, scene, run.sparse.cameras[i], scene.cam_from_sfm[i], scene.near_far[i], -1
        )
        assert picture.shape == (24, 24, 3) and picture.std() > 3
        # Near and far are those of the whole scene, so that samples lie a little elsewhere.
        assert np.abs(picture.astype(int) - rgb).mean() < 3
        mine = read_npz(out / "depth" / f"{i:06d}.npz")["depth_sfm"]
        both = (mine > 0) & (depth > 0)
        assert both.mean() > 0.2 and np.median(np.abs(mine - depth)[both]) < 0.02 * np.median(depth[both])
        assert (out / "maps" / f"{i:06d}.npz").is_file() and (out / "normals" / f"{i:06d}.png").is_file()
    other = read_rgb(out / "pictures" / f"{ids[1]:06d}.png").astype(int)
    assert np.abs(other - read_rgb(out / "pictures" / f"{ids[0]:06d}.png")).mean() > 5  # another pose, another picture
    facts = json.loads((out / "stills.json").read_text())
    assert facts["scale"] == "mm" and facts["unit_per_sfm"] == pytest.approx(3.7)
    assert facts["pictures"] == [f"{i:06d}" for i in ids]  # in the file's order
    assert cv2.VideoCapture(str(out / "stills.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_along_a_path_and_refusals(run, tmp_path, capsys):
    out = tmp_path / "orbit"
    common = ["render", str(run.root), "--out"]
    assert main([*common, str(out), "--path", "orbit", "--frames", "3", "--size", "16", "--no-maps"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["depth", "opacity", "pictures", "stills.json", "stills.mp4"]
    capsys.readouterr()
    assert main([*common, str(out), "--path", "spiral"]) == 2 and "spiral" in capsys.readouterr().err
    empty = tmp_path / "poses.json"
    empty.write_text('{"frames": []}')
    assert main([*common, str(out), "--poses", str(empty)]) == 3 and "no poses" in capsys.readouterr().err
    assert main(["render", str(tmp_path), "--out", str(out)]) == 3
