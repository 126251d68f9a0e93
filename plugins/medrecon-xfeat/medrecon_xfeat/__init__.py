# SPDX-License-Identifier: Apache-2.0
"""Tells medrecon what this package provides. Imports nothing heavy: listing plugins must stay fast."""

from medrecon.plugins import Component, hookimpl


@hookimpl
def medrecon_components():
    return [
        Component(
            kind="extractor",
            name="xfeat",
            factory="medrecon_xfeat.xfeat:XFeatExtractor",
            config="medrecon_xfeat.options:XFeatExtractorConfig",
            summary="XFeat keypoints and descriptors, made for CPUs (Potje et al. 2024)",
            license="Apache-2.0",
        ),
        Component(
            kind="matcher",
            name="lighterglue",
            factory="medrecon_xfeat.lighterglue:LighterGlueMatcher",
            config="medrecon_xfeat.options:LighterGlueMatcherConfig",
            summary="LighterGlue: a small LightGlue for XFeat",
            license="Apache-2.0",
            accepts=("xfeat",),
        ),
    ]


@hookimpl
def medrecon_assets():
    from medrecon_xfeat.catalogue import ASSETS

    return list(ASSETS)
