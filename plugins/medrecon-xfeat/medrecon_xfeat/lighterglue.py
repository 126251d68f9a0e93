# SPDX-License-Identifier: Apache-2.0
"""LighterGlue: LightGlue with 6 layers of 96 channels and one head, trained for XFeat by XFeat's authors."""

from __future__ import annotations

from medrecon_lightglue.lightglue import LightGlueMatcher


class LighterGlueMatcher(LightGlueMatcher):
    """A LightGlue of another size, which the checkpoint tells."""

    name = "lighterglue"
