# SPDX-License-Identifier: Apache-2.0
"""Both renderers against the public conformance kit."""

import medrecon
from medrecon.testing.renderer import RendererConformance

SMALL = {"width": 16, "coarse_samples": 8, "fine_samples": 8, "probes": 16, "max_degree": 4, "occupancy_cells": 16}


class TestMipNerf(RendererConformance):
    def make(self):
        return medrecon.create("renderer", "mipnerf", **SMALL)


class TestNerf(RendererConformance):
    def make(self):
        return medrecon.create("renderer", "nerf", **SMALL)
