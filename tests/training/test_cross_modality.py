# SPDX-License-Identifier: Apache-2.0
"""CT and MR of one head in one frame: a ball with a smaller one in it, whose places are known in closed form."""

import dataclasses

import numpy as np
import pytest
import torch

from medrecon.errors import InputError
from medrecon.training import slices, warp
from medrecon.training.mix import CROSS, Mix
from medrecon.training.pairs import draw_pairs
from medrecon.training.pool import ViewPool
from medrecon.training.pool_builder import build_pool
from medrecon.training.shards import ShardMeta, read_shards, write_volume

SIZE = (80, 60)
SPACING, VOXELS, RADIUS = 2.0, 48, 38.0  # mm, per axis, mm
CENTRE = (VOXELS - 1) / 2 * SPACING
INNER, INNER_RADIUS = np.array([8.0, -6.0, 5.0]) + CENTRE, 14.0
ONLY_CROSS = Mix(0, 0, 0, 1)


def phantom(tissue, inner):
    """uint8: a ball of tissue in the air with another ball in it."""
    mm = np.stack(np.meshgrid(*[np.arange(VOXELS) * SPACING] * 3, indexing="ij"), -1)
    edge = lambda centre, radius: np.clip((radius - np.linalg.norm(mm - centre, axis=-1)) / SPACING + 0.5, 0, 1)
    body = tissue + (inner - tissue) * edge(INNER, INNER_RADIUS)
    return np.round(body * edge(np.full(3, CENTRE), RADIUS)).astype(np.uint8)


