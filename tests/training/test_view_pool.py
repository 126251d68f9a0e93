# SPDX-License-Identifier: Apache-2.0
"""Pools of views: rendered from tiny shards, the same every time, kept on disk; solid textures; synthetic shapes."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from medrecon.errors import InputError
from medrecon.training import warp
from medrecon.training.cameras import PER_GROUP, look_at
from medrecon.training.exact import product, rigid_inverse, times
from medrecon.training.pairs import draw_pairs
from medrecon.training.photometric import Dice, Surface, disturbed, exposed, lit, other_modality
from medrecon.training.pool import ViewPool
from medrecon.training.pool_builder import build_pool
from medrecon.training.shapes import draw_shapes
from medrecon.training.shards import ShardMeta, write_photos, write_volume
from medrecon.training.texture import SolidTexture

SIZE = (80, 60)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A lumpy ball as a CT (soft tissue in air), and two photographs."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    axis = np.arange(64) - 31.5
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    lumps = ndimage.gaussian_filter(rng.standard_normal(r.shape), 4)
    hu = np.clip((24 + 4 * lumps / lumps.std() - r) * 300, -1000, 60) + 40 * ndimage.gaussian_filter(
        rng.standard_normal(r.shape), 2
    )
    volume = np.clip((hu + 1000) / 2000 * 255, 0, 255).round().astype(np.uint8)
    for split in ("train", "val"):
        meta = ShardMeta(f"ball-{split}", f"ball-{split}", split, "CT", "CC0-1.0", "", (-1000.0, 1000.0), ("skin",))
        write_volume(folder, meta, volume, (2.0, 2.0, 2.0))
    photos = rng.integers(0, 256, (2, 66, 90), dtype=np.uint8)
    write_photos(folder, ShardMeta("album", "album", "train", "photo", "CC0-1.0", ""), photos)
    return folder


@pytest.fixture(scope="module")
def pool(shards):
    torch.set_num_threads(1)
    return build_pool(shards, "train", 40, SIZE, seed=3)


def test_a_pool_holds_what_it_says(pool):
    assert pool.size == SIZE and 36 <= len(pool) <= 40
    solid, flat = pool.solid_views, pool.flat_views
    assert len(solid) >= 2 * PER_GROUP - 4 and len(flat) >= 10
    assert (pool.depth[flat] == 1).all() and (pool.normal[flat][:, 2] == -127).all()
    np.testing.assert_array_equal(torch.bincount(pool.group)[pool.group], pool.count)
    assert (
        (pool.group[pool.first] == pool.group).all()
        and (pool.count[flat] == 1).all()
        and (pool.count[solid] >= 6).all()
    )
    hit = pool.depth[solid] > 0
    assert (hit.float().mean((1, 2)) > 0.2).all() and (pool.opacity[solid][hit] >= 127).all()
    length = pool.normal[solid].float().norm(dim=1)[hit] / 127
    assert (length - 1).abs().quantile(0.99) < 0.02
    rotation = pool.cam_from_world[:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(len(pool), 3, 3), atol=1e-5)


def test_views_of_a_group_see_the_same_surface(pool):
    solid = pool.solid_views
    other = pool.first[solid] + (solid - pool.first[solid] + 1) % pool.count[solid]
    way = pool.cam_from_world[other] @ torch.linalg.inv(pool.cam_from_world[solid])
    xy = warp.pixel_centres((SIZE[1], SIZE[0]), pool.device).expand(len(solid), -1, 2)
    _, seen = warp.view_to_view(pool, solid, other, way, xy)
    on = pool.depth[solid].flatten(1) > 0
    assert (seen.sum(1) / on.sum(1)).median() > 0.5


def test_the_same_every_time_and_kept(shards, pool, tmp_path):
    one = build_pool(shards, "train", 40, SIZE, seed=3, cache_dir=tmp_path)
    two = build_pool(shards, "train", 40, SIZE, seed=3, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    for field in dataclasses.fields(ViewPool):
        assert torch.equal(getattr(one, field.name), getattr(pool, field.name)), field.name
        assert torch.equal(getattr(one, field.name), getattr(two, field.name)), field.name
    other = build_pool(shards, "train", 40, SIZE, seed=4, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and not torch.equal(other.cam_from_world[:8], one.cam_from_world[:8])
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged.pt"):
        ViewPool.load(damaged)


def test_pairs_of_a_rendered_pool(pool):
    batch = draw_pairs(pool, 40, (48, 64), seed=1)
    assert torch.isfinite(batch.image_a).all() and batch.image_a.min() >= 0 and batch.image_a.max() <= 1
    _, visible = batch.a_to_b(warp.pixel_centres((48, 64), pool.device).expand(40, -1, 2))
    overlap = visible.sum(1) / batch.mask_a.flatten(1).sum(1).clamp(min=1)
    assert overlap.median() > 0.5 and (overlap > 0.25).float().mean() > 0.85


def test_a_texture_belongs_to_points_in_space():
    texture = SolidTexture(12.0, torch.Generator().manual_seed(5), torch.device("cpu"))
    points = 200 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(1))
    once = texture(points)
    assert torch.equal(once, texture(points)) and once.min() > 0.05 and once.max() < 4
    near = texture(points + 0.2)
    assert (near - once).abs().mean() < 0.25 * (texture(points + 60) - once).abs().mean() + 1e-6


def test_exact_products_under_autocast():
    g = torch.Generator().manual_seed(0)
    m, v = torch.randn(5, 3, 3, generator=g), 500 * torch.randn(5, 40, 3, generator=g)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, both = times(m, v), product(m, m)
    np.testing.assert_allclose(got.numpy(), np.einsum("bij,bnj->bni", m.double(), v.double()), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(both.numpy(), m.numpy() @ m.numpy(), rtol=1e-4, atol=1e-5)
    pose = look_at(torch.tensor([[3.0, -50.0, 8.0]]), torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0, 1]]))
    np.testing.assert_allclose((rigid_inverse(pose) @ pose)[0].numpy(), np.eye(4), atol=1e-4)
    assert (pose @ torch.tensor([1.0, 2.0, 3.0, 1.0]))[0, :2].abs().max() < 1e-4


def test_light_and_damage():
    n, h, w = 60, 24, 32
    ray = torch.zeros(n, 3, h, w)
    ray[:, 2] = 1
    up = torch.zeros(n, 3, h, w)
    up[:, 2] = -1
    albedo = torch.rand(n, h, w, generator=torch.Generator().manual_seed(0))
    flat = torch.arange(n) % 2 == 0
    surface = Surface(albedo, up, torch.full((n, h, w), 80.0), torch.ones(n, h, w), ray, flat)
    dice = lambda: Dice(torch.Generator().manual_seed(2), n)
    sun = torch.tensor([[0.0, 0.0, -1.0]]).expand(n, 3)
    picture = lit(surface, dice(), sun)
    assert torch.equal(picture[flat], albedo[flat]) and torch.isfinite(picture).all()
    # A plane before the camera: brighter paint looks brighter, whatever the light.
    corr = [np.corrcoef(p.flatten(), a.flatten())[0, 1] for p, a in zip(picture[~flat].numpy(), albedo[~flat].numpy())]
    assert np.median(corr) > 0.9
    which = torch.arange(n) < 30
    other = other_modality(albedo, dice(), which)
    assert torch.equal(other[~which], albedo[~which]) and not torch.allclose(other[which], albedo[which], atol=0.05)
    bright = exposed(albedo, dice())
    damaged, clear = disturbed(bright, dice())
    assert damaged.min() >= 0 and damaged.max() <= 1 and 0.7 < clear.float().mean() < 1


def test_corners_of_shapes_are_where_the_grey_changes():
    one, two = draw_shapes(16, (90, 120), seed=7), draw_shapes(16, (90, 120), seed=7)
    assert torch.equal(one.image, two.image) and torch.equal(one.valid, two.valid)
    assert 4 < one.valid.sum(1).float().mean() < 40
    image = torch.nn.functional.avg_pool2d(one.image, 3, 1, 1)
    most = torch.nn.functional.max_pool2d
    spread = most(image, 7, 1, 3) + most(-image, 7, 1, 3)
    at = one.xy[..., 1].clamp(0, 89).long() * 120 + one.xy[..., 0].clamp(0, 119).long()
    here = spread[:, 0].flatten(1).gather(1, at)
    assert here[one.valid].quantile(0.05) > 0.06 and here[one.valid].median() > 1.5 * spread.median()
    inside = (one.xy >= 0) & (one.xy <= torch.tensor([120.0, 90.0]))
    assert inside.all(-1)[one.valid].all()
