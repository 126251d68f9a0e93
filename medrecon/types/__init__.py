# SPDX-License-Identifier: Apache-2.0
"""The nouns that travel between stages. No algorithms; only their own checks and their own files."""

from medrecon.types.camera import CAMERA_MODELS, Camera
from medrecon.types.features import Features
from medrecon.types.frames import DroppedFrame, Frame, FrameSet, Truth
from medrecon.types.matches import Matches, MatchGraph, TwoView
from medrecon.types.mesh import Mesh
from medrecon.types.metric import Metric
from medrecon.types.rays import Gaussians, PixelView, RayBatch, RenderOut
from medrecon.types.result import RunResult
from medrecon.types.scale import Scale
from medrecon.types.sparse import FunnelStep, SparseModel
from medrecon.types.transforms import Rigid3, Sim3
from medrecon.types.volume import Volume

__all__ = [
    "CAMERA_MODELS", "Camera", "DroppedFrame", "Features", "Frame", "FrameSet", "FunnelStep", "Gaussians", "Matches",
    "MatchGraph", "Mesh", "Metric", "PixelView", "RayBatch", "RenderOut", "Rigid3", "RunResult", "Scale", "Sim3",
    "SparseModel", "Truth", "TwoView", "Volume",
]  # fmt: skip
