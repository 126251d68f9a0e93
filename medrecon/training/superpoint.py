# SPDX-License-Identifier: Apache-2.0
"""Training SuperPoint: a blob response first, then its maxima as labels, then detector and descriptor together.

What is learned from is in ``detector`` and ``descriptor``, what is trained in ``superpoint_twin``, the loop in
``trainer``. The defaults are the recipe for one data-centre GPU; ``recipes/cpu.yaml`` is the one for two cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medrecon.errors import ConfigError
from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork, SuperpointNetworkConfig
from medrecon.training import detector, validation
from medrecon.training.descriptor import draw_points, matching_loss, sample
from medrecon.training.pairs import Mix, PairBatch, draw_pairs, step_seed
from medrecon.training.pool import ViewPool
from medrecon.training.pool_builder import build_pools
from medrecon.training.settings import Schedule, flat
from medrecon.training.shards import read_shards
from medrecon.training.superpoint_twin import SuperpointTwin, to_pixels
from medrecon.training.trainer import train
from medrecon.training.weights_io import write_weights

LICENSE = "Apache-2.0"
FILE = "superpoint.safetensors"
_VALIDATION_SEED = 1_000_003


@dataclass(frozen=True)
class SuperpointSettings:
    """What is trained on what, and how; the length is the schedule's.

    Attributes:
        seed: of the weights, the pool and the pairs.
        encoder_widths, head_width, descriptor_size: of the network; the defaults are the released size.
        views, validation_views: pictures rendered for training and for validation.
        batch: pairs of one step.
        crop: (height, width) px of the training pictures, multiples of 8.
        mix: kinds of pairs.
        learning_rate: of AdamW, at its height; the detector's head has ``detector_gain`` times as much.
        weight_decay: of convolutions outside the detector's head.
        response_until: share of the training in which the detector learns the dense response alone; over half as long
            again the labels come in, and the response stays with ``response_weight``.
        sharpness: logits are this multiple of the response, so that their softmax is a peak.
        label_floor, label_softness: response at which a maximum is a keypoint with probability 1/2, and
            how gradually.
        label_sigma_px: spread of a label.
        descriptor_from: share of the training after which the descriptor is trained.
        descriptor_weight: of its loss.
        corners, others: points of a pair for the descriptor: maxima of the response, and random ones.
        validation_pairs: of each of the two kinds.
        validation_size: (height, width) px of their pictures.
        area_per_keypoint: budget of the validation: pixels of a picture for each keypoint.
    """

    seed: int = 0
    encoder_widths: tuple[int, int, int, int] = (64, 64, 128, 128)
    head_width: int = 256
    descriptor_size: int = 256
    views: int = 6000
    validation_views: int = 400
    batch: int = 32
    crop: tuple[int, int] = (192, 256)
    mix: Mix = field(default_factory=Mix)
    learning_rate: float = 4e-3
    detector_gain: float = 1.0
    weight_decay: float = 1e-4
    response_until: float = 0.15
    response_weight: float = 0.3
    sharpness: float = 2.0
    label_floor: float = 1.5
    label_softness: float = 0.5
    label_sigma_px: float = 0.8
    descriptor_from: float = 0.08
    descriptor_weight: float = 0.5
    corners: int = 112
    others: int = 112
    validation_pairs: int = 64
    validation_size: tuple[int, int] = (192, 256)
    area_per_keypoint: int = 256

    def __post_init__(self) -> None:
        for name in ("crop", "validation_size"):
            size = getattr(self, name)
            if min(size) < 4 * CELL_PX or any(n % CELL_PX for n in size):
                raise ConfigError(f"{name} {tuple(size)} is not made of whole cells", "give multiples of 8, 32 or more")
        if min(self.views, self.validation_views, self.batch, self.validation_pairs, self.area_per_keypoint) < 1:
            raise ConfigError("views, batch, validation_pairs and area_per_keypoint must be at least 1", "correct them")

    def network(self) -> SuperpointNetworkConfig:
        return SuperpointNetworkConfig(
            encoder_widths=self.encoder_widths, head_width=self.head_width, descriptor_size=self.descriptor_size
        )


class SuperpointTask:
    """See ``trainer.Task``.

    Args:
        pool, validation_pool: on ``device``.
        data: facts of the training shards, for the provenance.
    """

    def __init__(
        self,
        settings: SuperpointSettings,
        pool: ViewPool,
        validation_pool: ViewPool,
        device: torch.device,
        data: list[dict[str, Any]],
    ):
        self.settings, self.pool, self.device, self.data = settings, pool, device, data
        self.pairs_per_step = settings.batch
        torch.manual_seed(settings.seed)
        self.twin = SuperpointTwin(settings.network()).to(device, memory_format=torch.channels_last)
        self.scale = nn.Module()
        self.scale.log = nn.Parameter(torch.tensor(15.0, device=device).log())
        self._judged = _validation_pairs(settings, validation_pool)

    def identity(self) -> dict[str, Any]:
        return flat(self.settings) | {"data": [d["digest"] for d in self.data]}

    def networks(self) -> dict[str, nn.Module]:
        return {"superpoint": self.twin, "scale": self.scale}

    def parameter_groups(self) -> list[dict[str, Any]]:
        s = self.settings
        head = [p for n, p in self.twin.named_parameters() if "convP" in n]
        decayed = [p for n, p in self.twin.named_parameters() if "convP" not in n and p.ndim > 1]
        plain = [p for n, p in self.twin.named_parameters() if "convP" not in n and p.ndim <= 1]
        return [
            {"params": head, "lr": s.learning_rate * s.detector_gain, "weight_decay": 0.0},
            {"params": decayed, "lr": s.learning_rate, "weight_decay": s.weight_decay},
            {"params": [*plain, self.scale.log], "lr": s.learning_rate, "weight_decay": 0.0},
        ]

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        seed = step_seed(s.seed, step)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            pairs = draw_pairs(self.pool, s.batch, s.crop, seed, s.mix)
            images, masks, response = _targets(pairs)
            top = detector.peaks(response, masks)
        describe = progress >= s.descriptor_from and s.descriptor_weight > 0
        maps = self.twin(images, describe)
        with torch.autocast(self.device.type, enabled=False):
            loss, figures = self._detector_loss(maps, images, masks, response, top, progress)
            if describe:
                generator = torch.Generator(self.device).manual_seed(seed)
                xy_a = draw_points(top[: s.batch], pairs.mask_a, s.corners, s.others, generator)
                xy_b, visible = pairs.a_to_b(xy_a)
                xy_b = torch.where(visible[..., None], xy_b, 0.0)
                a, b = maps.descriptors.chunk(2)
                matching, accuracy = matching_loss(
                    sample(a, xy_a), sample(b, xy_b), xy_a, xy_b, visible, self.scale.log.exp().clamp(max=100)
                )
                loss = loss + s.descriptor_weight * matching
                figures |= {"descriptor": matching.detach(), "descriptor_accuracy": accuracy}
        return loss, figures

    def _detector_loss(
        self, maps: Any, images: Tensor, masks: Tensor, response: Tensor, top: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        s = self.settings
        predicted = to_pixels(maps.logits) / s.sharpness
        dense = detector.response_loss(predicted, response, masks)
        come = min(1.0, max(0.0, (progress - s.response_until) / max(0.5 * s.response_until, 1e-9)))
        loss = (1 + (s.response_weight - 1) * come) * dense
        figures = {"response": dense.detach()}
        with torch.no_grad():
            figures["within_cell_r2"] = detector.within_cell_r2(predicted, response, masks)
        if come > 0:
            labels = detector.soft_labels(response, top, s.label_floor, s.label_softness, s.label_sigma_px)
            labelled = detector.label_loss(maps.logits, labels, masks)
            loss, figures["labels"] = loss + come * labelled, labelled.detach()
        return loss, figures

    def validate(self) -> dict[str, float]:
        """Of the plain network, as it would be exported: flat_... of pairs of one view, views_... of two."""
        find = validation.learned(self.network(), self.budget)
        out = {}
        for kind, batches in self._judged.items():
            figures = validation.judge(batches, find, validation.nearest(), poses=kind == "views")
            out |= {f"{kind}_{name}": value for name, value in figures.items()}
        return out

    def baseline(self) -> dict[str, float]:
        """Repeatability of classical blobs on the validation pairs, with the same budget and suppression."""
        find, out = validation.classical(self.budget), {}
        for kind, batches in self._judged.items():
            figures = validation.judge(batches, find, None)
            out |= {f"{kind}_{name}": value for name, value in figures.items()}
        return out

    @property
    def budget(self) -> int:
        height, width = self.settings.validation_size
        return max(2, height * width // self.settings.area_per_keypoint)

    def network(self) -> SuperpointNetwork:
        """The plain network in eval mode, on the device."""
        return self.twin.fold().to(memory_format=torch.channels_last)

    def conclude(self) -> dict[str, Any]:
        """Nothing: keypoints are found by number, not by probability."""
        return {}

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        network = self.network()
        config = dataclasses.asdict(network.config)
        write_weights(folder / FILE, network.state_dict(), network.format, config, LICENSE, facts)


def run(
    settings: SuperpointSettings,
    schedule: Schedule,
    data: Path,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train on the shards in ``data``, or go on with the training in ``out``; leaves superpoint.safetensors there.

    Args:
        cache: folder of rendered pools; None: one below the folder for temporary files.

    Raises:
        ConfigError, InputError, StageError: see ``trainer.train`` and ``shards.read_shards``.
    """
    facts = shard_facts(data)
    wanted = ("train", settings.views), ("val", settings.validation_views)
    pools = build_pools(data, wanted, settings.seed, device, say, cache)
    task = SuperpointTask(settings, *pools, device, facts)
    about = {"data": facts, "seed": settings.seed, "baseline": task.baseline()}
    return train(task, schedule, out, device, say, about)


