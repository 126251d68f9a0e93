# SPDX-License-Identifier: Apache-2.0
"""Analyses on a run whose every answer is known: a sphere seen from all sides."""

import dataclasses
import json

import numpy as np
import pytest
import sphere_run
from sphere_run import RADIUS_MM, build, write_renders

from medrecon import assets
from medrecon.analysis.analyse import analyse
from medrecon.analysis.geometry import GeometryAnalysis, GeometryAnalysisConfig
from medrecon.analysis.image_quality import ImageQualityAnalysis, ImageQualityAnalysisConfig
from medrecon.analysis.truth import TruthAnalysis, TruthAnalysisConfig
from medrecon.errors import ConfigError, PluginError
from medrecon.images import read_rgb, write_png
from medrecon.progress import Quiet
from medrecon.types import FrameSet, Mesh, Metric
from medrecon.types.storage import read_json, write_json

GEOMETRY = GeometryAnalysis(GeometryAnalysisConfig())
TRUTH = TruthAnalysis(TruthAnalysisConfig(max_points=20_000))


def sphere_mesh(radius_mm, run, lower=None):
    """An icosphere-like mesh in the frame of the run's surface; ``lower`` cuts it off below that z (world mm)."""
    from skimage.measure import marching_cubes

    g = np.stack(np.meshgrid(*[np.linspace(-40, 40, 81)] * 3, indexing="ij"), -1)
    v, f, _, _ = marching_cubes(-np.linalg.norm(g, axis=-1), -radius_mm, gradient_direction="ascent")
    v = v.astype(float) - 40
    if lower is not None:
        f = f[(v[f, 2] > lower).all(1)]
    scale = run.sparse.scale
    v = (scale.metric_from_sfm @ sphere_run.SFM_FROM_WORLD).apply(v)
    return Mesh(v, f.astype(np.int32), unit=scale.unit)


def with_surface(tmp_path, radius_mm=RADIUS_MM, lower=None, **options):
    run = build(tmp_path, **options)
    sphere_mesh(radius_mm, run, lower).save(run.root / "stages" / "surface" / "mesh.npz")
    return run


def by_name(metrics):
    return {m.name: m for m in metrics}


def test_geometry_in_mm_with_the_uncertainty_of_the_scale(tmp_path):
    m = by_name(GEOMETRY.analyse(with_surface(tmp_path, n=4, sigma=0.02), Quiet()))
    area, volume = m["surface_area_mm2"], m["surface_volume_mm3"]
    assert area.value == pytest.approx(4 * np.pi * RADIUS_MM**2, rel=0.01) and area.unit == "mm^2"
    assert volume.value == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3, rel=0.01)
    assert area.sigma == pytest.approx(0.04 * area.value) and volume.sigma == pytest.approx(0.06 * volume.value)
    assert m["bbox_x_mm"].value == pytest.approx(2 * RADIUS_MM, rel=0.01)


def test_geometry_without_a_scale_never_says_mm(tmp_path):
    metrics = GEOMETRY.analyse(with_surface(tmp_path, n=4, metric=False), Quiet())
    assert all("mm" not in m.name and "mm" not in m.unit and m.note == "scale unknown" for m in metrics)
    assert by_name(metrics)["surface_area_units2"].sigma is None


def test_geometry_of_an_open_surface_has_no_volume(tmp_path):
    m = by_name(GEOMETRY.analyse(with_surface(tmp_path, n=4, lower=0.0), Quiet()))
    assert m["surface_volume_mm3"].value is None and "open" in m["surface_volume_mm3"].note
    assert m["surface_area_mm2"].value == pytest.approx(2 * np.pi * RADIUS_MM**2, rel=0.05)


