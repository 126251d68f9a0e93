# SPDX-License-Identifier: Apache-2.0
"""Tells medrecon what this package provides. Imports nothing heavy: listing plugins must stay fast."""

from medrecon.plugins import Component, hookimpl


@hookimpl
def medrecon_components():
    return [
        Component(
            kind="matcher",
            name="locality",
            factory="medrecon_locality.matcher:LocalityMatcher",
            config="medrecon_locality.matcher:LocalityMatcherConfig",
            summary="nearest neighbours whose neighbourhoods agree (Ma et al. 2019)",
            license="Apache-2.0",
            accepts=("*",),
        )
    ]
