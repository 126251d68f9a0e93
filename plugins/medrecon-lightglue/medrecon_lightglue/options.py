# SPDX-License-Identifier: Apache-2.0
"""The options of this package's components; read without torch, so that commands that only look stay quick."""

from __future__ import annotations

from pydantic import Field

from medrecon.config import ComponentConfig
from medrecon.networks.device import Device
from medrecon.networks.weights import Weights, weights_assets

# Which extractor's features the published weights know.
TRAINED_ON = {"lightglue-disk": "disk", "lightglue-aliked": "aliked", "lighterglue-xfeat": "xfeat"}


class LearnedExtractorConfig(ComponentConfig):
    """A subclass adds ``weights`` and the threshold of its network."""

    max_keypoints: int = Field(1024, ge=1, description="keypoints kept per image, the strongest first")
    nms_radius_px: int = Field(2, ge=1, le=32, description="a keypoint is the only maximum this far around")
    border_px: int = Field(4, ge=0, description="nothing is kept nearer the edge of the image")
    max_size_px: int | None = Field(
        1024, ge=32, description="larger images are shrunk to this longest side; null: never"
    )
    device: Device = Field("auto", description="auto: the GPU where there is one")

    def assets(self) -> tuple[str, ...]:
        return weights_assets(self.weights)


class DiskExtractorConfig(LearnedExtractorConfig):
    weights: Weights = Field("disk-depth", description="asset name, or a file with a checkpoint of DISK")
    threshold: float = Field(0.0, description="least score of a keypoint, a logit")
    subpixel: bool = Field(
        True, description="keypoints at the peak between the pixels of the score map; the paper: false"
    )


class AlikedExtractorConfig(LearnedExtractorConfig):
    weights: Weights = Field(
        "aliked-n16", description="asset name (aliked-n16, aliked-n16rot, aliked-n32), or a file with a checkpoint"
    )
    threshold: float = Field(0.2, ge=0, lt=1, description="least score of a keypoint")


class LightGlueMatcherConfig(ComponentConfig):
    weights: Weights = Field(
        "lightglue-disk",
        description="lightglue-disk or lightglue-aliked, as the extractor is, or a file with a checkpoint",
    )
    threshold: float = Field(0.1, ge=0, lt=1, description="least probability of a match")
    depth_confidence: float | None = Field(
        0.95, gt=0, le=1, description="share of decided keypoints at which the layers stop; null: all layers"
    )
    width_confidence: float | None = Field(
        0.99, gt=0, le=1, description="how sure it must be that a keypoint has no partner to drop it; null: keep all"
    )
    max_keypoints: int = Field(
        4096, ge=1, description="the strongest keypoints of each picture that take part; bounds memory"
    )
    device: Device = Field("auto", description="auto: the GPU where there is one")

    def assets(self) -> tuple[str, ...]:
        return weights_assets(self.weights)

    def accepts(self) -> tuple[str, ...] | None:
        trained_on = TRAINED_ON.get(str(self.weights))
        return None if trained_on is None else (trained_on,)
