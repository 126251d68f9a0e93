# SPDX-License-Identifier: Apache-2.0
"""The views source: pictures rendered from a CT or MR volume, with exact truth kept apart from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from medrecon.config.base import ComponentConfig
from medrecon.errors import ConfigError, InputError
from medrecon.ingest.exposure import Exposure, ExposureConfig
from medrecon.ingest.transfer_functions import PresetName, TransferFunction, TransferFunctionConfig, transfer_function
from medrecon.ingest.volume import load_volume, with_border
from medrecon.progress import Progress
from medrecon.types import Camera, Frame, FrameSet, Rigid3, Truth, Volume
from medrecon.types.storage import read_npz, write_npz

PointMm = tuple[float, float, float]


class OrbitConfig(ComponentConfig):
    """Cameras on a sphere around the visible object."""

    kind: Literal["orbit"] = Field("orbit", description="around the object")
    loops: float = Field(2.0, gt=0, le=100, description="turns around the patient's long axis")
    elevation_deg: tuple[float, float] = Field(
        (-10.0, 40.0), description="lowest and highest elevation towards superior, between which the path swings"
    )
    elevation_waves: float = Field(3.0, ge=0, le=100, description="swings of the elevation over the whole path")
    start_deg: float = Field(
        0.0, ge=-360, le=360, description="azimuth of the first view; 0 is in front, 90 at the left"
    )
    radius_factor: float = Field(
        1.0,
        gt=0.2,
        le=20,
        description="distance from the centre; 1 = the object's bounding sphere just fits the picture",
    )
    center_mm: PointMm | None = Field(
        None, description="(right, anterior, superior) that all views look at; null: the middle of what is visible"
    )

    @field_validator("elevation_deg")
    @classmethod
    def _bounds(cls, value):
        if not -89 <= value[0] <= value[1] <= 89:
            raise ValueError("give the lower bound first, both between -89 and 89")
        return value


class FlyThroughConfig(ComponentConfig):
    """A camera that travels inside, along given points or the centre-line of an airway or vessel."""

    kind: Literal["fly-through"] = Field(description="through the inside")
    points_mm: tuple[PointMm, ...] | None = Field(
        None, description="points (right, anterior, superior) of the path; null: the centre-line of `through`"
    )
    through: Literal["airway", "vessel"] = Field("airway", description="what to follow when no points are given")
    start_mm: PointMm | None = Field(None, description="where the centre-line starts; null for airways: the trachea")
    end_mm: PointMm | None = Field(None, description="where it ends; null for airways: the farthest wide branch")
    look_ahead_mm: float = Field(20.0, gt=0, le=500, description="the camera looks at the path this far ahead")
    wobble_mm: float = Field(2.0, ge=0, le=50, description="the camera circles the path at this radius, for parallax")
    wobble_turns: float = Field(6.0, ge=0, le=100, description="circles over the whole path")

    @field_validator("points_mm")
    @classmethod
    def _enough(cls, value):
        if value is not None and len(value) < 2:
            raise ValueError("give at least two points")
        return value


class ViewsSourceConfig(ExposureConfig):
    """Options of the views source. Lengths in mm, in the patient's right-anterior-superior axes."""

    path: Path = Field(description="NIfTI or NRRD file, or DICOM folder; builtin:chest-ct is the one in the package")
    frame: int | None = Field(None, ge=0, description="which volume of a 4-D file, from 0")
    series: int | None = Field(
        None, ge=1, description="which DICOM series of the folder, 1 = the one with most images; null: the only one"
    )
    assume_ras: bool = Field(False, description="accept a file that does not say how it lies in the patient")
    n_views: int = Field(64, ge=1, le=10000, description="how many pictures")
    image_size_px: tuple[int, int] = Field((400, 400), description="width, height")
    fov_deg: float = Field(30.0, ge=5, le=140, description="field of view across the smaller side")
    camera_path: Annotated[OrbitConfig | FlyThroughConfig, Field(discriminator="kind")] = Field(
        OrbitConfig(), description="orbit or fly-through"
    )
    transfer: PresetName | TransferFunctionConfig = Field("bone", description="what is visible: a preset, or points")
    crop: Literal["none", "body", "brain"] = Field(
        "none", description="body: without table and clothes (CT in HU); brain: without skull (T1-weighted MR)"
    )
    light: Literal["fixed", "headlight"] = Field(
        "fixed", description="lights that stay, or one that follows the camera"
    )
    light_reach_mm: float | None = Field(
        None,
        gt=0,
        le=10000,
        description="light falls off with the square of the depth beyond this one, as an endoscope's",
    )
    supersample: int = Field(2, ge=1, le=4, description="rays per pixel along each axis")
    step_mm: float | None = Field(
        None, gt=0.01, le=10, description="distance between samples on a ray; null: half the smallest spacing"
    )
    known_intrinsics: bool = Field(False, description="give the true intrinsics to the reconstruction")
    known_poses: bool = Field(False, description="give the true poses to the reconstruction")

    @field_validator("image_size_px")
    @classmethod
    def _size(cls, value):
        if not all(16 <= n <= 4096 for n in value):
            raise ValueError("both sides must lie between 16 and 4096")
        return value