def shard_facts(data: Path) -> list[dict[str, Any]]:
    """Name, modality, licence, citation and digest of every training shard."""
    return [
        {"name": m.name, "modality": m.modality, "license": m.license, "citation": m.citation, "digest": digest}
        for m, digest in ((s.meta, s.digest) for s in read_shards(data, "train"))
    ]


def _targets(pairs: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
    """images [2 B, 1, H, W], masks bool and consensus response [2 B, H, W]: the pictures a, then the pictures b."""
    images = torch.cat([pairs.image_a, pairs.image_b]).contiguous(memory_format=torch.channels_last)
    here, there = detector.blob_response(images).chunk(2)
    response = [detector.consensus(here, there, pairs.a_to_b), detector.consensus(there, here, pairs.b_to_a)]
    return images, torch.cat([pairs.mask_a, pairs.mask_b]), torch.cat(response)


def _validation_pairs(settings: SuperpointSettings, pool: ViewPool) -> dict[str, list[PairBatch]]:
    """The same pairs for every training of these settings: pictures seen twice, and two views in pinhole crops."""
    out = {}
    kinds = {"flat": Mix(0, 1, 0, 0), "views": Mix(1, 0, 0, 0)} if len(pool.solid_views) else {"flat": Mix(0, 1, 0, 0)}
    for kind, mix in kinds.items():
        sizes = [8] * (settings.validation_pairs // 8)
        sizes += [settings.validation_pairs % 8] if settings.validation_pairs % 8 else []
        out[kind] = [
            draw_pairs(pool, n, settings.validation_size, step_seed(_VALIDATION_SEED, i), mix, pinhole=kind == "views")
            for i, n in enumerate(sizes)
        ]
    return out
