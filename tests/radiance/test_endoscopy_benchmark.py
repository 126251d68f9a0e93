# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/endoscopy.py measures, on a ball whose depth and picture are known."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.radiance import Scene, TrainingConfig
from medrecon.radiance.renderer import Renderer
from medrecon.types import RenderOut

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))
import endoscopy  # noqa: E402
from radiance_ball import CENTRE, RADIUS, ball  # noqa: E402


class Ball(Renderer):
    """A grey ball of any radius, opaque where a ray meets it between its ends."""

    def __init__(self, scene: Scene, radius: float):
        super().__init__(None)
        self.centre = torch.from_numpy(scene.field_from_sfm.apply(CENTRE)).float()
        self.radius = radius * scene.field_from_sfm.scale

    def render(self, rays, appearance=None):
        o = rays.origins - self.centre
        a, b = (rays.directions**2).sum(-1), (rays.directions * o).sum(-1)
        under = b**2 - a * ((o**2).sum(-1) - self.radius**2)
        enters = (-b - under.clamp(min=0).sqrt()) / a
        opacity = ((under > 0) & (enters < rays.far[:, 0])).float()
        return RenderOut(torch.full((len(rays), 3), 0.5) * opacity[:, None], enters * opacity, opacity)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    frames, sparse = ball(tmp_path_factory.mktemp("ball"), n=12, size=32)
    kept, points = endoscopy.parts(sparse, share=0.4)
    return frames, sparse, kept, points, Scene.from_sparse(frames, kept, TrainingConfig(max_size_px=32))


def test_points_are_parted(data):
    _, sparse, kept, points, _ = data
    assert len(kept.points) + len(points.points) == len(sparse.points) and len(points.points) > 50
    together = np.concatenate([kept.points, points.points])
    assert len(np.unique(together, axis=0)) == len(sparse.points)
    for part in (kept, points):  # every track went with its point
        for p in (0, len(part.points) // 2, len(part.points) - 1):
            original = int(np.flatnonzero((sparse.points == part.points[p]).all(1))[0])
            there = sparse.track_frame_ids[sparse.track_offsets[original] : sparse.track_offsets[original + 1]]
            assert (part.track_frame_ids[part.track_offsets[p] : part.track_offsets[p + 1]] == there).all()


def test_the_right_ball_has_no_error_and_a_large_one_stands_before_the_points(data):
    frames, _, _, points, scene = data
    right = endoscopy.measure(Ball(scene, RADIUS), scene, frames, points)
    assert right["depth_error_median_percent"] < 0.1 and right["before_percent"] == 0 and right["points"] > 20
    large = endoscopy.measure(Ball(scene, 1.8 * RADIUS), scene, frames, points)
    # 18 where there should be 10 from the centre, seen from 40: about (40 - 10) - (40 - 18) of 30 and more is missing.
    assert 20 < large["depth_error_median_percent"] < 35 and large["before_percent"] > 90
    assert large["psnr_db"] < right["psnr_db"]
    assert "| a ball | 3 |" in endoscopy.table([{"row": "a ball", "steps": 3, "seconds": 1.0, **right}])


def test_three_views_and_a_video(tmp_path, data, capsys):
    frames, _, _, points, scene = data
    endoscopy.pictures(Ball(scene, RADIUS), scene, frames, points, tmp_path)
    assert len(list(tmp_path.glob("view-*.png"))) == min(3, len(scene.heldout_ids))
    assert (tmp_path / "depth.mp4").is_file() or "codecs" in capsys.readouterr().out
