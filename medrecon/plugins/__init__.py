# SPDX-License-Identifier: Apache-2.0
"""Plugin mechanism: hooks, components and the manager. Nothing here knows any particular component."""

from medrecon.plugins.component import KINDS, Component
from medrecon.plugins.hookspecs import API_VERSION, hookimpl, hookspec

__all__ = ["API_VERSION", "KINDS", "Component", "hookimpl", "hookspec"]
