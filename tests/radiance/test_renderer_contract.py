# SPDX-License-Identifier: Apache-2.0
"""The renderers against the public conformance kit."""

import medrecon
from medrecon.testing.renderer import RendererConformance

SMALL = {"width": 16, "coarse_samples": 8, "fine_samples": 8, "probes": 16, "max_degree": 4, "occupancy_cells": 16}


class TestMipNerf(RendererConformance):
    def make(self):
        return medrecon.create("renderer", "mipnerf", **SMALL)


class TestNerf(RendererConformance):
    def make(self):
        return medrecon.create("renderer", "nerf", **SMALL)


class TestMipGrid(RendererConformance):
    def make(self):
        return medrecon.create(
            "renderer", "mipgrid", levels=4, log2_size=12, finest=64, width=16, samples=64, occupancy_cells=16
        )
