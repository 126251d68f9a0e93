# SPDX-License-Identifier: Apache-2.0
"""The demo's configuration, and what it says before it starts."""

from __future__ import annotations

from pathlib import Path

CONFIG = Path(__file__).with_name("demo.yaml")

INTRODUCTION = """\
medrecon demo: a real chest CT (LIDC-IDRI-0001, CC BY 3.0, see NOTICE), pictured and reconstructed.
  1. Pictures of the bones are rendered from cameras around the patient; then the cameras are forgotten.
  2. Keypoints, matches, camera poses, a radiance field and a surface are made from the pictures alone.
  3. Cameras, views and surface are compared with the CT, in millimetres.
About 5 minutes on two CPU cores. Interrupt it at any time: the same command goes on where it stopped."""


def demo_config() -> Path:
    """Path of the demo's YAML file."""
    return CONFIG
