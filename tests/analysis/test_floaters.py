# SPDX-License-Identifier: Apache-2.0
"""Floaters of known size before a sphere are found, and nothing else is."""

import dataclasses

import numpy as np
import pytest
import sphere_run
from sphere_run import SFM_FROM_WORLD, build, write_renders

from medrecon.analysis.floaters import FloatersAnalysis, FloatersAnalysisConfig
from medrecon.images import write_png
from medrecon.progress import Quiet
from medrecon.radiance.view_maps import ViewMaps
from medrecon.types import FrameSet
from medrecon.types.storage import read_json, write_json

VIEWS = (11, 15)


def floaters(run):
    (metric,) = FloatersAnalysis(FloatersAnalysisConfig()).analyse(run, Quiet())
    assert (metric.name, metric.unit, metric.better) == ("floaters_percent", "%", "lower")
    return metric.validate()


def with_floater(tmp_path, part, rows=12, masked=False):
    """A disc of matter over the first ``rows`` of the first view, at ``part`` of the sphere's nearest depth."""
    run = build(tmp_path, n=8)
    write_renders(run, VIEWS)
    folder = run.root / "stages" / "render"
    data = read_json(folder / "renders.json")
    for view in data["views"]:
        i = view["frame_id"]
        _, depth = sphere_run.picture(sphere_run.CAMERA, sphere_run.poses(8)[i])
        median = (depth * SFM_FROM_WORLD.scale).astype(np.float32)
        if i == VIEWS[0]:
            median[:rows] = part * median[median > 0].min()
        ViewMaps(median, np.zeros_like(median), np.zeros((*median.shape, 3), np.float32)).save(folder, f"{i:06d}", 1.0)
        view["maps"] = f"maps/{i:06d}.npz"
    write_json(folder / "renders.json", data)
    if masked:
        mask = np.ones(depth.shape, bool)
        mask[:rows] = False
        frames = []
        for f in run.frames.frames:
            path = run.root / "stages" / "masks" / "masks" / f"{f.name}.png"
            write_png(path, mask)
            frames.append(dataclasses.replace(f, mask_path=path))
        FrameSet(tuple(frames), "masked").save(run.root / "stages" / "masks" / "frames.json")
    return run, depth.shape


def test_a_floater_counts_by_the_rays_it_catches(tmp_path):
    run, (height, width) = with_floater(tmp_path, 0.3)
    m = floaters(run)
    assert m.n == 2 * height * width and m.value == pytest.approx(100 * 12 / (2 * height))
    assert "views" not in m.note


@pytest.mark.parametrize(("part", "masked"), [(0.75, False), (0.3, True)])
def test_what_is_not_before_the_lens_is_none(tmp_path, part, masked):
    """Walls somewhat nearer than the points, and what a mask hides."""
    run, (height, width) = with_floater(tmp_path, part, masked=masked)
    m = floaters(run)
    assert m.value == 0 and m.n == 2 * width * (height - (12 if masked else 0))


def test_views_without_a_median_depth_are_named(tmp_path):
    run = build(tmp_path, n=8)
    write_renders(run, VIEWS)
    m = floaters(run)
    assert m.value is None and "2 of 2 views" in m.note