class ViewsSource:
    """Renders pictures of a volume and writes, apart from them, what is exactly known about them.

    Below ``out_dir``: images/<id>.png, truth/truth.json, truth/depth/<id>.npz (``depth_mm``), truth/masks/<id>.png
    (white = object) and truth/surface.ply. The frames that are returned know neither poses nor masks.
    """

    def __init__(self, config: ViewsSourceConfig):
        self.config = config

    def read(self, out_dir: Path, progress: Progress) -> FrameSet:
        """Raises InputError for a volume that cannot be used, ConfigError for a path that makes no sense."""
        from medrecon.images import write_png
        from medrecon.ingest.truth_surface import isosurface, write_ply
        from medrecon.ingest.view_depth import DepthTracer
        from medrecon.ingest.volume_renderer import VolumeRenderer

        config, out_dir = self.config, Path(out_dir)
        volume = self._volume()
        transfer = transfer_function(config.transfer).on(volume)
        if transfer.alpha(volume.data.min()) < 1e-3:
            volume = with_border(volume, volume.data.min())
        camera = self._camera()
        poses = self._poses(volume, transfer, camera)
        if config.crop == "none" and volume.data.min() < -900 and not str(config.path).startswith("builtin:"):
            progress.say("the volume is rendered as it is; crop: body would take a CT's table away")

        progress.begin(len(poses) + 1, "views")
        write_ply(out_dir / "truth" / "surface.ply", isosurface(volume, transfer))
        progress.advance()
        renderer = tracer = None
        frames, depth_paths, n_empty = [], {}, 0
        for i, pose in enumerate(poses):
            name = f"{i:06d}"
            image_path, depth_path = out_dir / "images" / f"{name}.png", out_dir / "truth" / "depth" / f"{name}.npz"
            mask_path = out_dir / "truth" / "masks" / f"{name}.png"
            if not _finished(image_path, depth_path, mask_path):
                if renderer is None:
                    renderer = VolumeRenderer(
                        volume, transfer, camera, config.light, config.supersample, config.step_mm
                    )
                    tracer = DepthTracer(volume, transfer, config.step_mm)
                depth = tracer.depth(camera, pose)
                rgb = self._expose(renderer.render(pose)[..., :3], depth, i)
                write_png(mask_path, depth > 0)
                write_npz(depth_path, {"depth_mm": depth})
                write_png(image_path, rgb)  # last: it says that the view is complete
                n_empty += not (depth > 0).any()
            depth_paths[i] = depth_path
            frames.append(
                Frame(
                    i,
                    name,
                    image_path,
                    *config.image_size_px,
                    camera=camera if config.known_intrinsics else None,
                    cam_from_world_mm=pose if config.known_poses else None,
                )
            )
            progress.advance()
        if n_empty:
            progress.say(f"{n_empty} of {len(poses)} views show nothing: check the path and the transfer function")
        truth_path = out_dir / "truth" / "truth.json"
        Truth(
            cameras={i: camera for i in range(len(poses))},
            cam_from_world_mm=dict(enumerate(poses)),
            depth_paths=depth_paths,
            surface_path=out_dir / "truth" / "surface.ply",
            volume_path=self._volume_path().resolve(),
        ).save(truth_path)
        return FrameSet(
            tuple(frames),
            f"{len(frames)} views rendered from a volume",
            ordered=True,
            truth_path=truth_path,
            notes=(self._note(), *volume.notes),
        ).validate()

    def _volume_path(self) -> Path:
        if str(self.config.path).startswith("builtin:"):
            from medrecon.assets.demo import builtin_volume

            return builtin_volume(str(self.config.path).removeprefix("builtin:"))
        return self.config.path

    def _volume(self) -> Volume:
        from medrecon.ingest import body

        config = self.config
        volume = load_volume(self._volume_path(), config.frame, config.assume_ras, config.series)
        if min(volume.data.shape) < 2:
            raise InputError(f"a volume of {volume.data.shape} voxels cannot be rendered", "give at least two slices")
        if config.crop == "body":
            volume = body.remove_table(volume)
        elif config.crop == "brain":
            volume = body.remove_skull(volume)
        return volume

    def _camera(self) -> Camera:
        width, height = self.config.image_size_px
        focal = min(width, height) / 2 / np.tan(np.radians(self.config.fov_deg) / 2)
        return Camera("PINHOLE", width, height, (focal, focal, width / 2, height / 2)).validate()

    def _poses(self, volume: Volume, transfer: TransferFunction, camera: Camera) -> list[Rigid3]:
        from medrecon.ingest import view_paths

        config, path = self.config, self.config.camera_path
        if isinstance(path, FlyThroughConfig):
            points = path.points_mm
            if points is None:
                from medrecon.ingest.centre_line import centre_line

                points = centre_line(volume, path.through, path.start_mm, path.end_mm)
            points = np.array(points, np.float64)
            if not _inside(volume, points).any():
                raise ConfigError(
                    "the fly-through lies outside the volume", "points_mm are right, anterior, superior in millimetres"
                )
            return view_paths.fly_through(points, config.n_views, path.look_ahead_mm, path.wobble_mm, path.wobble_turns)
        center, radius = visible_sphere(volume, transfer)
        if path.center_mm is not None:
            center = np.array(path.center_mm, np.float64)
        distance = path.radius_factor * radius / np.sin(np.radians(config.fov_deg) / 2)
        return view_paths.orbit(
            center, distance, config.n_views, path.loops, path.elevation_deg, path.elevation_waves, path.start_deg
        )

    def _expose(self, rgb: np.ndarray, depth: np.ndarray, index: int) -> np.ndarray:
        """float32 [H, W, 3] -> uint8: fall-off, exposure, noise; each view has its own generator."""
        config = self.config
        random = np.random.default_rng([config.seed, index])
        exposure = Exposure.draw(config, random)
        if config.light_reach_mm is not None:
            deep = np.maximum(depth, config.light_reach_mm)[..., None]
            rgb = rgb * (config.light_reach_mm / deep) ** 2
        grey = 255.0 * exposure.apply(rgb)
        if config.noise_sigma:
            grey = grey + config.noise_sigma * random.standard_normal(grey.shape)
        return np.clip(np.rint(grey), 0, 255).astype(np.uint8)

    def _note(self) -> str:
        config = self.config
        what = config.transfer if isinstance(config.transfer, str) else "own transfer function"
        return (
            f"rendered: {config.camera_path.kind}, {what}, {config.light} light, field of view {config.fov_deg:g} deg; "
            + ("poses given" if config.known_poses else "poses withheld")
        )


