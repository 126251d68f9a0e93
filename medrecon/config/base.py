# SPDX-License-Identifier: Apache-2.0
"""Base class of every configuration model."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ComponentConfig(BaseModel):
    """Base for a component's options: unknown keys are errors, values cannot change after validation.

    Give every field a default that works and ``Field(description=...)``: the descriptions are the manual that
    ``medrecon plugins show`` and the JSON Schema print.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def assets(self) -> tuple[str, ...]:
        """Names of the assets (weights) that a component with these options needs; a run looks for them first."""
        return ()

    def settled(self) -> ComponentConfig:
        """These options with what their weights decide filled in, for cache keys and manifests; unchanged where
        the weights cannot be read."""
        return self

    def accepts(self) -> tuple[str, ...] | None:
        """Matchers only: the extractors that these options fit, where they are fewer than the component accepts."""
        return None
