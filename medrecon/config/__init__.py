# SPDX-License-Identifier: Apache-2.0
"""One YAML file is one run: schema, presets, overrides."""

from medrecon.config.base import ComponentConfig

__all__ = ["ComponentConfig", "RunConfig", "load_config"]


def __getattr__(name: str):
    # Component modules import ComponentConfig from here; the loader imports components: keep the two apart.
    if name in ("RunConfig", "load_config"):
        from medrecon.config import run_config

        return getattr(run_config, name)
    raise AttributeError(name)
