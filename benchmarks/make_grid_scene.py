# SPDX-License-Identifier: Apache-2.0
"""Makes the demo scene that grid_scene.py trains: the chest CT of the package in 80 pictures with their true poses.

    python benchmarks/make_grid_scene.py --out DIR

writes DIR/chest.npz (some MB): images uint8 [80, 256, 256, 3] of the bones over black; world_from_camera float32
[80, 3, 4], x to the right, y down, z forward, in units of a cube around the volume, [0, 1]^3; focal, in pixels, the
principal point being the centre. Needs all of medrecon, with VTK; grid_scene.py then needs only torch and numpy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from medrecon.assets.demo import builtin_volume
from medrecon.errors import MedreconError
from medrecon.images import read_rgb
from medrecon.ingest.views import ViewsSource, ViewsSourceConfig
from medrecon.ingest.volume import load_volume
from medrecon.progress import Quiet
from medrecon.types import Truth

VIEWS, SIZE = 80, 256


def cube_of(path: Path) -> tuple[np.ndarray, float]:
    """Lowest corner and edge, in mm, of the cube around a volume."""
    volume = load_volume(path)
    corners = np.array(np.meshgrid(*((0, n - 1) for n in volume.data.shape))).reshape(3, -1)
    world = (volume.ras_from_ijk_mm[:3, :3] @ corners).T + volume.ras_from_ijk_mm[:3, 3]
    low, high = world.min(0), world.max(0)
    edge = float((high - low).max())
    return (low + high - edge) / 2, edge


def main() -> int:
    """Exit code 1 when the pictures cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        config = ViewsSourceConfig(
            path="builtin:chest-ct", n_views=VIEWS, image_size_px=(SIZE, SIZE), fov_deg=40.0, transfer="bone"
        )
        low, edge = cube_of(builtin_volume("chest-ct"))
        with tempfile.TemporaryDirectory() as folder:
            frames = ViewsSource(config).read(Path(folder), Quiet()).frames
            truth = Truth.load(Path(folder) / "truth" / "truth.json")
            images = np.stack([read_rgb(frame.image_path) for frame in frames])
    except MedreconError as e:
        print(e, file=sys.stderr)
        return 1
    poses = [truth.cam_from_world_mm[frame.frame_id] for frame in frames]
    columns = [np.column_stack([pose.rotation.T, (pose.center - low) / edge]) for pose in poses]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "chest.npz"
    camera = truth.cameras[frames[0].frame_id]
    world_from_camera = np.stack(columns).astype(np.float32)
    np.savez_compressed(path, images=images, world_from_camera=world_from_camera, focal=np.float32(camera.focal_px[0]))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
