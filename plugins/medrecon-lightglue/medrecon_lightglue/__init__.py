# SPDX-License-Identifier: Apache-2.0
"""Tells medrecon what this package provides. Imports nothing heavy: listing plugins must stay fast."""

from medrecon.plugins import Component, hookimpl


@hookimpl
def medrecon_components():
    return [
        Component(
            kind="extractor",
            name="disk",
            factory="medrecon_lightglue.disk:DiskExtractor",
            config="medrecon_lightglue.options:DiskExtractorConfig",
            summary="DISK keypoints and descriptors (Tyszkiewicz et al. 2020)",
            license="Apache-2.0",
        ),
        Component(
            kind="extractor",
            name="aliked",
            factory="medrecon_lightglue.aliked:AlikedExtractor",
            config="medrecon_lightglue.options:AlikedExtractorConfig",
            summary="ALIKED keypoints and descriptors (Zhao et al. 2023)",
            license="Apache-2.0 AND BSD-3-Clause",
        ),
        Component(
            kind="matcher",
            name="lightglue",
            factory="medrecon_lightglue.lightglue:LightGlueMatcher",
            config="medrecon_lightglue.options:LightGlueMatcherConfig",
            summary="LightGlue: attention that stops when it is sure (Lindenberger et al. 2023)",
            license="Apache-2.0",
            accepts=("disk", "aliked"),
        ),
    ]


@hookimpl
def medrecon_assets():
    from medrecon_lightglue.catalogue import ASSETS

    return list(ASSETS)