def visible_sphere(volume: Volume, transfer: TransferFunction) -> tuple[np.ndarray, float]:
    """(centre float64 [3] RAS mm, radius mm) of a sphere around the visible voxels, stray ones left out."""
    step = np.maximum(1, np.round(3.0 / np.array(volume.spacing_mm))).astype(int)
    visible = np.argwhere(transfer.alpha(volume.data[:: step[0], :: step[1], :: step[2]]) > 0.1) * step
    if len(visible) == 0:
        raise InputError("nothing in the volume is visible", "choose another transfer function")
    points = visible @ volume.ras_from_ijk_mm[:3, :3].T + volume.ras_from_ijk_mm[:3, 3]
    low, high = np.percentile(points, (0.2, 99.8), axis=0)
    center = (low + high) / 2
    return center, float(np.percentile(np.linalg.norm(points - center, axis=1), 99.8)) + float(max(volume.spacing_mm))


def _inside(volume: Volume, points_mm: np.ndarray) -> np.ndarray:
    inverse = np.linalg.inv(volume.ras_from_ijk_mm)
    ijk = points_mm @ inverse[:3, :3].T + inverse[:3, 3]
    return ((ijk >= -0.5) & (ijk <= np.array(volume.data.shape) - 0.5)).all(1)


def _finished(image_path: Path, depth_path: Path, mask_path: Path) -> bool:
    """A killed run left this view whole: the picture is written last, each file under its name only when complete."""
    if not (image_path.is_file() and depth_path.is_file() and mask_path.is_file()):
        return False
    try:
        return "depth_mm" in read_npz(depth_path)
    except InputError:
        return False
