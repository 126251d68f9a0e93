# SPDX-License-Identifier: Apache-2.0
"""Which kinds of pairs a training sees, and which views of the pool make them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medrecon.errors import ConfigError
from medrecon.training.photometric import Dice
from medrecon.training.pool import ViewPool

HOMOGRAPHY, VIEWS, MODALITY, CROSS = 0, 1, 2, 3


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of pairs; they are normalised.

    Attributes:
        views: two views of a volume.
        homography: one view, slice or photograph twice.
        modality: either of them with another contrast on each side.
        cross: CT and MR (say) of the same head, as two views or as one slice through both; 0 where the pool has none.
        flat: share of slices and photographs among the pairs of one picture, and of slices among those of ``cross``.
    """

    views: float = 0.40
    homography: float = 0.45
    modality: float = 0.15
    cross: float = 0.1
    flat: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.views, self.homography, self.modality, self.cross)
        if min(shares) < 0 or sum(shares) <= 0 or not 0 <= self.flat <= 1:
            raise ConfigError(f"the mix of pairs {shares}, flat {self.flat} is not made of shares", "give 0 or more")


def choose_views(pool: ViewPool, mix: Mix, dice: Dice, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """int64 kind [B], bool two [B] (of two cameras), int64 a and b [B]."""
    solid, flat = pool.solid_views, pool.flat_views
    views, homography, modality = mix.views, mix.homography, mix.modality
    cross = mix.cross if len(pool.tied_views) else 0.0
    if not len(solid):
        views, homography = 0.0, homography + views
    total = views + homography + modality + cross
    if total <= 0:
        raise ConfigError(
            "the mix asks for pairs of two modalities alone, and the pool has none", "raise another share"
        )
    u = _one(dice) * total
    kind = torch.where(u < views, VIEWS, torch.where(u < views + homography, HOMOGRAPHY, MODALITY))
    both = mix.views / max(mix.views + mix.homography, 1e-9) if len(solid) else 0.0
    two = (kind == VIEWS) | ((kind == MODALITY) & dice.chance(both)[:, 0, 0])
    share = mix.flat if len(solid) and len(flat) else float(len(flat) > 0)
    a = _pick(solid if len(solid) else flat, dice)
    if len(flat):
        a = torch.where(~two & dice.chance(share)[:, 0, 0], _pick(flat, dice), a)
    b = torch.where(two, _another(pool, a, dice), a)
    if cross:  # drawn last: pools without partners give the same pairs whatever the share
        is_cross = u >= total - cross
        tied_a, tied_b = _choose_tied(pool, mix, dice)
        kind = torch.where(is_cross, CROSS, kind)
        a, b = torch.where(is_cross, tied_a, a), torch.where(is_cross, tied_b, b)
        two = torch.where(is_cross, ~pool.flat[a], two)
    return kind, two, a, b


def _choose_tied(pool: ViewPool, mix: Mix, dice: Dice) -> tuple[Tensor, Tensor]:
    """int64 a and b [B]: a view and any view of its partner's group; a slice and its partner."""
    tied = pool.tied_views
    solid, flat = tied[~pool.flat[tied]], tied[pool.flat[tied]]
    share = mix.flat if len(solid) and len(flat) else float(len(flat) > 0)
    flat_a, solid_a = (_pick(index if len(index) else tied, dice) for index in (flat, solid))
    a = torch.where(dice.chance(share)[:, 0, 0], flat_a, solid_a)
    partner = pool.partner[a]
    first, count = pool.first[partner], pool.count[partner]
    return a, first + (_one(dice) * count).long().clamp(max=count - 1)


def _another(pool: ViewPool, a: Tensor, dice: Dice) -> Tensor:
    """int64 [B]: another view of the same group, the same one where there is no other."""
    count, first = pool.count[a], pool.first[a]
    return first + (a - first + 1 + (_one(dice) * (count - 1)).long()) % count


def _pick(index: Tensor, dice: Dice) -> Tensor:
    return index[(_one(dice) * len(index)).long().clamp(max=len(index) - 1)]


def _one(dice: Dice) -> Tensor:
    """float32 [B], 0..1."""
    return dice.uniform(0, 1)[:, 0, 0]
