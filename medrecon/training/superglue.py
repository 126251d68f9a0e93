# SPDX-License-Identifier: Apache-2.0
"""Training SuperGlue on the features of a SuperPoint that stays as it is (Sarlin et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medrecon.errors import ConfigError
from medrecon.features.superpoint_network import CELL_PX, SuperpointNetwork
from medrecon.matching.superglue_network import SuperglueNetwork, SuperglueNetworkConfig, normalise_keypoints
from medrecon.training import validation
from medrecon.training.assignment import assignment_loss, mutual_best, mutual_matches
from medrecon.training.keypoints import DETECTORS, Keypoints
from medrecon.training.match_threshold import choose, tabulate
from medrecon.training.matching_trial import MatchingTrial, keypoints_of
from medrecon.training.pairs import Mix, draw_pairs, step_seed
from medrecon.training.pool import ViewPool
from medrecon.training.pool_builder import build_pools
from medrecon.training.settings import Schedule, flat
from medrecon.training.superglue_start import fit_sharpness, start_from_descriptors
from medrecon.training.superpoint import shard_facts
from medrecon.training.trainer import train
from medrecon.training.true_matches import label_matches
from medrecon.training.weights_io import load_trained, write_weights

# What the matcher of the product does by default.
MATCHER_ITERATIONS = 100
_RATIO = 0.85
_VALIDATION_SEED = 1_000_003
LICENSE = "Apache-2.0"
FILE = "superglue.safetensors"


@dataclass(frozen=True)
class SuperglueSettings:
    """What is trained and on what; the defaults are the recipe for a GPU.

    Attributes:
        superpoint: path of the frozen SuperPoint's weights (.safetensors, the .json beside them).
        width, layers, heads, encoder_widths: size of the network, see ``SuperglueNetworkConfig``. A width above the
            descriptors' length leaves room for positions (see ``superglue_start``).
        image_px: (height, width) of the crops.
        keypoints: of each picture; random places fill up.
        detectors: whose keypoints, step by step in turns (see ``keypoints.DETECTORS``); validation takes the first's.
            Both, so that one matcher serves either and the better one is chosen by measuring.
        pairs: in each step.
        learning_rate: at its height.
        bin_rate: learning rate of the dustbins' score, a single number that has far to go, as a multiple.
        weight_decay: of matrices.
        sinkhorn_iterations: in training; validation takes as many as the matcher.
        match_threshold: least probability of a match in the curves of validation, which stay comparable; that of the
            finished weights is chosen at the end (see ``match_threshold``).
        views, validation_views: of the pools that pairs are drawn from.
        mix: kinds of pairs.
        validation_pairs: of each of two kinds.
        seed: of everything random.
    """

    superpoint: str = ""
    width: int = 288
    layers: int = 9
    heads: int = 4
    encoder_widths: tuple[int, ...] = (32, 64, 128, 256)
    image_px: tuple[int, int] = (192, 256)
    keypoints: int = 320
    detectors: tuple[str, ...] = DETECTORS
    pairs: int = 64
    learning_rate: float = 1e-3
    bin_rate: float = 10.0
    weight_decay: float = 0.01
    sinkhorn_iterations: int = 30
    match_threshold: float = 0.2
    views: int = 6000
    validation_views: int = 400
    mix: Mix = field(default_factory=Mix)
    validation_pairs: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.image_px) < 2 * CELL_PX or any(side % CELL_PX for side in self.image_px):
            raise ConfigError(f"image_px {self.image_px} must be multiples of {CELL_PX}", "for example 192,256")
        if not 2 <= self.keypoints <= self.image_px[0] * self.image_px[1]:
            raise ConfigError(f"keypoints is {self.keypoints}", "give at least 2, at most the number of pixels")
        if not self.detectors or not set(self.detectors) <= set(DETECTORS):
            raise ConfigError(f"detectors {self.detectors}", f"one or more of: {', '.join(DETECTORS)}")
        if self.pairs < 1 or self.sinkhorn_iterations < 1 or self.validation_pairs < 1:
            raise ConfigError("pairs, sinkhorn_iterations and validation_pairs must be at least 1", "raise them")


class SuperglueTask:
    """``trainer.Task``: the matcher's weights are trained, the extractor's are not.

    Args:
        pool, validation_pool: on the device to train on.
        data: digests of the training shards, for the checkpoint.

    Raises:
        AssetError: the SuperPoint's weights cannot be read.
        ConfigError: sizes that do not fit each other.
    """

    def __init__(self, settings: SuperglueSettings, pool: ViewPool, validation_pool: ViewPool, data: list[str]):
        self.settings, self._pool, self._data = settings, pool, data
        self.pairs_per_step = settings.pairs
        device = pool.device
        self.superpoint, self._superpoint_digest = load_trained(Path(settings.superpoint), SuperpointNetwork, device)
        try:
            config = SuperglueNetworkConfig(
                descriptor_size=self.superpoint.config.descriptor_size,
                width=settings.width,
                layers=settings.layers,
                heads=settings.heads,
                encoder_widths=settings.encoder_widths,
            )
        except ValueError as e:
            raise ConfigError(f"superglue: {e}", "correct the network's size") from e
        s = settings
        self._trial = MatchingTrial(
            self.superpoint,
            validation_pool,
            s.validation_pairs,
            s.keypoints,
            s.image_px,
            _VALIDATION_SEED,
            s.detectors[0],
        )
        self._baselines: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = SuperglueNetwork(config)
            start_from_descriptors(network, *self._fit())
        self.network = network.to(device)

    def _fit(self) -> tuple[float, float]:
        """How sharp the descriptors are, from a few training pairs."""
        s = self.settings
        seed = step_seed(s.seed, -1)
        batch = draw_pairs(self._pool, s.pairs, s.image_px, seed, s.mix)
        a, b = keypoints_of(self.superpoint, batch, s.keypoints, seed, s.detectors[0])
        labels = label_matches(batch, a.xy, a.valid, b.xy, b.valid)
        return fit_sharpness([(a.descriptors, b.descriptors)], [labels], s.sinkhorn_iterations)

    def identity(self) -> dict[str, Any]:
        """The path of the SuperPoint does not matter, its content does."""
        facts = flat(self.settings) | {"superpoint": self._superpoint_digest, "data": self._data}
        return {f"superglue.{key}": value for key, value in facts.items()}

    def networks(self) -> dict[str, nn.Module]:
        return {"superglue": self.network}

    def parameter_groups(self) -> list[dict[str, Any]]:
        s, every = self.settings, [p for p in self.network.parameters() if p is not self.network.bin_score]
        return [
            {"params": [p for p in every if p.dim() > 1], "lr": s.learning_rate, "weight_decay": s.weight_decay},
            {"params": [p for p in every if p.dim() == 1], "lr": s.learning_rate, "weight_decay": 0.0},
            {"params": [self.network.bin_score], "lr": s.learning_rate * s.bin_rate, "weight_decay": 0.0},
        ]

    def loss(self, step: int, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Pairs, keypoints and truth of one step, made on the device, and the assignment's likelihood."""
        s = self.settings
        seed = step_seed(s.seed, step)
        batch = draw_pairs(self._pool, s.pairs, s.image_px, seed, s.mix)
        a, b = keypoints_of(self.superpoint, batch, s.keypoints, seed, s.detectors[step % len(s.detectors)])
        labels = label_matches(batch, a.xy, a.valid, b.xy, b.valid)
        loss, parts = assignment_loss(log_plan(self.network, a, b, s.image_px, s.sinkhorn_iterations), labels)
        partners = (labels.of_a >= 0).sum() / s.pairs
        return loss, parts | {"partners": partners, "bin_score": self.network.bin_score.detach()}

    def validate(self) -> dict[str, float]:
        """``MatchingTrial.judge`` of the network, and of nearest neighbours without ("nn") and with the ratio test."""
        if not self._baselines:
            for name, ratio in (("nn", 1.0), ("ratio", _RATIO)):
                judged = self._trial.judge(validation.nearest(ratio))
                self._baselines |= {f"{name}_{key}": value for key, value in judged.items()}
        s, network = self.settings, self.network
        network.eval()
        figures = self._trial.judge(matcher(network, s.image_px, s.match_threshold))
        with torch.no_grad():
            plans = (
                (log_plan(network, a, b, s.image_px, s.sinkhorn_iterations), true)
                for a, b, true in self._trial.examples
            )
            losses = [float(assignment_loss(plan, true)[0]) for plan, true in plans]
        network.train()
        return {"loss": sum(losses) / len(losses)} | figures | self._baselines

    def conclude(self) -> dict[str, Any]:
        """The threshold that ``match_threshold`` chooses on the validation pairs, and its table."""
        s, network = self.settings, self.network
        network.eval()
        table = tabulate(self._trial, lambda a, b: mutual_best(log_plan(network, a, b, s.image_px, MATCHER_ITERATIONS)))
        network.train()
        return {"match_threshold": choose(table), "match_thresholds": [row._asdict() for row in table]}

    def export(self, folder: Path, facts: dict[str, Any]) -> None:
        """superglue.safetensors in half precision, and the .json beside it."""
        tensors = {name: _halved(tensor) for name, tensor in self.network.state_dict().items()}
        provenance = facts | {"superpoint": self._superpoint_digest}
        config = replace(self.network.config, match_threshold=facts["match_threshold"])
        write_weights(folder / FILE, tensors, self.network.format, asdict(config), LICENSE, provenance)