def write(folder, name, volume, frame="ball", modality="CT", **more):
    span = (-1000.0, 1000.0) if modality == "CT" else (0.0, 800.0)
    meta = ShardMeta(name, "ball", "train", modality, "CC0-1.0", "", span, ("skin",), frame)
    write_volume(folder, dataclasses.replace(meta, **more), volume, (SPACING,) * 3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write(folder, "ball-ct", phantom(125, 160))
    write(folder, "ball-mr", phantom(190, 40), modality="MR")
    return folder


@pytest.fixture(scope="module")
def pool(shards):
    torch.set_num_threads(1)
    return build_pool(shards, "train", 90, SIZE, seed=2)


def test_every_view_of_a_frame_has_its_partner(pool):
    tied = pool.tied_views
    flat = pool.flat[tied]
    assert flat.sum() >= 10 and (~flat).sum() >= 32
    partner = pool.partner
    assert torch.equal(partner[partner], torch.arange(len(pool))) and (pool.group[partner] != pool.group)[tied].all()
    assert torch.equal(pool.count[partner], pool.count) and torch.equal(pool.flat[partner], pool.flat)
    for name in ("intrinsics", "cam_from_world", "depth", "normal"):
        assert torch.equal(getattr(pool, name)[partner], getattr(pool, name)), name
    assert (pool.albedo[partner] != pool.albedo).flatten(1).any(1)[tied].all()


def test_surfaces_are_where_the_ball_is_and_a_pair_maps_them_there(pool):
    batch = draw_pairs(pool, 24, (45, 60), seed=1, mix=dataclasses.replace(ONLY_CROSS, flat=0.0), photometric=False)
    assert (batch.kind == CROSS).all() and not pool.flat[batch.view_a].any()
    y, x = torch.meshgrid(torch.arange(2.5, 45, 5), torch.arange(2.5, 60, 5), indexing="ij")
    xy = torch.stack([x, y], -1).reshape(1, -1, 2).expand(24, -1, 2)
    there, visible = batch.a_to_b(xy)
    errors, shown = [], 0
    for i in range(24):
        a, b = int(batch.view_a[i]), int(batch.view_b[i])
        (ka, kb), (pa, pb) = pool.intrinsics[[a, b]].double().numpy(), pool.cam_from_world[[a, b]].double().numpy()
        ha, hb = batch.view_from_a[i].double().numpy(), batch.view_from_b[i].double().numpy()
        for k in visible[i].nonzero()[:, 0].tolist():
            u = ha @ [*xy[i, k].tolist(), 1.0]
            ray = pa[:3, :3].T @ [*((u[:2] / u[2] - ka[2:]) / ka[:2]), 1.0]
            away = -pa[:3, :3].T @ pa[:3, 3] - (CENTRE + SPACING)  # the world of views has one voxel of border
            p, q = away @ ray / (ray @ ray), (away @ away - RADIUS**2) / (ray @ ray)
            if p * p - q < 0.06 * q:  # grazing: a hair in depth is much along the surface
                continue
            point = away + CENTRE + SPACING + (-p - np.sqrt(p * p - q)) * ray
            v = pb[:3, :3] @ point + pb[:3, 3]
            w = np.linalg.inv(hb) @ [*(v[:2] / v[2] * kb[:2] + kb[2:]), 1.0]
            errors.append(np.linalg.norm(w[:2] / w[2] - there[i, k].numpy()))
        shown += int(visible[i].sum())
    # An opacity ramp finds the surface up to a millimetre inside: here less than a pixel.
    assert len(errors) > 400 and np.median(errors) < 0.3 and np.quantile(errors, 0.95) < 1.0
    assert shown > 0.3 * visible.numel()


def test_slices_cut_both_volumes_at_the_same_place(shards, pool, monkeypatch):
    """How much of a pixel is the inner ball follows from the CT and from the MR alike."""
    monkeypatch.setattr(slices, "draw_window", lambda shard, draw: (0.0, 255.0))
    drawn = torch.Generator().manual_seed(4)
    pictures, solids = slices.draw_slices(read_shards(shards), 12, SIZE, torch.device("cpu"), drawn)
    compared = 0
    for ct, mr, seen_ct, seen_mr in zip(*pictures, *solids):
        edge = torch.nn.functional.max_pool2d(-(seen_ct & seen_mr).float()[None], 13, 1, 6)[0]
        deep = (edge < 0) & (ct >= 125)  # neither the air around nor the ball's own border
        of_ct, of_mr = (ct[deep].float() - 125) / (160 - 125), (mr[deep].float() - 190) / (40 - 190)
        np.testing.assert_allclose(of_ct.numpy(), of_mr.numpy(), atol=0.06)
        compared += int((of_mr > 0.5).sum())
    assert len(pictures[0]) == 12 and compared > 1000
    batch = draw_pairs(pool, 16, (45, 60), seed=1, mix=dataclasses.replace(ONLY_CROSS, flat=1.0), photometric=False)
    assert torch.equal(batch.view_b, pool.partner[batch.view_a]) and pool.flat[batch.view_a].all()
    _, visible = batch.a_to_b(warp.pixel_centres((45, 60), pool.device).expand(16, -1, 2))
    assert (visible.sum(1) / batch.mask_a.flatten(1).sum(1)).median() > 0.6


def test_the_same_every_time_and_another_key_for_another_frame(shards, pool, tmp_path):
    again = build_pool(shards, "train", 90, SIZE, seed=2)
    for field in dataclasses.fields(ViewPool):
        assert torch.equal(getattr(pool, field.name), getattr(again, field.name)), field.name
    one, two = (draw_pairs(pool, 6, (30, 40), seed=8, mix=ONLY_CROSS) for _ in range(2))
    assert torch.equal(one.image_a, two.image_a) and torch.equal(one.image_b, two.image_b)
    digests = {}
    for frame in ("ball", ""):
        write(tmp_path / f"as-{frame}", "ball-ct", phantom(125, 160), frame=frame)
        digests[frame] = read_shards(tmp_path / f"as-{frame}")[0].digest
    assert digests["ball"] != digests[""]


def test_a_frame_with_one_volume_is_as_a_volume_without_a_frame(tmp_path):
    pools = []
    for frame in ("ball", ""):
        write(tmp_path / f"as-{frame}", "ball-ct", phantom(125, 160), frame=frame)
        pools.append(build_pool(tmp_path / f"as-{frame}", "train", 24, SIZE, seed=2))
    assert not len(pools[0].tied_views)
    for field in dataclasses.fields(ViewPool):
        assert torch.equal(*(getattr(p, field.name) for p in pools)), field.name
    assert (draw_pairs(pools[0], 60, (30, 40), seed=8).kind != CROSS).all()


def test_volumes_of_a_frame_must_lie_upon_each_other(tmp_path):
    write(tmp_path, "ball-ct", phantom(125, 160))
    write(tmp_path, "ball-mr", phantom(190, 40)[:-1], modality="MR")
    with pytest.raises(InputError, match="ball-ct and ball-mr have the frame 'ball'"):
        read_shards(tmp_path)
    write(tmp_path, "ball-mr", phantom(190, 40), modality="MR", subject="another")
    with pytest.raises(InputError, match="not one subject and grid"):
        read_shards(tmp_path)


def test_shards_without_a_frame_are_written_as_before_there_were_frames(tmp_path):
    write(tmp_path, "ball-ct", phantom(125, 160), frame="")
    with np.load(tmp_path / "ball-ct.npz") as file:
        assert "frame" not in str(file["meta"])
    assert read_shards(tmp_path)[0].meta.frame == ""