def test_coverage_is_the_share_of_area_that_enough_cameras_see(tmp_path):
    import dataclasses

    run = with_surface(tmp_path, n=4)
    mesh = run.mesh
    assert "well_seen_percent" not in by_name(GEOMETRY.analyse(run, Quiet()))  # a mesher need not say it
    # A cap of a sphere, z > r / 2, is a quarter of its area (Archimedes).
    views = np.where(mesh.vertices[:, 2] > 0.5 * RADIUS_MM, 3, 2).astype(np.uint16)
    dataclasses.replace(mesh, views=views).save(run.root / "stages" / "surface" / "mesh.npz")
    assert by_name(GEOMETRY.analyse(run, Quiet()))["well_seen_percent"].value == pytest.approx(25, abs=2)
    two = GeometryAnalysis(GeometryAnalysisConfig(coverage_views=2))
    assert by_name(two.analyse(run, Quiet()))["well_seen_percent"].value == pytest.approx(100)


def test_truth_of_a_perfect_reconstruction(tmp_path):
    m = by_name(TRUTH.analyse(with_surface(tmp_path), Quiet()))
    assert m["ate_mm"].value < 1e-6 and m["rotation_deg"].value < 1e-5 and m["focal_error_percent"].value < 1e-9
    assert m["registered_fraction"].value == 1 and m["scale_error_percent"].value < 1e-9
    assert m["surface_mean_mm"].value < 0.3 and m["surface_hd95_mm"].value < 0.6  # pixels are 1 mm wide
    assert m["completeness_mean_mm"].value < 0.05 and m["completeness_hd95_mm"].value < 0.1
    assert "similarity" in m["surface_mean_mm"].note


@pytest.mark.parametrize("metric", [True, False])
def test_truth_measures_a_sphere_that_is_two_mm_too_large(tmp_path, metric):
    m = by_name(TRUTH.analyse(with_surface(tmp_path, RADIUS_MM + 2, metric=metric), Quiet()))
    for name in ("surface_mean_mm", "surface_rms_mm", "surface_hd95_mm"):
        assert m[name].value == pytest.approx(2, abs=0.2) and m[name].unit == "mm"
    for name in ("completeness_mean_mm", "completeness_rms_mm", "completeness_hd95_mm", "chamfer_mm"):
        assert m[name].value == pytest.approx(2, abs=0.1)
    assert ("scale_error_percent" in m) == metric


def test_a_missing_half_shows_in_completeness_only(tmp_path):
    m = by_name(TRUTH.analyse(with_surface(tmp_path, lower=0.0), Quiet()))
    assert m["completeness_mean_mm"].value > 5 and m["completeness_hd95_mm"].value > 20
    # Half of the sphere, and the zone of 2.5 mm (a little less: chords of the rim) below it.
    assert m["true_surface_found_percent"].value == pytest.approx(50 + 100 * 2.5 / (2 * RADIUS_MM), abs=2)
    # Rays that pass over the rim hit the shell from inside; the sphere is there all the same.
    assert m["surface_mean_mm"].value < 0.5


def test_what_no_camera_saw_does_not_count(tmp_path):
    # A second, hidden ball inside the first one.
    run = build(tmp_path)
    outer, inner = sphere_mesh(RADIUS_MM, run), sphere_mesh(10.0, run)
    both = Mesh(
        np.concatenate([outer.vertices, inner.vertices]),
        np.concatenate([outer.faces, inner.faces + len(outer.vertices)]).astype(np.int32), unit="mm",
    )  # fmt: skip
    both.save(run.root / "stages" / "surface" / "mesh.npz")
    assert by_name(TRUTH.analyse(run, Quiet()))["surface_hd95_mm"].value < 0.6


def test_wrong_poses_and_missing_frames(tmp_path):
    m = by_name(TRUTH.analyse(with_surface(tmp_path, n=20, noise=1.0, drop=(12, 17)), Quiet()))
    assert m["registered_fraction"].value == pytest.approx(0.9)
    # Three independent coordinates of sigma 1 mm, less the seven parameters of the alignment.
    assert m["ate_mm"].value == pytest.approx(np.sqrt(3), rel=0.3) and m["ate_mm"].n == 18
    assert m["ate_mm"].value > m["ate_mean_mm"].value and m["ate_max_mm"].value > m["ate_mm"].value


