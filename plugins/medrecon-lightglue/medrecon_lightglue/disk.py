# SPDX-License-Identifier: Apache-2.0
"""DISK (Tyszkiewicz et al., NeurIPS 2020): keypoints and descriptors trained together to give correct matches."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from medrecon.networks.checkpoint import load_checkpoint, load_into
from medrecon.networks.weights import weights_path
from medrecon_lightglue.disk_network import DESCRIPTOR, DiskNetwork
from medrecon_lightglue.extracting import LearnedExtractor, peak_offsets, strict_maxima
from medrecon_lightglue.options import DiskExtractorConfig


class DiskExtractor(LearnedExtractor):
    """Descriptors float32 [N, 128] of unit length, metric "l2"; keypoints best first.

    Raises:
        AssetError: the weights have not been fetched, or are damaged or of another network.
        ConfigError: a GPU is asked for and there is none.
    """

    name, width = "disk", DESCRIPTOR

    def __init__(self, config: DiskExtractorConfig):
        path, network = weights_path(config.weights), DiskNetwork()
        load_into(network, load_checkpoint(path, "medrecon-disk", part="extractor").state_dict, path)
        super().__init__(config, network)

    def detect(self, picture: Tensor) -> tuple[Tensor, Tensor, Any]:
        h, w = picture.shape[2:]
        score, activations = self.network(F.pad(picture, (0, -w % 16, 0, -h % 16)))
        pixels = strict_maxima(score[:h, :w], self.config.nms_radius_px, self.config.threshold)
        return pixels, score[pixels[:, 1], pixels[:, 0]], (score, activations)

    def describe(self, found: Any, xy: Tensor) -> Tensor:
        return self.network.describe(found[1], xy)

    def between_pixels(self, found: Any, xy: Tensor) -> Tensor | float:
        return peak_offsets(found[0], xy) if self.config.subpixel else 0.0
