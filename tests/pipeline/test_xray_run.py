# SPDX-License-Identifier: Apache-2.0
"""From a CT through its radiographs back to its attenuation, by the command line and the preset xray."""

import nibabel as nib
import numpy as np
import pytest
import yaml

from medrecon.cli import main

CENTRE, RADIUS = np.array([-40.0, 25.0, 60.0]), 24.0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A ball of water, far from the origin of the patient's axes; the finished run of its twelve radiographs."""
    folder = tmp_path_factory.mktemp("xray")
    n, spacing = 26, 2.5
    affine = np.diag([spacing, spacing, spacing, 1])
    affine[:3, 3] = CENTRE - spacing * (n - 1) / 2
    x = np.indices((n, n, n)).transpose(1, 2, 3, 0) * spacing + affine[:3, 3]
    hu = np.where(np.linalg.norm(x - CENTRE, axis=-1) < RADIUS, 0, -1000).astype(np.int16)
    nib.save(nib.Nifti1Image(hu, affine), folder / "ct.nii.gz")
    text = {
        "version": 1, "preset": "xray",
        "source": {"name": "projections", "path": "ct.nii.gz", "n_views": 12, "image_size_px": [32, 32],
                   "distance_mm": 300, "white": 2.0},
        "radiance": {"white": 2.0, "coarsest": 8, "finest": 32, "levels": 3, "log2_size": 15, "samples": 48,
                     "samples_per_batch": 8192},
        "training": {"iterations": 150, "holdout_every": 6, "pyramid": []},
        "render": {"path_frames": 0}, "surface": {"resolution": 32},
        "analysis": {"image-quality": {"metrics": ["psnr"]}, "truth": {}},
        "export": {"nifti": {"resolution": 40}, "ply": {}},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(text))
    assert main(["run", str(folder / "run.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder


def shells(path):
    """The image, and the mean of its voxels well inside the ball and well outside it, by its affine."""
    image = nib.load(path)
    data = image.get_fdata()
    x = np.indices(data.shape).transpose(1, 2, 3, 0) @ image.affine[:3, :3].T + image.affine[:3, 3]
    r = np.linalg.norm(x - CENTRE, axis=-1)
    return image, data[r < 0.75 * RADIUS].mean(), data[(r > 1.2 * RADIUS) & (r < 1.4 * RADIUS)].mean()


def test_attenuation_in_1_per_mm_where_the_ct_has_it(run):
    image, inside, outside = shells(run / "out/stages/export/attenuation_mm.nii")
    assert inside == pytest.approx(0.02, rel=0.05) and outside < 0.002
    assert image.header.get_xyzt_units()[0] == "mm"
    assert b"attenuation, 1/mm" in image.header["descrip"].tobytes()
    surface = (run / "out/stages/export/surface_mm.ply").read_bytes()
    assert b"unit: mm" in surface[:400]


def test_the_report_stands(run):
    assert (run / "out/report.html").stat().st_size > 20_000


def test_hounsfield_units(run, capfd):
    code = main(
        ["run", str(run / "run.yaml"), "--out", str(run / "out"), "--quiet", "-o", "export.nifti.water_per_mm=0.02"]
    )
    assert code == 0
    image, inside, outside = shells(run / "out/stages/export/hounsfield_mm.nii")
    assert abs(inside) < 50 and outside < -900
    assert b"attenuation, HU" in image.header["descrip"].tobytes()


def test_without_a_scale_the_unit_is_unknown_and_hounsfield_units_are_refused(run, capfd):
    again = ["run", str(run / "run.yaml"), "--out", str(run / "unscaled"), "--quiet", "-o", "scale.from=none"]
    again += ["-o", "training.iterations=5", "-o", "surface.threshold=0.01"]
    assert main(again) == 0
    image = nib.load(run / "unscaled/stages/export/attenuation_scale-unknown.nii")
    assert image.header.get_xyzt_units()[0] == "unknown"
    assert b"SCALE UNKNOWN" in image.header["descrip"].tobytes()
    assert main([*again, "-o", "export.nifti.water_per_mm=0.02"]) == 3
    assert "scale of this run is unknown" in capfd.readouterr().err