def test_refined_poses_stand_beside_those_of_structure_from_motion(tmp_path):
    run = with_surface(tmp_path, n=20, noise=1.0)
    true = {i: sphere_run.SFM_FROM_WORLD.transform_pose(p) for i, p in run.truth.cam_from_world_mm.items()}
    folder = run.root / "stages" / "radiance"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scene.json", {"cam_from_sfm": {str(i): p.matrix().tolist() for i, p in true.items()}})
    write_json(folder / "poses.json", {"rounds": 1})
    m = by_name(TRUTH.analyse(run, Quiet()))
    assert m["ate_mm"].value == pytest.approx(np.sqrt(3), rel=0.3)
    assert m["ate_refined_mm"].value == pytest.approx(0, abs=1e-6) and m["rotation_refined_deg"].value < 1e-6
    perfect = by_name(TRUTH.analyse(with_surface(tmp_path / "perfect", n=20), Quiet()))
    assert "ate_refined_mm" not in perfect
    assert m["surface_mean_mm"].value == pytest.approx(perfect["surface_mean_mm"].value, abs=0.01)


def test_no_truth_no_figures(tmp_path):
    assert TRUTH.analyse(with_surface(tmp_path, n=4, truth=False), Quiet()) == []


def test_truth_without_surface_or_with_one_camera(tmp_path):
    m = by_name(TRUTH.analyse(build(tmp_path / "a", n=5), Quiet()))
    assert m["surface_mean_mm"].value is None and "no surface" in m["surface_mean_mm"].note
    assert m["ate_mm"].value is not None
    one = build(tmp_path / "b", n=4, drop=(11, 12, 13), metric=False)
    m = by_name(TRUTH.analyse(one, Quiet()))
    assert m["ate_mm"].value is None and "not comparable" in m["ate_mm"].note


def test_depth_of_held_out_views(tmp_path):
    run = with_surface(tmp_path, n=8)
    write_renders(run, (11, 15), depth_factor=1.01)
    m = by_name(TRUTH.analyse(run, Quiet()))
    # One per cent of depths between 80 and about 106 mm.
    assert 0.8 < m["depth_mae_mm"].value < 1.06 and 0.8 < m["depth_median_mm"].value < 1.06


FAST = ("psnr", "ssim", "ms-ssim", "mae", "nrmse")


def quality(run, metrics=FAST):
    return by_name(ImageQualityAnalysis(ImageQualityAnalysisConfig(metrics=metrics)).analyse(run, Quiet()))


def test_image_quality_of_known_offsets(tmp_path):
    run = build(tmp_path, n=8)
    write_renders(run, (11, 15), offset=12)
    m = quality(run)
    assert set(m) == {"psnr_db", "ssim", "ms_ssim", "mae", "nrmse"}
    assert m["psnr_db"].value == pytest.approx(20 * np.log10(255 / 12), abs=0.02) and m["psnr_db"].n == 2
    assert m["mae"].value == pytest.approx(12 / 255, abs=1e-4)
    assert m["psnr_db"].sigma < 0.01 and m["psnr_db"].unit == "dB" and m["psnr_db"].note == ""
    assert "zero" in m["psnr_db"].source


def test_a_view_that_was_not_rendered_is_named(tmp_path):
    run = build(tmp_path, n=8)
    write_renders(run, (11, 13, 15), skip=(13,))
    m = quality(run, ("psnr",))
    assert m["psnr_db"].n == 2 and "1 held-out views were not rendered" in m["psnr_db"].note


