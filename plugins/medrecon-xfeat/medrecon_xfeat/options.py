# SPDX-License-Identifier: Apache-2.0
"""The options of this package's components; read without torch, so that commands that only look stay quick."""

from __future__ import annotations

from medrecon_lightglue.options import LearnedExtractorConfig, LightGlueMatcherConfig
from pydantic import Field

from medrecon.networks.weights import Weights


class XFeatExtractorConfig(LearnedExtractorConfig):
    weights: Weights = Field("xfeat", description="asset name, or a file with a checkpoint of XFeat")
    threshold: float = Field(0.05, ge=0, lt=1, description="least probability of a keypoint")


class LighterGlueMatcherConfig(LightGlueMatcherConfig):
    weights: Weights = Field("lighterglue-xfeat", description="asset name, or a file with a checkpoint of LighterGlue")
    depth_confidence: float | None = Field(
        None, gt=0, le=1, description="share of decided keypoints at which the layers stop; null: all layers"
    )
    width_confidence: float | None = Field(
        0.95, gt=0, le=1, description="how sure it must be that a keypoint has no partner to drop it; null: keep all"
    )
