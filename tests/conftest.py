# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: the small case that goes down the whole street in well under a minute."""

from pathlib import Path

import pytest

SMALL = """\
version: 1
preset: orbit
name: small case
threads: 2
source: {name: views, path: "builtin:chest-ct", n_views: 14, image_size_px: [256, 256], camera_path: {kind: orbit, loops: 0.25, elevation_deg: [0, 20], elevation_waves: 1}}
scale: {source: truth-poses}
features: {name: sift, max_keypoints: 1500}
training: {iterations: 150, rays_per_batch: 512, max_size_px: 80, checkpoint_seconds: 1}
render: {max_size_px: 80, path_frames: 4, path_size_px: 64}
surface: {name: marching-cubes, resolution: 48}
export: [ply, stl, obj, nifti, colmap, transforms]
"""


@pytest.fixture
def small_config(tmp_path) -> Path:
    """YAML file of a whole run on a few small pictures of the shipped chest CT."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path