def test_masked_pixels_do_not_count(tmp_path):
    run = build(tmp_path, n=6)
    write_renders(run, (11,), offset=0)
    path = run.root / "stages" / "render" / "heldout" / "000011.png"
    rgb, _ = sphere_run.picture(sphere_run.CAMERA, sphere_run.poses(6)[11])
    rgb[:, :30] = 255  # spoilt, but masked below
    write_png(path, rgb)
    assert quality(run, ("psnr",))["psnr_db"].value < 20
    mask = np.ones(rgb.shape[:2], bool)
    mask[:, :32] = False
    frames = run.frames
    masked = []
    for f in frames.frames:
        write_png(run.root / "stages" / "masks" / "masks" / f"{f.name}.png", mask)
        masked.append(dataclasses.replace(f, mask_path=run.root / "stages" / "masks" / "masks" / f"{f.name}.png"))
    FrameSet(tuple(masked), "masked").save(run.root / "stages" / "masks" / "frames.json")
    assert quality(run, ("psnr",))["psnr_db"].value == 100.0


def test_the_half_that_a_code_was_fitted_to_does_not_count(tmp_path):
    run = build(tmp_path, n=8)
    write_renders(run, (11, 15), offset=12)
    path = run.stage_dir("render") / "renders.json"
    data = read_json(path)
    for view in data["views"]:
        picture = run.stage_dir("render") / view["rgb"]
        image = read_rgb(picture)
        view["measured_from_px"] = image.shape[1] // 2
        image[:, : image.shape[1] // 2] = 255
        write_png(picture, image)
    assert quality(run, ("psnr",))["psnr_db"].value < 15
    write_json(path, {**data, "appearance": "fitted on the left half"})
    m = quality(run, ("psnr",))["psnr_db"]
    assert m.value == pytest.approx(20 * np.log10(255 / 12), abs=0.02) and "fitted on the left half" in m.source


def test_lpips_without_weights_is_none_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDRECON_HOME", str(tmp_path / "empty"))
    run = build(tmp_path, n=6)
    write_renders(run, (11,))
    m = quality(run, ("psnr", "lpips"))
    assert m["lpips"].value is None and "medrecon weights fetch lpips-alexnet" in m["lpips"].note
    assert m["psnr_db"].value == 100.0


@pytest.mark.skipif(assets.path("lpips-alexnet") is None, reason="needs `medrecon weights fetch lpips-alexnet`")
def test_lpips_with_weights(tmp_path):
    run = build(tmp_path, n=6)
    write_renders(run, (11,), offset=30)
    assert 0 < quality(run, ("lpips",))["lpips"].value < 1


def test_unknown_metric_is_a_config_error(tmp_path):
    run = build(tmp_path, n=4)
    write_renders(run, (11,))
    with pytest.raises(ConfigError):
        quality(run, ("psmr",))


class Plugin:
    def __init__(self, result):
        self.result = result

    def analyse(self, run, progress):
        return self.result


def test_stage_writes_metrics_json_that_the_run_folder_reads(tmp_path):
    run = with_surface(tmp_path, n=6)
    out = run.root / "stages" / "analysis"
    metrics = analyse(run, [("geometry", GEOMETRY), ("truth", TRUTH)], out, Quiet())
    assert run.metrics == metrics and len(metrics) > 10
    json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize("result", [None, [1], [Metric("x", float("nan"))], [Metric("x", 1.0, better="up")]])
def test_a_plugin_that_returns_rubbish_is_named(tmp_path, result):
    run = build(tmp_path, n=4)
    with pytest.raises(PluginError, match="'mine'"):
        analyse(run, [("mine", Plugin(result))], tmp_path / "out", Quiet())
    assert not (tmp_path / "out").exists()


def test_one_name_is_given_once(tmp_path):
    run = build(tmp_path, n=4)
    same = [Metric("x", 1.0)]
    with pytest.raises(PluginError, match="'a' and 'b'"):
        analyse(run, [("a", Plugin(same)), ("b", Plugin(same))], tmp_path / "out", Quiet())
    write_json(tmp_path / "ok.json", [m.to_dict() for m in analyse(run, [("a", Plugin(same))], tmp_path, Quiet())])
