# SPDX-License-Identifier: Apache-2.0
"""SuperGlue (Sarlin et al., CVPR 2020): matching by a network that looks at all keypoints of both images at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from medrecon.config import ComponentConfig
from medrecon.errors import InputError, StageError
from medrecon.matching.strongest import strongest
from medrecon.networks.device import Device, Precision, place, refuse_half_on_cpu
from medrecon.networks.weights import Weights, network_config, weights_assets, weights_path
from medrecon.types import Features, Matches

if TYPE_CHECKING:
    from torch import Tensor

    from medrecon.matching.superglue_inference import Side

# Pairs that a GPU works on at once.
_GPU_PAIRS = 16
# Keypoints worked on at once: 64 Ki of them take about half a gigabyte.
_GPU_TOKENS = 1 << 16


class SuperglueMatcherConfig(ComponentConfig):
    weights: Weights = Field(
        "superglue-outdoor",
        description="asset superglue-outdoor or superglue-indoor, or a checkpoint: .safetensors of our own, .pth of "
        "the original form",
    )
    sinkhorn_iterations: int = Field(100, ge=1, le=10000, description="iterations of the optimal transport")
    match_threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="matches at most this probable are dropped; null: as the weights say, 0.2 where they say nothing",
    )
    max_keypoints: int = Field(
        4096, ge=1, le=16384, description="keypoints used per image, those of the highest score; the rest stay "
        "unmatched. Time and memory grow with its square: 4096 take a quarter of a gigabyte, 16384 about 3"
    )  # fmt: skip
    device: Device = Field("auto", description="auto: the GPU where there is one")
    precision: Precision = Field(
        "auto",
        description="of the attention layers; auto: fp16 on a GPU, fp32 on a CPU. Scores and transport stay fp32",
    )

    @model_validator(mode="after")
    def _half_needs_a_gpu(self) -> "SuperglueMatcherConfig":
        refuse_half_on_cpu(self.device, self.precision)
        return self

    def assets(self) -> tuple[str, ...]:
        return weights_assets(self.weights)

    def settled(self) -> SuperglueMatcherConfig:
        from medrecon.matching.superglue_network import SuperglueNetworkConfig

        said = network_config(self.weights) if self.match_threshold is None else None
        if said is None:
            return self
        threshold = said.get("match_threshold", SuperglueNetworkConfig.match_threshold)
        return self.model_copy(update={"match_threshold": threshold})


class SuperglueMatcher:
    """Matches features of the extractor that the weights were trained on (the released ones: SuperPoint).

    Raises:
        AssetError: the weights have not been fetched, or are damaged or of another network.
        ConfigError: a GPU is asked for and there is none.
    """

    def __init__(self, config: SuperglueMatcherConfig):
        from medrecon.matching.superglue_inference import SuperglueInference
        from medrecon.matching.superglue_network import SuperglueNetwork
        from medrecon.networks.checkpoint import load_network

        self.config = config
        device, dtype = place("superglue", config.device, config.precision)
        self.network = SuperglueInference(load_network(weights_path(config.weights), SuperglueNetwork), device, dtype)
        own = self.network.config.match_threshold
        self.threshold = own if config.match_threshold is None else config.match_threshold
        # What the matching stage does: a CPU has a pair on each core, a GPU many pairs in one batch.
        self.thread_safe = device.type == "cpu"
        self.batch_size = 1 if device.type == "cpu" else _GPU_PAIRS

    def match(self, features_a: Features, features_b: Features) -> Matches:
        """Mutually best matches ordered by keypoint of a; scores = their probabilities in the soft assignment.

        Of more than ``max_keypoints`` keypoints the strongest are matched, which bounds memory and time.

        Raises:
            InputError: descriptors of another metric or length than the weights are for.
            StageError: the network's numbers overflowed.
        """
        return self.match_pairs([(features_a, features_b)])[0]

    def match_pairs(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """As ``match`` for each pair; what is in a batch together changes scores by rounding only."""
        for pair in pairs:
            for features in pair:
                self._check(features)
        out = [Matches.empty()] * len(pairs)
        batch: list[int] = []
        tokens = 0
        for i in (i for i, (a, b) in enumerate(pairs) if len(a) and len(b)):
            more = sum(min(len(f), self.config.max_keypoints) for f in pairs[i])
            if batch and (len(batch) >= self.batch_size or tokens + more > _GPU_TOKENS):
                self._match_batch(batch, pairs, out)
                batch, tokens = [], 0
            batch.append(i)
            tokens += more
        if batch:
            self._match_batch(batch, pairs, out)
        return out

    def _match_batch(self, batch: list[int], pairs: Sequence[tuple[Features, Features]], out: list[Matches]) -> None:
        kept = [[strongest(f, self.config.max_keypoints) for f in pairs[i]] for i in batch]
        sides = [tuple(_side(f, k) for f, k in zip(pairs[i], keep)) for i, keep in zip(batch, kept)]
        try:
            plans = self.network.log_assignments(sides, self.config.sinkhorn_iterations)
            for i, keep, plan in zip(batch, kept, plans):
                rows, columns, scores = _mutual(plan, self.threshold)
                idx = np.stack([keep[0][rows], keep[1][columns]], 1).astype(np.int32)
                order = np.argsort(idx[:, 0], kind="stable")
                out[i] = Matches(idx[order], scores[order])
        except FloatingPointError as e:
            raise StageError(f"superglue: {e}", "set precision: fp32") from e

    def _check(self, features: Features) -> None:
        size = self.network.config.descriptor_size
        if features.metric != "l2" or (len(features) and features.descriptors.shape[1] != size):
            found = f"{features.descriptors.shape[1]} {'bytes' if features.metric == 'hamming' else 'numbers'}"
            raise InputError(
                f"superglue: these weights match descriptors of {size} numbers (l2), but {features.extractor!r} gives "
                f"{features.metric} descriptors of {found}",
                "use features: superpoint, or a matcher that takes these features",
            )


def _side(features: Features, keep: np.ndarray) -> "Side":
    import torch

    from medrecon.matching.superglue_inference import Side
    from medrecon.matching.superglue_network import normalise_keypoints

    xy, scores, descriptors = (
        torch.from_numpy(a[keep]).float() for a in (features.xy, features.scores, features.descriptors)
    )
    return Side(normalise_keypoints(xy, features.image_size), scores, descriptors)


def _mutual(plan: "Tensor", threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and probabilities of entries that are the greatest of their row and column, dustbins left out."""
    import torch

    inner = plan[:-1, :-1]
    best, column = inner.max(1)
    row = inner.max(0).indices
    scores = best.exp()
    rows = torch.arange(len(best), device=plan.device)
    chosen = torch.nonzero((row[column] == rows) & (scores > threshold))[:, 0]
    return tuple(t.cpu().numpy() for t in (chosen, column[chosen], scores[chosen]))
