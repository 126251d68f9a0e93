# SPDX-License-Identifier: Apache-2.0
"""ALIKED (Zhao et al., IEEE TIM 2023): light, subpixel keypoints with deformable descriptors."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medrecon.errors import AssetError
from medrecon.networks.checkpoint import load_checkpoint, load_into
from medrecon.networks.weights import weights_path
from medrecon_lightglue.aliked_network import AlikedNetwork, refine
from medrecon_lightglue.extracting import LearnedExtractor, strict_maxima
from medrecon_lightglue.options import AlikedExtractorConfig


class AlikedExtractor(LearnedExtractor):
    """Descriptors float32 [N, 128] of unit length, metric "l2"; subpixel keypoints, best first.

    Raises:
        AssetError: the weights have not been fetched, or are damaged or of another network.
        ConfigError: a GPU is asked for and there is none.
    """

    name = "aliked"

    def __init__(self, config: AlikedExtractorConfig):
        path = weights_path(config.weights)
        state = load_checkpoint(path, "medrecon-aliked").state_dict
        try:
            network = AlikedNetwork.like(state)
        except (KeyError, IndexError, ValueError) as e:
            raise AssetError(f"{path} is not a checkpoint of ALIKED ({e})", "check the option `weights`") from e
        load_into(network, state, path)
        self.width = network.dim
        super().__init__(config, network)

    def detect(self, picture: Tensor) -> tuple[Tensor, Tensor, Any]:
        score, features = self.network(picture)
        pixels = strict_maxima(score, self.config.nms_radius_px, self.config.threshold)
        return *refine(score, pixels, self.config.nms_radius_px), features

    def describe(self, found: Any, xy: Tensor) -> Tensor:
        return self.network.describe(found, xy)
