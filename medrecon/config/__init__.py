# SPDX-License-Identifier: Apache-2.0
"""One YAML file is one run: schema, presets, overrides."""

from medrecon.config.base import ComponentConfig

__all__ = ["ComponentConfig"]
