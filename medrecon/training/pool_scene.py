# SPDX-License-Identifier: Apache-2.0
"""Groups of views of one volume, or of the volumes of a frame, as G-buffers that are lit later."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medrecon.training import cameras
from medrecon.training.exact import times
from medrecon.training.opacity import draw_ramp
from medrecon.training.raycast import VolumeCaster, sample_volume
from medrecon.training.shards import Shard
from medrecon.training.texture import SolidTexture, wavelength

_GROUPS_PER_CASTER = 3  # groups that share an opacity ramp, and so a map of empty space
_BENEATH = 3  # voxels behind a surface whose mean colours it
NORMAL = 127.0  # int8 of a unit component
# Share of the groups that look from within the body, and of those that get a texture.
_INSIDE = {"airway": 0.6, "skin": 0.15, "vessels": 0.15, "bone": 0.1, "brain": 0.0}
_TEXTURED = {"airway": 0.8, "skin": 0.8, "vessels": 0.4, "bone": 0.4, "brain": 0.5}


def draw_scene(
    tied: list[Shard], views: int, size: tuple[int, int], device: torch.device, draw: torch.Generator
) -> list[dict[str, Tensor]]:
    """About ``views`` pictures in groups, under ramps of the presets in turn.

    A preset that several volumes of a frame have gives each view once per volume: the surface is that of one of
    them, the colour that of each in turn. Surfaces found in each by itself would differ by millimetres.

    Args:
        tied: volumes with the same grid in the same frame; usually one.
        size: (width, height) of the pictures in px.
        draw: a generator of the CPU.

    Returns:
        Chunks of pictures as fields of ``ViewPool``; but ``group`` counts from 0 in each chunk, and ``partner`` is how
        far on the partner lies when the chunks follow each other.
    """
    # One voxel of nothing all round closes the surfaces that the border of the volume cuts.
    volumes = [F.pad(torch.from_numpy(shard.volume).to(device), (1,) * 6) for shard in tied]
    looks = [(i, preset) for i, shard in enumerate(tied) for preset in shard.meta.presets]
    left, fruitless, turn = views, 0, 0
    parts: list[dict[str, Tensor]] = []
    while left >= min(cameras.PER_GROUP, views) and left > 0 and fruitless < 2 * len(looks):
        lead, preset = looks[turn % len(looks)]
        turn += 1
        others = [i for i, s in enumerate(tied) if i != lead and preset in s.meta.presets]
        each = cameras.PER_GROUP * (1 + len(others))
        if others and left < each:
            fruitless += 1
            continue
        ramp, top = draw_ramp(tied[lead], preset, draw)
        caster = VolumeCaster(volumes[lead], tied[lead].spacing_mm, ramp)
        wanted = min(_GROUPS_PER_CASTER, max(1, left // each))
        placed = cameras.place_groups(caster, wanted, size, _INSIDE[preset], draw)
        fruitless = 0 if len(placed.good) else fruitless + 1
        if len(placed.good):
            coats = []
            for i in others:
                other, bright = draw_ramp(tied[i], preset, draw)
                coats.append((volumes[i], other.low, bright))
            made = _render(caster, placed, size, top, coats, preset, draw)
            left -= sum(len(part["group"]) for part in made)
            parts += made
    return parts


def _render(
    caster: VolumeCaster, placed: cameras.Cameras, size: tuple[int, int], top: float,
    coats: list[tuple[Tensor, float, float]], preset: str, draw: torch.Generator,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """The views, and the same again coloured by each of the coats: volume, darkest and brightest byte value."""
    good = placed.good
    group = torch.arange(len(good))[:, None].expand_as(good)[good]
    intrinsics, pose = placed.intrinsics[good].to(caster.device), placed.cam_from_world[good].to(caster.device)
    buffer = caster.render(intrinsics, pose, size)
    point = _world_points(buffer.depth, intrinsics, pose)
    values = [(buffer.value, caster.ramp.low, top)]
    values += [(_beneath(volume, caster, point, pose, buffer.depth), *ends) for volume, *ends in coats]
    grey = torch.cat([_grey(value, low, high, buffer.opacity, draw) for value, low, high in values])
    n = len(values)
    _paint(grey, buffer.depth, point, intrinsics, group, preset, draw)
    return [
        {
            "albedo": to_bytes(painted),
            "normal": (buffer.normal * NORMAL).round().to(torch.int8),
            "depth": buffer.depth,
            "opacity": to_bytes(buffer.opacity),
            "intrinsics": intrinsics,
            "cam_from_world": pose,
            "group": group,
            "flat": torch.zeros(len(group), dtype=torch.bool, device=caster.device),
            "partner": partners(i, n, len(group)),
        }
        for i, painted in enumerate(grey.chunk(n))
    ]


def _grey(value: Tensor, low: float, top: float, opacity: Tensor, draw: torch.Generator) -> Tensor:
    floor, gamma = (
        (0.2 + 0.4 * torch.rand(1, generator=draw)).item(),
        math.exp(torch.randn(1, generator=draw) * 0.2),
    )
    share = ((value - low) / max(top - low, 1.0)).clamp(0, 1) ** gamma
    return (floor + (1 - floor) * share) * (opacity > 0)


def _beneath(volume: Tensor, caster: VolumeCaster, point: Tensor, pose: Tensor, depth: Tensor) -> Tensor:
    """float32 [V, H, W]: mean of a volume over the first voxels behind the surface, as a ray would gather it."""
    eye = -times(pose[:, :3, :3].transpose(1, 2), pose[:, None, :3, 3])
    ray = F.normalize(point - eye, dim=-1) * caster.spacing.mean()
    data = volume.float()[None, None]
    into = torch.arange(_BENEATH, device=depth.device)[:, None] + 0.5
    look = lambda p, r: sample_volume(data, (p[:, None] + into * r[:, None]) / caster.spacing).mean(1)
    return torch.stack([look(p, r) for p, r in zip(point, ray)]).view_as(depth)


def _paint(grey, depth, point, intrinsics, group, preset: str, draw: torch.Generator) -> None:
    """Give the surfaces of most groups a texture, in place; the coats of a view share it."""
    grey = grey.view(-1, *depth.shape)
    for g in range(int(group.max()) + 1):
        views = (group == g).nonzero()[:, 0].to(depth.device)
        if torch.rand(1, generator=draw).item() >= _TEXTURED[preset]:
            continue
        z = depth[views]
        hit = z > 0
        texture = SolidTexture(
            wavelength(float(z[hit].median()), float(intrinsics[views[0], 0]), draw), draw, depth.device
        )
        factor = torch.where(hit, texture(point[views].reshape(-1, 3)).view_as(z), torch.ones_like(z))
        grey[:, views] = grey[:, views] * factor


def partners(index: int, volumes: int, views: int) -> Tensor:
    """int64 [views]: how far on the same views of the next volume lie, where those of ``volumes`` follow each other."""
    step = views if index + 1 < volumes else -views * (volumes - 1)
    return torch.full((views,), step)


def _world_points(depth: Tensor, intrinsics: Tensor, pose: Tensor) -> Tensor:
    """float32 [V, H * W, 3], mm: what the pixels show; where the depth is 0, the cameras."""
    k = intrinsics[:, :, None, None]
    y, x = torch.meshgrid(*(torch.arange(n, device=depth.device) + 0.5 for n in depth.shape[1:]), indexing="ij")
    point = [(x - k[:, 2]) / k[:, 0] * depth, (y - k[:, 3]) / k[:, 1] * depth, depth]
    point = torch.stack(point, -1).flatten(1, 2)
    return times(pose[:, :3, :3].transpose(1, 2), point - pose[:, None, :3, 3])


def to_bytes(x: Tensor) -> Tensor:
    """uint8 from 0..1."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8)