def _halved(tensor: Tensor) -> Tensor:
    """float16 where the numbers fit."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if bool(half.isfinite().all()) else tensor


def matcher(network: SuperglueNetwork, size: tuple[int, int], threshold: float) -> validation.Match:
    """What the network matches on pictures of ``size`` (height, width), by the rule of the product's matcher."""
    return lambda a, b: mutual_matches(log_plan(network, a, b, size, MATCHER_ITERATIONS), threshold)


def log_plan(network: SuperglueNetwork, a: Keypoints, b: Keypoints, size: tuple[int, int], iterations: int) -> Tensor:
    """float32 [B, M + 1, N + 1], see ``SuperglueNetwork.forward``, of keypoints in pictures of ``size`` (height,
    width)."""
    height, width = size
    sides = [(normalise_keypoints(k.xy, (width, height)), k.scores, k.descriptors) for k in (a, b)]
    return network(*sides[0], *sides[1], iterations=iterations)


def run(
    settings: SuperglueSettings,
    schedule: Schedule,
    data: Path,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    cache: Path | None = None,
) -> dict[str, Any]:
    """Train from a folder of shards into ``out``; returns the summary.

    Args:
        cache: folder of rendered pools; None: one below the folder for temporary files.

    Raises:
        AssetError, InputError, ConfigError, StageError: weights, shards, settings, or a loss that is not finite.
    """
    facts = shard_facts(data)
    wanted = ("train", settings.views), ("val", settings.validation_views)
    pools = build_pools(data, wanted, settings.seed, device, say, cache)
    task = SuperglueTask(settings, *pools, [d["digest"] for d in facts])
    return train(task, schedule, out, device, say, {"data": facts, "seed": settings.seed})
