# SPDX-License-Identifier: Apache-2.0
"""Renders the pool of pictures of a training, once, on the device that trains.

Volumes give groups of views that look at the same spot (as G-buffers, to be lit later) and oblique slices; photographs
are what they are; a few synthetic shapes join the training. Volumes of one frame are seen by the same cameras and cut
by the same slices, which makes partners of their pictures. Deterministic: shards, split, number, size, seed and kind
of device decide everything.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.errors import InputError
from medrecon.training import shapes
from medrecon.training.pool import ViewPool
from medrecon.training.pool_scene import NORMAL, draw_scene, partners, to_bytes
from medrecon.training.shards import Shard, read_shards
from medrecon.training.slices import draw_slices

_VERSION = 4  # of everything that decides the pictures; cached pools of another version are rendered again
# The rest are photographs; shapes come on top, then all are scaled.
_SHARE_VIEWS, _SHARE_SLICES, _SHARE_SHAPES = 0.65, 0.2, 0.05
_SHAPES_AT_ONCE = 32


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
        volumes = _by_frame([s for s in self.shards if s.volume is not None])
        scenes = [tied for tied in volumes if any(s.meta.presets for s in tied)]
        photos = [s for s in self.shards if s.photos is not None]
        shares = [_SHARE_VIEWS * bool(scenes), _SHARE_SLICES * bool(volumes)]
        shares.append((1 - _SHARE_VIEWS - _SHARE_SLICES) * bool(photos))
        # Corners that are certain, for the training alone: others are judged on what is real.
        shares.append(_SHARE_SHAPES * (self.shards[0].meta.split == "train"))
        total = sum(shares)
        n_slices, n_photos, n_shapes = (round(views * share / total) for share in shares[1:])
        n_views = views - n_slices - n_photos - n_shapes if scenes else 0
        for i, (tied, n) in enumerate(zip(scenes, _split(n_views, [len(tied) for tied in scenes]))):
            self.parts += draw_scene(tied, n, self.size, self.device, self._draw(0, i))
            names = ", ".join(s.meta.name for s in tied)
            self.say(f"rendered {names}: {sum(len(p['flat']) for p in self.parts)} of {views} pictures")
        for i, (tied, n) in enumerate(zip(volumes, _split(n_slices, [len(tied) for tied in volumes]))):
            self._add_slices(tied, n, self._draw(1, i))
        counts = _split(n_photos, [1] * len(photos))
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
        partner = torch.arange(len(group)) + join("partner")
        made = {"group": group, "first": first, "count": count[group], "partner": partner}
        rest = {f.name: join(f.name) for f in fields(ViewPool) if f.name not in made}
        return ViewPool(**rest, **{name: index.to(self.device) for name, index in made.items()})

    def _add_slices(self, tied: list[Shard], n: int, draw: torch.Generator) -> None:
        """The same slices through each of the volumes of a frame."""
        pictures, solids = draw_slices(tied, n // len(tied), self.size, self.device, draw)
        for i, (picture, solid) in enumerate(zip(pictures, solids)):
            self._add_flat(picture, solid, partners(i, len(tied), len(picture)))

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
            self._add_flat(list(to_bytes(drawn.image[:, 0])), [everywhere] * many)

    def _add_flat(self, pictures: list[Tensor], solids: list[Tensor], partner: Tensor | None = None) -> None:
        if not pictures:
            return
        (w, h), n = self.size, len(pictures)
        normal = torch.zeros(n, 3, h, w, dtype=torch.int8, device=self.device)
        normal[:, 2] = -int(NORMAL)
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
                "partner": torch.zeros(n, dtype=torch.int64) if partner is None else partner,
            }
        )


def _by_frame(shards: list[Shard]) -> list[list[Shard]]:
    """Shards of one frame together, at the place of the first of them; every other one alone."""
    found: dict[str, list[Shard]] = {}
    for shard in shards:
        # No frame has the name of a file: those cannot begin with a slash.
        found.setdefault(shard.meta.frame or f"/{shard.meta.name}", []).append(shard)
    return list(found.values())


def _split(n: int, weights: list[int]) -> list[int]:
    """``n`` as whole numbers nearly in proportion to the weights."""
    total, ends = sum(weights), [0, *itertools.accumulate(weights)]
    return [n * b // total - n * a // total for a, b in itertools.pairwise(ends)]
