# SPDX-License-Identifier: Apache-2.0
"""Options of training and rendering, without torch so that a configuration is read quickly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medrecon.config.base import ComponentConfig


class TrainingConfig(ComponentConfig):
    """How any renderer is trained."""

    iterations: int | None = Field(
        None, ge=1, le=10_000_000, description="optimiser steps; none: as many as the renderer wants"
    )
    minutes: float | None = Field(
        None, gt=0, le=100_000, description="training time in place of steps; the result then depends on the machine"
    )
    rays_per_batch: int = Field(512, ge=1, le=1_000_000, description="pixels drawn at random for one step")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's rate after warm-up")
    learning_rate_final: float = Field(5e-4, gt=0, le=1, description="rate at the last step; exponential in between")
    warmup_steps: int = Field(50, ge=0, description="steps over which the rate rises from a tenth")
    max_size_px: int = Field(200, ge=8, le=8192, description="pictures are reduced to this longer side for training")
    pyramid: tuple[float, ...] = Field(
        (0.08, 0.22),
        max_length=4,
        description="coarse to fine: share of the steps spent at 1/4, 1/2, ... of the size before the full one; "
        "() trains at full size from the start",
    )
    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1.0,),
        min_length=1,
        max_length=8,
        description="sizes, as parts of the full one, of which a step sees as many rays each; (1, 0.5, 0.25, 0.125) "
        "teaches how things look from afar (mip-NeRF's multi-scale training)",
    )
    unbounded: bool = Field(
        False,
        description="scenes seen from inside: matter may lie at any distance round the box of the points, and is drawn "
        "in towards it (mip-NeRF 360's contraction), so that it costs few cells",
    )
    background_share: float = Field(
        0.25, ge=0, lt=1, description="part of the rays drawn from a known black background (where there is one)"
    )
    depth_weight: float = Field(
        0.003, ge=0, le=10, description="how much the sparse points count: free sight up to each, matter at it; 0 = not"
    )
    pose_refinement: Literal["none", "recovered", "all"] = Field(
        "none",
        description="turn the poses beside the field until pictures fit: recovered: those that structure from motion "
        "found, but not where the frames brought them; all: given ones too, such as a tracker's",
    )
    holdout_every: int = Field(8, ge=0, description="every k-th registered frame is held out for checking; 0 = none")
    heldout_ids: tuple[int, ...] | None = Field(
        None, description="numbers of the frames to hold out, whichever of them register; none: as holdout_every says"
    )
    train_views: int | None = Field(
        None, ge=3, description="train on so many of the other registered frames, evenly spread; none: all of them"
    )
    evaluate_every: int = Field(500, ge=0, description="steps between glances at the held-out pictures; 0 = never")
    stop_gain_db: float | None = Field(
        None,
        ge=0,
        le=10,
        description="end early when four glances at the held-out pictures together gain less than this; none: never",
    )
    checkpoint_seconds: float | None = Field(
        None,
        gt=0,
        description="a killed run loses at most this much; none: 5, or more where checkpoints would take over 2 % of "
        "the time, but at most 60",
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if self.iterations is not None and self.minutes is not None:
            raise ValueError("give iterations or minutes, not both")
        if self.stop_gain_db is not None and not (self.evaluate_every and self.holdout_every):
            raise ValueError("stop_gain_db looks at held-out pictures: evaluate_every and holdout_every must not be 0")
        return self


class RenderConfig(ComponentConfig):
    """What is rendered from a trained field."""

    max_size_px: int = Field(400, ge=8, le=8192, description="longer side of rendered views; never above the picture's")
    appearance: Literal["zero", "mean", "nearest", "fitted"] = Field(
        "mean",
        description="code of held-out views: zeros, mean of all, that of the training picture nearest in time, or "
        "fitted to the left half of the view's own picture, whereupon figures count the right half only",
    )
    rays_per_chunk: int = Field(8192, ge=1, le=1_000_000, description="rays rendered at once; bounds the memory")
    maps: bool = Field(
        True,
        description="median depth, depth uncertainty and normals of the held-out views, as npz and PNG, and a video of "
        "the median depth along the path",
    )
    path_frames: int = Field(48, ge=0, le=10_000, description="frames of the path video; 0 = no video")
    path_size_px: int = Field(176, ge=16, le=4096, description="longer side of the path video")
    path_fps: int = Field(12, ge=1, le=60, description="frames per second of the path video")
    path: Literal["auto", "orbit", "cameras"] = Field(
        "auto",
        description="orbit round the object, or through the training cameras; auto: orbit if they stand all round it",
    )
