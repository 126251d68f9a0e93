# SPDX-License-Identifier: Apache-2.0
"""Scans in a common frame: phantoms that lie elsewhere, and the transform of the real pair measured again."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medrecon.assets import obstacle, require
from medrecon.ingest.volume import canonical, load_volume
from medrecon.training.shard_formats import placed
from medrecon.training.shard_frames import VAULT_CT, VAULT_MR, Placement
from medrecon.training.shard_volumes import CT_RANGE_HU, prepare_ct, prepare_mr

BONES = np.array([[22.0, 10.0, -14.0], [-18.0, 24.0, 6.0], [4.0, -26.0, 18.0]])  # mm from the middle of the head


def test_a_placement_turns_about_its_centre():
    place = Placement("x", (0, 0, 0), (1, 1, 1), turn_deg=(0, 0, 90), shift_mm=(5, 0, 0), centre_mm=(10, 20, 30))
    there = place.scan_from_frame_mm() @ [11, 20, 30, 1]
    np.testing.assert_allclose(
        there, [15, 21, 30, 1], atol=1e-12
    )  # 90 degrees: from right to anterior, then 5 to right


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_what_lies_turned_in_its_file_lies_upright_in_the_frame(modality):
    turn, shift = (4.0, -7.0, 12.0), (6.0, -9.0, 5.0)
    rotation = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    spacing, shape = (1.8, 1.8, 2.5), (90, 90, 64)
    middle = (np.array(shape) - 1) / 2 * spacing
    # The scan's voxels, carried back into the head's own coordinates; RAS with the first voxel at the origin.
    mm = np.moveaxis(np.indices(shape), 0, -1) * spacing
    volume = placed(np.zeros(shape, np.float32), spacing, "RAS")
    mm = mm + canonical(volume).ras_from_ijk_mm[:3, 3]
    centre = middle + canonical(volume).ras_from_ijk_mm[:3, 3]
    head = (mm - centre - shift) @ rotation
    air, tissue, bone = (-1000, 0, 1000) if modality == "CT" else (0, 500, 900)
    data = np.where(np.linalg.norm(head / [45, 50, 45], axis=-1) < 1, tissue, air).astype(np.float32)
    for spot in BONES:
        data[np.linalg.norm(head - spot, axis=-1) < 7] = bone
    place = Placement("x", tuple(centre - 48), tuple(centre + 48), turn, shift, tuple(centre))
    prepare = prepare_ct if modality == "CT" else prepare_mr
    shard, (low, high) = prepare(placed(data, spacing, "RAS"), 2.0, placement=place)
    assert shard.shape == (49, 49, 49) and (modality == "MR" or (low, high) == CT_RANGE_HU)
    values = low + shard / 255.0 * (high - low)
    labels, n = ndimage.label(values > (tissue + bone) / 2)
    found = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, n + 1))) * 2.0 - 48
    assert n == 3
    for spot in BONES:
        assert np.linalg.norm(found - spot, axis=1).min() < 0.5


MISSING = [why for why in (obstacle("dicom2stl-example-ct"), obstacle("dicom2stl-example-mr")) if why]


@pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))
def test_the_vault_is_registered_at_the_greatest_mutual_information():
    """A millimetre or a degree and a half to any side of the written transform shares less information."""
    ct, mr = (canonical(load_volume(require(f"dicom2stl-example-{m}"))) for m in ("ct", "mr"))
    rng = np.random.default_rng(0)
    points = rng.uniform(VAULT_MR.low_mm, VAULT_MR.high_mm, (60_000, 3))
    ct_from, mr_from = (np.linalg.inv(v.ras_from_ijk_mm) for v in (ct, mr))
    look = lambda data, way, p: ndimage.map_coordinates(data, way[:3, :3] @ p.T + way[:3, 3:], order=1)
    hounsfield, grey = ct.data.astype(np.float32), mr.data.astype(np.float32)
    points = points[look(ndimage.maximum_filter(grey, (7, 7, 1)), mr_from, points) > 60]  # the head and what is near it
    grey = look(grey, mr_from, points)
    bins = np.clip(grey / 900 * 32, 0, 31)

    def information(turn, shift):
        place = Placement("", (0, 0, 0), (1, 1, 1), tuple(turn), tuple(shift), VAULT_CT.centre_mm)
        p = points @ place.scan_from_frame_mm()[:3, :3].T + place.scan_from_frame_mm()[:3, 3]
        hu = np.interp(look(hounsfield, ct_from, p), [-1000, -200, -50, 150, 1300], [0, 3, 6, 27, 31])
        joint = np.histogram2d(bins, hu, 32, [[0, 32], [0, 32]])[0] / len(p)
        apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        return (joint[joint > 0] * np.log(joint[joint > 0] / apart[joint > 0])).sum()

    turn, shift = np.array(VAULT_CT.turn_deg), np.array(VAULT_CT.shift_mm)
    best = information(turn, shift)
    assert best > 0.4 and best > 2 * information((0, 0, 0), (0, 0, 0))  # the second: as the files lie
    for axis in np.eye(3):
        for way in (-1, 1):
            assert information(turn + 1.5 * way * axis, shift) < best
            # Slices are 4 mm thick: across them the optimum is flatter.
            assert information(turn, shift + (2 if axis[2] else 1) * way * axis) < best
