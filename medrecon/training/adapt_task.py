# SPDX-License-Identifier: Apache-2.0
"""What ``medrecon train adapt`` minimises: labels and descriptors under homographies, and a pull to where it began.

Torch alone; ``trainer.train`` runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medrecon.errors import ConfigError
from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork
from medrecon.training.adapt_views import disturb, look, random_centre, random_crop
from medrecon.training.descriptor import draw_points, matching_loss, sample
from medrecon.training.detector import label_loss, soft_labels
from medrecon.training.exact import product
from medrecon.training.settings import flat
from medrecon.training.warp import inverse, transfer


@dataclass(frozen=True)
class LearnSettings:
    """How the weights are adapted; small steps, because there is little to learn from and much to forget.

    Attributes:
        crop_px: (height, width) of the looks, multiples of 8.
        pairs: of looks, in each step.
        label_warps: homographies over which the labels are averaged.
        label_threshold: least mean probability of a label; small, as labels keep how probable they are.
        label_count: labels of a picture at most.
        corner_strength: least strength of a label whose descriptor is compared.
        corners, others: points of a pair whose descriptors are compared: such labels, and random pixels.
        learning_rate: at its height.
        detector: weight of the detector's loss beside the descriptors'.
        pull: weight of the squared distance of all weights from where they began (Li et al., "Explicit inductive bias
            for transfer learning with convolutional networks", ICML 2018, L2-SP).
        temperature: the similarities' factor at first; it is learned.
        seed: of everything random.
    """

    crop_px: tuple[int, int] = (240, 320)
    pairs: int = 4
    label_warps: int = 24
    label_threshold: float = 0.0005
    label_count: int = 2000
    corner_strength: float = 0.015
    corners: int = 192
    others: int = 32
    learning_rate: float = 3e-5
    detector: float = 0.1
    pull: float = 0.1
    temperature: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.crop_px) < 4 * CELL_PX or any(side % CELL_PX for side in self.crop_px):
            raise ConfigError(f"crop_px {self.crop_px} must be multiples of {CELL_PX}, at least {4 * CELL_PX}")
        if min(self.pairs, self.corners, self.label_warps, self.label_count) < 1 or self.others < 0:
            raise ConfigError("pairs, corners, label_warps and label_count must be at least 1", "correct the settings")
        if not self.learning_rate > 0 or min(self.detector, self.pull) < 0 or not self.temperature > 0:
            raise ConfigError("learning_rate and temperature must be above 0, detector and pull at least 0")


@dataclass(frozen=True)
class Labelled:
    """A picture and where its keypoints are, on the training device.

    Attributes:
        picture: float32 [1, H, W] in 0..1.
        mask: bool [H, W], True = use.
        points: float32 [K, 2] px.
        strengths: float32 [K], mean probability of a keypoint there, above 0 and below 1.
    """

    picture: Tensor
    mask: Tensor
    points: Tensor
    strengths: Tensor


class Looks(NamedTuple):
    """B crops of pictures.

    Attributes:
        images: float32 [B, H, W] in 0..1.
        masks: bool [B, H, W], True = shows something that may be used.
        picture_from_crop: [B, 3, 3].
    """

    images: Tensor
    masks: Tensor
    picture_from_crop: Tensor


class AdaptTask:
    """A ``trainer.Task``. All that is random follows from the seed and the step.

    Args:
        network: with the starting weights, on the device; is trained.
        learn, held_out: labelled pictures; the second are only looked at.
        identity: facts that a resumed training must share (settings of the data, digests).
        export: called at the end with the folder and the trainer's facts.
    """

    def __init__(
        self,
        network: SuperpointNetwork,
        learn: list[Labelled],
        held_out: list[Labelled],
        settings: LearnSettings,
        identity: dict[str, Any],
        export: Callable[[Path, dict[str, Any]], None],
    ):
        self.network, self.learn, self.held_out, self.settings = network.train(), learn, held_out, settings
        self.pairs_per_step = settings.pairs
        self._identity, self._export = identity, export
        self.started = [p.detach().clone() for p in network.parameters()]
        self.scale = nn.ParameterList([torch.tensor(settings.temperature).log()]).to(self.started[0].device)

    def identity(self) -> dict[str, Any]:
        return flat(self.settings, "learn.") | self._identity

    def networks(self) -> dict[str, nn.Module]:
        return {"superpoint": self.network, "scale": self.scale}

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = self.settings.learning_rate
        return [
            {"params": list(self.network.parameters()), "lr": rate, "weight_decay": 0.0},
            {"params": list(self.scale.parameters()), "lr": 10 * rate, "weight_decay": 0.0},
        ]

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = self._pairs(self.learn, self._generator("learn", step))
        moved = sum((p - s).square().sum() for p, s in zip(self.network.parameters(), self.started))
        return loss + self.settings.pull * moved, figures | {"moved": moved.detach()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        rounds = max(1, 32 // self.settings.pairs)
        sums: dict[str, float] = {}
        for k in range(rounds):
            _, figures = self._pairs(self.held_out, self._generator("held out", k))
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + float(value) / rounds
        return sums

    def conclude(self) -> dict[str, Any]:
        """Nothing: keypoints are found by number, not by probability."""
        return {}

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        self._export(folder, facts)

    def _generator(self, kind: str, step: int) -> torch.Generator:
        digest = hashlib.sha256(f"{self.settings.seed} {kind} {step}".encode()).digest()
        device = self.started[0].device
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))

    def _pairs(self, pictures: list[Labelled], generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and figures of random pairs of looks at random pictures.

        The network alone may be in half precision: coordinates in it are off by pixels.
        """
        half = torch.is_autocast_enabled(generator.device.type)
        with torch.autocast(generator.device.type, enabled=False):
            return self._in_full(pictures, generator, half)

    def _in_full(
        self, pictures: list[Labelled], generator: torch.Generator, half: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        c, device = self.settings, generator.device
        chosen = torch.randint(len(pictures), (c.pairs,), generator=generator, device=device).tolist()
        chosen = [pictures[i] for i in chosen]
        centres = [random_centre(p.mask, generator) for p in chosen]
        a, b = (self._look(chosen, centres, generator) for _ in range(2))
        images, clear = disturb(torch.cat([a.images, b.images]), generator)
        a, b = a._replace(masks=a.masks & clear[: c.pairs]), b._replace(masks=b.masks & clear[c.pairs :])
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits, cells = self.network(images[:, None].contiguous(memory_format=torch.channels_last))
        strength = torch.cat([_strength_in(looks, chosen) for looks in (a, b)])
        labels = soft_labels(strength.logit(1e-6), strength > 0, floor=0.0, softness=1.0, sigma_px=0.5)
        detector = label_loss(logits, labels, torch.cat([a.masks, b.masks]))

        corners = strength[: c.pairs] > c.corner_strength
        xy_a = draw_points(corners, a.masks, c.corners, c.others, generator)
        xy_b, front = transfer(product(inverse(b.picture_from_crop), a.picture_from_crop), xy_a)
        valid = front & _allowed(a.masks, xy_a) & _allowed(b.masks, xy_b)
        described = cells[: c.pairs], cells[c.pairs :]
        pairs = [sample(m, xy) for m, xy in zip(described, (xy_a, xy_b))]
        descriptor, accuracy = matching_loss(*pairs, xy_a, xy_b, valid, self.scale[0].exp())
        figures = {"detector": detector.detach(), "descriptor": descriptor.detach(), "accuracy": accuracy}
        return descriptor + c.detector * detector, figures

    def _look(self, pictures: list[Labelled], centres: list[Tensor], generator: torch.Generator) -> Looks:
        crop = self.settings.crop_px
        images, masks, warps = [], [], []
        spread = torch.tensor(crop[::-1], device=generator.device) / 4
        for picture, centre in zip(pictures, centres):
            shift = (torch.rand(2, generator=generator, device=generator.device) - 0.5) * spread
            there = random_crop(crop, centre + shift, generator)
            image, mask = look(picture.picture, picture.mask, there, crop)
            images.append(image[0])
            masks.append(mask)
            warps.append(there)
        return Looks(torch.stack(images), torch.stack(masks), torch.stack(warps))


def _strength_in(looks: Looks, pictures: list[Labelled]) -> Tensor:
    """float32 [B, H, W]: the strength of the label in each pixel of the crops, 0 where there is none."""
    height, width = looks.masks.shape[1:]
    out = torch.zeros(looks.masks.shape, device=looks.masks.device)
    for i, picture in enumerate(pictures):
        xy, front = transfer(inverse(looks.picture_from_crop[i]), picture.points)
        inside = front & ((xy >= 0) & (xy < xy.new_tensor([width, height]))).all(1)
        at = xy[inside].long()
        index = at[:, 1] * width + at[:, 0]
        out[i].view(-1).scatter_reduce_(0, index, picture.strengths[inside], "amax")
    return out * looks.masks


def _allowed(masks: Tensor, xy: Tensor) -> Tensor:
    """bool [B, N]: points [B, N, 2] px that lie inside and on a True pixel of masks [B, H, W]."""
    height, width = masks.shape[1:]
    inside = ((xy >= 0) & (xy < xy.new_tensor([width, height]))).all(2)
    column, row = xy[..., 0].clamp(0, width - 1).long(), xy[..., 1].clamp(0, height - 1).long()
    return inside & masks[torch.arange(len(masks), device=masks.device)[:, None], row, column]
