# SPDX-License-Identifier: Apache-2.0
"""Tells medrecon what this package provides. Imports nothing heavy: listing plugins must stay fast."""

from medrecon.plugins import Component, hookimpl


@hookimpl
def medrecon_components():
    return [
        Component(
            kind="renderer",
            name="gsplat",
            factory="medrecon_gsplat.renderer:GsplatRenderer",
            config="medrecon_gsplat.options:GsplatRendererConfig",
            summary="3D Gaussian splatting on a CUDA GPU, over the library gsplat (Kerbl et al. 2023, Ye et al. 2025)",
            license="Apache-2.0",
        )
    ]
