# SPDX-License-Identifier: Apache-2.0
"""Renders the pool of pictures of a training, once, on the device that trains.

Volumes give groups of views that look at the same spot (as G-buffers, to be lit later) and oblique slices; photographs
are what they are; a few synthetic shapes join the training. Deterministic: shards, split, number, size, seed and kind
of device decide everything.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.errors import InputError
from medrecon.training import cameras, shapes
from medrecon.training.exact import times
from medrecon.training.opacity import draw_ramp, draw_window
from medrecon.training.pool import ViewPool
from medrecon.training.raycast import VolumeCaster, sample_volume
from medrecon.training.shards import Shard, read_shards
from medrecon.training.texture import SolidTexture, wavelength

_VERSION = 3  # of everything that decides the pictures; cached pools of another version are rendered again
# The rest are photographs; shapes come on top, then all are scaled.
_SHARE_VIEWS, _SHARE_SLICES, _SHARE_SHAPES = 0.65, 0.2, 0.05
_GROUPS_PER_CASTER = 3  # groups that share an opacity ramp, and so a map of empty space
_SHAPES_AT_ONCE = 32
_NORMAL = 127.0  # int8 of a unit component
# Share of the groups that look from within the body, and of those that get a texture.
_INSIDE = {"airway": 0.6, "skin": 0.15, "vessels": 0.15, "bone": 0.1, "brain": 0.0}
_TEXTURED = {"airway": 0.8, "skin": 0.8, "vessels": 0.4, "bone": 0.4, "brain": 0.5}


def build_pool(
    shards_dir: str | Path,
    split: str,
    views: int,
    size: tuple[int, int] = (320, 240),
    device: torch.device | str = "cpu",
    seed: int = 0,
    cache_dir: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> ViewPool:
    """Render ``views`` pictures (a few fewer where a last group would not be whole) from the shards of one split.

    Args:
        size: (width, height) in px.
        cache_dir: pools are kept there and found again under a key of everything they depend on; None: not kept.
        say: told about the progress now and then.

    Raises:
        InputError: no shards, or nothing to see in them.
    """
    device = torch.device(device)
    shards = read_shards(shards_dir, split)
    path = None
    if cache_dir is not None:
        facts = (_VERSION, [s.digest for s in shards], views, size, seed, device.type)
        path = Path(cache_dir) / f"pool-{split}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.pt"
        if path.is_file():
            return ViewPool.load(path, device)
    pool = _Builder(shards, size, device, seed, say or (lambda text: None)).build(views)
    if path is not None:
        pool.save(path)
    return pool


def build_pools(
    data: Path,
    wanted: Sequence[tuple[str, int]],
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
    cache: Path | None = None,
) -> list[ViewPool]:
    """``build_pool`` for every (split, number of views), kept between trainings.

    Args:
        cache: folder of rendered pools; None: one below the folder for temporary files.

    Raises:
        InputError: see ``build_pool``.
    """
    cache = cache or Path(tempfile.gettempdir()) / "medrecon-pools"
    return [
        build_pool(data, split, views, device=device, seed=seed, cache_dir=cache, say=say) for split, views in wanted
    ]


class _Builder:
    """Collects pictures as lists of chunks; each source has a generator of its own, so that sources are independent."""

    def __init__(self, shards: list[Shard], size: tuple[int, int], device: torch.device, seed: int, say):
        self.shards, self.size, self.device, self.seed, self.say = shards, size, device, seed, say
        self.parts: list[dict[str, Tensor]] = []

    def build(self, views: int) -> ViewPool:
        scenes = [s for s in self.shards if s.volume is not None and s.meta.presets]
        volumes = [s for s in self.shards if s.volume is not None]
        photos = [s for s in self.shards if s.photos is not None]
        shares = [_SHARE_VIEWS * bool(scenes), _SHARE_SLICES * bool(volumes)]
        shares.append((1 - _SHARE_VIEWS - _SHARE_SLICES) * bool(photos))
        # Corners that are certain, for the training alone: others are judged on what is real.
        shares.append(_SHARE_SHAPES * (self.shards[0].meta.split == "train"))
        total = sum(shares)
        n_slices, n_photos, n_shapes = (round(views * share / total) for share in shares[1:])
        n_views = views - n_slices - n_photos - n_shapes if scenes else 0
        for i, (shard, n) in enumerate(zip(scenes, _split(n_views, len(scenes)))):
            self._add_scene(shard, n, self._draw(0, i))
            self.say(f"rendered {shard.meta.name}: {sum(len(p['flat']) for p in self.parts)} of {views} pictures")
        for i, (shard, n) in enumerate(zip(volumes, _split(n_slices, len(volumes)))):
            self._add_slices(shard, n, self._draw(1, i))
        counts = _split(n_photos, len(photos), [len(s.photos) for s in photos])
        for i, (shard, n) in enumerate(zip(photos, counts)):
            self._add_photos(shard, n, self._draw(2, i))
        self._add_shapes(n_shapes)
        if not self.parts:
            raise InputError(
                "nothing can be seen in these shards", "build the shards again: medrecon train data --out DIR"
            )
        return self._joined()

    def _draw(self, kind: int, index: int) -> torch.Generator:
        return torch.Generator().manual_seed(((self.seed * 3 + kind) * 100_003 + index) % 2**63)

    def _joined(self) -> ViewPool:
        start, groups = 0, []
        for part in self.parts:
            groups.append(part["group"] + start)
            start += int(part["group"].max()) + 1
        group = torch.cat(groups)
        count = torch.bincount(group)
        first = (count.cumsum(0) - count)[group]
        join = lambda name: torch.cat([p[name] for p in self.parts])
        rest = {f.name: join(f.name) for f in fields(ViewPool) if f.name not in ("group", "first", "count")}
        return ViewPool(
            **rest, group=group.to(self.device), first=first.to(self.device), count=count[group].to(self.device)
        )

    def _add_scene(self, shard: Shard, views: int, draw: torch.Generator) -> None:
        """Groups of views of one volume, under ramps of its presets in turn."""
        # One voxel of nothing all round closes the surfaces that the border of the volume cuts.
        volume = F.pad(torch.from_numpy(shard.volume).to(self.device), (1,) * 6)
        left, fruitless, turn = views, 0, 0
        while left >= min(cameras.PER_GROUP, views) and left > 0 and fruitless < 2 * len(shard.meta.presets):
            preset = shard.meta.presets[turn % len(shard.meta.presets)]
            turn += 1
            ramp, top = draw_ramp(shard, preset, draw)
            caster = VolumeCaster(volume, shard.spacing_mm, ramp)
            wanted = min(_GROUPS_PER_CASTER, max(1, left // cameras.PER_GROUP))
            placed = cameras.place_groups(caster, wanted, self.size, _INSIDE[preset], draw)
            fruitless = 0 if len(placed.good) else fruitless + 1
            if len(placed.good):
                left -= self._render(caster, placed, top, preset, draw)

    def _render(self, caster: VolumeCaster, placed: cameras.Cameras, top: float, preset: str, draw) -> int:
        good = placed.good
        group = torch.arange(len(good))[:, None].expand_as(good)[good]
        intrinsics, pose = placed.intrinsics[good].to(self.device), placed.cam_from_world[good].to(self.device)
        buffer = caster.render(intrinsics, pose, self.size)
        floor, gamma = (
            (0.2 + 0.4 * torch.rand(1, generator=draw)).item(),
            math.exp(torch.randn(1, generator=draw) * 0.2),
        )
        share = ((buffer.value - caster.ramp.low) / max(top - caster.ramp.low, 1.0)).clamp(0, 1) ** gamma
        grey = (floor + (1 - floor) * share) * (buffer.opacity > 0)
        self._paint(grey, buffer.depth, intrinsics, pose, group, preset, draw)
        self.parts.append(
            {
                "albedo": _bytes(grey),
                "normal": (buffer.normal * _NORMAL).round().to(torch.int8),
                "depth": buffer.depth,
                "opacity": _bytes(buffer.opacity),
                "intrinsics": intrinsics,
                "cam_from_world": pose,
                "group": group,
                "flat": torch.zeros(len(group), dtype=torch.bool, device=self.device),
            }
        )
        return len(group)

    def _paint(self, grey, depth, intrinsics, pose, group, preset: str, draw: torch.Generator) -> None:
        """Give the surfaces of most groups a texture, in place."""
        for g in range(int(group.max()) + 1):
            views = (group == g).nonzero()[:, 0].to(self.device)
            if torch.rand(1, generator=draw).item() >= _TEXTURED[preset]:
                continue
            z, k, m = depth[views], intrinsics[views][:, :, None, None], pose[views]
            hit = z > 0
            texture = SolidTexture(wavelength(float(z[hit].median()), float(k[0, 0]), draw), draw, self.device)
            y, x = torch.meshgrid(*(torch.arange(n, device=self.device) + 0.5 for n in z.shape[1:]), indexing="ij")
            point = torch.stack([(x - k[:, 2]) / k[:, 0] * z, (y - k[:, 3]) / k[:, 1] * z, z], -1).flatten(1, 2)
            point = times(m[:, :3, :3].transpose(1, 2), point - m[:, None, :3, 3])
            factor = torch.where(hit, texture(point.reshape(-1, 3)).view_as(z), torch.ones_like(z))
            grey[views] = grey[views] * factor

    def _add_slices(self, shard: Shard, n: int, draw: torch.Generator) -> None:
        """Oblique slices, half of them nearly along the axes, each under a window of its own."""
        if n == 0:
            return
        w, h = self.size
        volume = torch.from_numpy(shard.volume).to(self.device).float()[None, None]
        spacing, shape = torch.tensor(shard.spacing_mm), torch.tensor(shard.volume.shape)
        body = volume > 12  # of 255: above the air
        pictures, solids = [], []
        for _ in range(6 * n):
            if len(pictures) == n:
                break
            turn = _slice_axes(draw)
            centre = (0.2 + 0.6 * torch.rand(3, generator=draw)) * shape * spacing
            extent = float((shape * spacing).median())
            step = extent / h * (0.45 + 0.75 * torch.rand(1, generator=draw).item())
            y, x = torch.meshgrid(torch.arange(h) + 0.5 - h / 2, torch.arange(w) + 0.5 - w / 2, indexing="ij")
            points = (centre + step * (x[..., None] * turn[0] + y[..., None] * turn[1])) / spacing
            within = ((points >= 0) & (points <= shape - 1)).all(-1).to(self.device)
            points = points.to(self.device).view(h * w, 1, 3)
            low, high = draw_window(shard, draw)
            values = sample_volume(volume, points).view(h, w)
            solid = (sample_volume(body.float(), points).view(h, w) > 0.5) & within
            if solid.float().mean() < 0.3:
                continue
            solid = F.max_pool2d(solid[None].float(), 7, 1, 3)[0] > 0  # outlines belong to what they surround
            picture = _bytes(((values - low) / (high - low)).clamp(0, 1) * within)
            seen = picture[solid].float()
            if seen.std() < 20 or ((seen < 3) | (seen > 252)).float().mean() > 0.5:  # a window that shows nothing
                continue
            pictures.append(picture)
            solids.append(solid)
        self._add_flat(pictures, solids)

    def _add_photos(self, shard: Shard, n: int, draw: torch.Generator) -> None:
        """Crops with the pool's shape at random places and, of large photographs, random sizes."""
        w, h = self.size
        pictures = []
        for i in range(n):
            photo = torch.from_numpy(shard.photos[i % len(shard.photos)])[None, None].float()
            fit = min(photo.shape[3] / w, photo.shape[2] / h)
            zoom = fit if fit <= 1 else fit ** torch.rand(1, generator=draw).item()
            ch, cw = min(int(h * zoom), photo.shape[2]), min(int(w * zoom), photo.shape[3])
            y = int(torch.randint(photo.shape[2] - ch + 1, (1,), generator=draw))
            x = int(torch.randint(photo.shape[3] - cw + 1, (1,), generator=draw))
            crop = photo[:, :, y : y + ch, x : x + cw].to(self.device)
            crop = F.interpolate(crop, (h, w), mode="bilinear", align_corners=False, antialias=True)
            pictures.append(crop[0, 0].round().clamp(0, 255).to(torch.uint8))
        self._add_flat(pictures, [torch.ones(h, w, dtype=torch.bool, device=self.device)] * len(pictures))

    def _add_shapes(self, n: int) -> None:
        """A few at a time, which bounds the memory."""
        w, h = self.size
        everywhere = torch.ones(h, w, dtype=torch.bool, device=self.device)
        for start in range(0, n, _SHAPES_AT_ONCE):
            many = min(_SHAPES_AT_ONCE, n - start)
            drawn = shapes.draw_shapes(many, (h, w), self.seed * 100_003 + start, self.device)
            self._add_flat(list(_bytes(drawn.image[:, 0])), [everywhere] * many)

    def _add_flat(self, pictures: list[Tensor], solids: list[Tensor]) -> None:
        if not pictures:
            return
        (w, h), n = self.size, len(pictures)
        normal = torch.zeros(n, 3, h, w, dtype=torch.int8, device=self.device)
        normal[:, 2] = -int(_NORMAL)
        focal = torch.tensor([float(w), float(w), w / 2, h / 2], device=self.device)
        self.parts.append(
            {
                "albedo": torch.stack(pictures),
                "normal": normal,
                "depth": torch.ones(n, h, w, device=self.device),
                "opacity": torch.stack(solids).to(torch.uint8) * 255,
                "intrinsics": focal.repeat(n, 1),
                "cam_from_world": torch.eye(4, device=self.device).repeat(n, 1, 1),
                "group": torch.arange(n),
                "flat": torch.ones(n, dtype=torch.bool, device=self.device),
            }
        )


def _slice_axes(draw: torch.Generator) -> Tensor:
    """float32 [3, 3], rows: where the picture's x and y and its normal point in the world; y runs towards inferior."""
    basis = torch.linalg.qr(torch.randn(3, 3, generator=draw)).Q
    if torch.rand(1, generator=draw).item() < 0.5:
        standard = (
            ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
            ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
            ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
        )
        chosen = torch.tensor(standard[int(torch.randint(3, (1,), generator=draw))], dtype=torch.float32)
        basis = torch.linalg.qr((chosen + 0.08 * torch.randn(3, 3, generator=draw)).T)
        basis = (basis.Q * torch.sign(basis.R.diagonal())).T
    return basis


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def _split(n: int, parts: int, most: list[int] | None = None) -> list[int]:
    """``n`` in ``parts`` nearly equal numbers."""
    return [n * (i + 1) // parts - n * i // parts for i in range(parts)]
