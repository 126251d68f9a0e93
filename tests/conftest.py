# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: the small case that goes down the whole street in well under a minute."""

import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background hands down an ignored Ctrl-C; the tests of interrupting need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = """\
version: 1
preset: orbit
name: small case
threads: 2
source:
  {name: views, path: "builtin:chest-ct", n_views: 12, image_size_px: [288, 288], fov_deg: 50, supersample: 1,
   camera_path: {kind: orbit, loops: 0.16, elevation_deg: [5, 15], elevation_waves: 1, radius_factor: 0.85}}
features: {name: sift, contrast_threshold: 0.01, max_keypoints: 2000}
sfm: {name: incremental, camera_model: SIMPLE_PINHOLE}
scale: {source: truth-poses}
radiance: {name: mipnerf, width: 32}
training: {iterations: 80, rays_per_batch: 256, max_size_px: 72, holdout_every: 4, checkpoint_seconds: 1}
render: {max_size_px: 72, path_frames: 4, path_size_px: 64}
surface: {name: marching-cubes, resolution: 48}
export: [ply, stl, obj, nifti, colmap, transforms]
"""


@pytest.fixture
def small_config(tmp_path) -> Path:
    """YAML file of a whole run on a few small pictures of the shipped chest CT."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path
