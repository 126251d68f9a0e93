# SPDX-License-Identifier: Apache-2.0
"""Options, without torch so that a configuration is read quickly."""

from __future__ import annotations

from pydantic import Field

from medrecon.config.base import ComponentConfig


class GsplatRendererConfig(ComponentConfig):
    """Options of ``gsplat``."""

    gaussians: int = Field(
        100_000, ge=1, le=10_000_000, description="how many; those that fade move to where more are needed"
    )
    sh_degree: int = Field(2, ge=0, le=3, description="degree of the spherical harmonics: how colour follows direction")
    appearance_size: int = Field(48, ge=0, le=512, description="numbers per picture's appearance code; 0 = none")
    ssim: float = Field(0.2, ge=0, le=1, description="part of the loss that is 1 - SSIM; the rest is absolute error")
    relocate_every: int = Field(100, ge=1, description="steps between moves of faded Gaussians")
    depth_slices: int = Field(
        64, ge=2, le=1024, description="steps of depth in which median and spread are found, per view"
    )
