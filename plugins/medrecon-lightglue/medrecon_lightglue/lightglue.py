# SPDX-License-Identifier: Apache-2.0
"""LightGlue (Lindenberger et al., ICCV 2023): learned matching that does less work on easy pairs."""

from __future__ import annotations

import numpy as np
import torch

from medrecon.errors import AssetError, InputError
from medrecon.matching.strongest import strongest
from medrecon.networks.checkpoint import load_checkpoint, load_into
from medrecon.networks.device import place
from medrecon.networks.weights import weights_path
from medrecon.types import Features, Matches
from medrecon_lightglue.lightglue_network import LightGlueNetwork, mutual
from medrecon_lightglue.options import LightGlueMatcherConfig


class LightGlueMatcher:
    """Scores are the probabilities of the assignment.

    Raises:
        AssetError: the weights have not been fetched, or are damaged or of another network.
        ConfigError: a GPU is asked for and there is none.
    """

    name = "lightglue"

    def __init__(self, config: LightGlueMatcherConfig):
        self.config = config
        path = weights_path(config.weights)
        state = LightGlueNetwork.tidy(load_checkpoint(path, "medrecon-lightglue").state_dict)
        try:
            network = LightGlueNetwork.like(state)
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as e:
            raise AssetError(f"{path} is not a checkpoint of LightGlue ({e})", "check the option `weights`") from e
        load_into(network, state, path)
        self.device = place(self.name, config.device, "fp32")[0]
        self.network = network.eval().requires_grad_(False).to(self.device)
        # A pair on each core is quicker than all cores on a pair.
        self.thread_safe = self.device.type == "cpu"

    @torch.inference_mode()
    def match(self, features_a: Features, features_b: Features) -> Matches:
        """Raises InputError for features of another extractor than the weights were trained on."""
        for features in (features_a, features_b):
            self._check(features)
        if not (len(features_a) and len(features_b)):
            return Matches.empty()
        c = self.config
        rows = [strongest(f, c.max_keypoints) for f in (features_a, features_b)]
        xy, descriptors = zip(*(self._tensors(f, r) for f, r in zip((features_a, features_b), rows)))
        assignment, *left, _ = self.network(*xy, *descriptors, c.depth_confidence, c.width_confidence)
        i, j, scores = mutual(assignment, c.threshold)
        idx = np.stack([r[side[k].cpu().numpy()] for r, side, k in zip(rows, left, (i, j))], 1)
        return Matches(idx.astype(np.int32), scores.cpu().numpy().astype(np.float32))

    def _check(self, features: Features) -> None:
        width, fitting = self.network.input_dim, self.config.accepts()
        if features.metric != "l2" or features.descriptors.shape[1] != width:
            raise InputError(
                f"{self.name} takes l2 descriptors of length {width}, those of {features.extractor!r} are"
                f" {features.metric} of length {features.descriptors.shape[1]}",
                "choose the weights that belong to the extractor",
            )
        if fitting is not None and features.extractor not in fitting:
            raise InputError(
                f"the weights {self.config.weights} are for {fitting[0]}, these features are of {features.extractor!r}",
                f"choose the weights for {features.extractor!r}, or set features.name: {fitting[0]}",
            )

    def _tensors(self, features: Features, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions with the longest side of the picture from -1 to 1, and descriptors."""
        size = np.array(features.image_size, np.float32)
        xy = (features.xy[rows] - size / 2) / (size.max() / 2)
        return tuple(
            torch.from_numpy(np.ascontiguousarray(t)).to(self.device) for t in (xy, features.descriptors[rows])
        )
