# SPDX-License-Identifier: Apache-2.0
"""XFeat (Potje et al., CVPR 2024), sparse: features from a network small enough for a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from medrecon_lightglue.extracting import LearnedExtractor, strict_maxima
from torch import Tensor

from medrecon.networks.checkpoint import load_checkpoint, load_into
from medrecon.networks.weights import weights_path
from medrecon_xfeat.network import CELL_PX, DESCRIPTOR, XFeatNetwork
from medrecon_xfeat.options import XFeatExtractorConfig

MULTIPLE = 32


class XFeatExtractor(LearnedExtractor):
    """Descriptors float32 [N, 64] of unit length, metric "l2"; keypoints at pixel centres, best first.

    The picture is continued at its right and lower edge to a multiple of 32 pixels, where the authors shrink it to one:
    keypoints stay where they are.

    Raises:
        AssetError: the weights have not been fetched, or are damaged or of another network.
        ConfigError: a GPU is asked for and there is none.
    """

    name, width = "xfeat", DESCRIPTOR

    def __init__(self, config: XFeatExtractorConfig):
        path, network = weights_path(config.weights), XFeatNetwork()
        load_into(network, load_checkpoint(path, "medrecon-xfeat").state_dict, path)
        super().__init__(config, network)

    def detect(self, picture: Tensor) -> tuple[Tensor, Tensor, Any]:
        h, w = picture.shape[2:]
        padded = F.pad(picture, (0, -w % MULTIPLE, 0, -h % MULTIPLE), mode="replicate")
        descriptors, probability, reliability = self.network(padded)
        pixels = strict_maxima(probability[:h, :w], self.config.nms_radius_px, self.config.threshold)
        scores = probability[pixels[:, 1], pixels[:, 0]] * read(reliability[None], pixels, "bilinear")[:, 0]
        return pixels, scores, descriptors

    def describe(self, found: Any, xy: Tensor) -> Tensor:
        return F.normalize(read(found, xy, "bicubic"), dim=1)


def read(cells: Tensor, pixels: Tensor, mode: str) -> Tensor:
    """Cell maps [C, h, w] read between cells at pixels [N, 2]: [N, C].

    The grid is stretched by one pixel over the picture, as it was when the released weights were trained.
    """
    size = torch.tensor([cells.shape[2], cells.shape[1]], device=pixels.device) * CELL_PX - 1
    grid = (2 * pixels.to(cells.dtype) / size - 1)[None, None]
    return F.grid_sample(cells[None], grid, mode=mode, align_corners=False)[0, :, 0].T
