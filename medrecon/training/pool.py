# SPDX-License-Identifier: Apache-2.0
"""The pool of pictures from which a training run draws its pairs; ``pool_builder`` renders it."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from medrecon.errors import InputError


@dataclass
class ViewPool:
    """Pictures on one device.

    Attributes:
        albedo: uint8 [V, H, W], grey of the surface before lighting; of a flat item the picture itself.
        normal: int8 [V, 3, H, W], 127 * unit normal in the camera's frame, out of the tissue: towards the eye, z < 0.
        depth: float32 [V, H, W], z-depth in mm; 0 = nothing; 1 everywhere in a flat item.
        opacity: uint8 [V, H, W], 255 = opaque; of a flat item 255 where there is something to see.
        intrinsics: float32 [V, 4], fx fy cx cy in px; pixel centres at .5.
        cam_from_world: float32 [V, 4, 4], mm.
        group: int64 [V]; views of a group look at the same spot and overlap; a flat item is a group of its own.
        flat: bool [V]; slice or photograph: no depth, and no lighting.
        first, count: int64 [V], the group's first view (groups are contiguous) and how many it has.
        partner: int64 [V], the view of the same camera, or the same slice, through another volume of the same head; its
            group is another one, of as many views. A view without such a partner is its own.
    """

    albedo: Tensor
    normal: Tensor
    depth: Tensor
    opacity: Tensor
    intrinsics: Tensor
    cam_from_world: Tensor
    group: Tensor
    flat: Tensor
    first: Tensor
    count: Tensor
    partner: Tensor

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def device(self) -> torch.device:
        return self.albedo.device

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.albedo.shape[2], self.albedo.shape[1]

    @cached_property
    def solid_views(self) -> Tensor:
        """int64: the views of volumes."""
        return (~self.flat).nonzero()[:, 0]

    @cached_property
    def flat_views(self) -> Tensor:
        """int64: the slices and photographs."""
        return self.flat.nonzero()[:, 0]

    @cached_property
    def tied_views(self) -> Tensor:
        """int64: the views and slices that have a partner in another volume."""
        return (self.partner != torch.arange(len(self), device=self.device)).nonzero()[:, 0]

    def to(self, device: torch.device | str) -> "ViewPool":
        return ViewPool(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def save(self, path: str | Path) -> None:
        """Tensors only, by ``torch.save``; the file appears whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        torch.save({f.name: getattr(self, f.name).cpu() for f in fields(self)}, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "ViewPool":
        """Raises InputError for a file that is not a pool."""
        try:
            tensors = torch.load(path, map_location=device, weights_only=True)
            return cls(**tensors)
        except Exception as e:  # torch raises pickle, zip, runtime and type errors: all mean the same to the user
            raise InputError(f"{path} is not a pool of views: {e}", "remove it; it is rendered again") from e
