# SPDX-License-Identifier: Apache-2.0
"""The projections source: radiographs of a CT volume from known places, as a cone-beam scanner or C-arm takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from medrecon.config.base import ComponentConfig
from medrecon.errors import InputError
from medrecon.ingest.volume import load_volume
from medrecon.progress import Progress
from medrecon.types import Camera, Frame, FrameSet, Rigid3, Truth, Volume

LEAST_WATER_MM = 1.0  # what a volume must hold somewhere, as water, to be worth a picture


class ProjectionsSourceConfig(ComponentConfig):
    """Options of the projections source. Lengths in mm, in the patient's right-anterior-superior axes."""

    path: Path = Field(description="CT in Hounsfield units: NIfTI or NRRD file, DICOM folder, or builtin:chest-ct")
    frame: int | None = Field(None, ge=0, description="which volume of a 4-D file, from 0")
    series: int | None = Field(None, ge=1, description="which DICOM series of the folder, 1 = the one with most images")
    assume_ras: bool = Field(False, description="accept a file that does not say how it lies in the patient")
    crop: Literal["none", "body"] = Field("none", description="body: without the table")
    n_views: int = Field(60, ge=3, le=10000, description="how many projections")
    image_size_px: tuple[int, int] = Field((256, 256), description="width and height of the detector in pixels")
    distance_mm: float = Field(1000.0, gt=0, le=20000, description="from the X-ray source to the centre of rotation")
    field_mm: float | None = Field(
        None, gt=0, le=5000, description="what the detector's smaller side covers at the centre; null: the whole volume"
    )
    arc_deg: float = Field(360.0, gt=0, le=3600, description="turn of the source around the patient's long axis")
    start_deg: float = Field(0.0, ge=-360, le=360, description="where it begins: 0 in front, 90 at the patient's left")
    elevation_deg: tuple[float, float] = Field(
        (0.0, 0.0), description="lowest and highest elevation of the source, between which it swings once"
    )
    center_mm: tuple[float, float, float] | None = Field(
        None, description="(right, anterior, superior) of the centre; null: the middle of the volume"
    )
    water_per_mm: float = Field(
        0.02, gt=0, le=1, description="attenuation of water in 1/mm; 0.02 is that of about 70 keV"
    )
    intensity: Literal["attenuation", "transmission"] = Field(
        "attenuation",
        description="what brightness means; attenuation: the line integral itself, bone white and air black, as "
        "radiographs are shown; transmission: the light that is left, air white",
    )
    white: float = Field(
        10.0, gt=0, le=100, description="attenuation: the line integral shown as white; larger ones saturate"
    )
    photons: float | None = Field(
        None, gt=1, description="photons per unattenuated pixel, for Poisson noise; null: no noise"
    )
    supersample: int = Field(2, ge=1, le=4, description="rays per pixel along each axis")
    seed: int = Field(0, ge=0, description="seed of the noise")
    known_poses: bool = Field(True, description="give poses and intrinsics to the reconstruction, as a scanner does")

    @field_validator("image_size_px")
    @classmethod
    def _size(cls, value):
        if not all(16 <= n <= 4096 for n in value):
            raise ValueError("both sides must lie between 16 and 4096")
        return value

    @field_validator("elevation_deg")
    @classmethod
    def _bounds(cls, value):
        if not -89 <= value[0] <= value[1] <= 89:
            raise ValueError("give the lower bound first, both between -89 and 89")
        return value


class ProjectionsSource:
    """Integrates the attenuation of a CT along the rays of each detector pixel and writes grey pictures.

    Below ``out_dir``: images/<id>.png and truth/truth.json. A picture has 8 bits. For the line integral p that means
    steps of white / 255 everywhere (attenuation), or of e^p / 255 (transmission): 0.2 behind 200 mm of water, and
    nothing to tell behind 310 mm.
    """

    def __init__(self, config: ProjectionsSourceConfig):
        self.config = config

    def read(self, out_dir: Path, progress: Progress) -> FrameSet:
        """Raises InputError for a volume that cannot be used or shows nothing."""
        from medrecon.images import write_png
        from medrecon.ingest.drr import Projector

        c, out_dir = self.config, Path(out_dir)
        path = self._volume_path()
        volume = self._volume(path)
        camera, poses = self._geometry(volume)
        projector = None
        frames = []
        progress.begin(len(poses), "projections")
        for i, pose in enumerate(poses):
            name = f"{i:06d}"
            image_path = out_dir / "images" / f"{name}.png"
            if not image_path.is_file():  # a killed run left it whole
                projector = projector or Projector(volume)
                write_png(image_path, self._grey(projector.picture(camera, pose, c.supersample), i))
            known = {"camera": camera, "cam_from_world_mm": pose} if c.known_poses else {}
            frames.append(Frame(i, name, image_path, *c.image_size_px, **known))
            progress.advance()
        truth_path = out_dir / "truth" / "truth.json"
        Truth(
            cameras=dict.fromkeys(range(len(poses)), camera),
            cam_from_world_mm=dict(enumerate(poses)),
            volume_path=path.resolve(),
        ).save(truth_path)
        return FrameSet(
            tuple(frames),
            f"{len(frames)} radiographs computed from a CT",
            ordered=True,
            truth_path=truth_path,
            notes=(self._note(), *volume.notes),
        ).validate()

    def _volume_path(self) -> Path:
        if str(self.config.path).startswith("builtin:"):
            from medrecon.assets.demo import builtin_volume

            return builtin_volume(str(self.config.path).removeprefix("builtin:"))
        return self.config.path

    def _volume(self, path: Path) -> Volume:
        """Attenuation in 1/mm."""
        from medrecon.ingest.body import remove_table
        from medrecon.ingest.drr import attenuation_of_hounsfield

        c = self.config
        volume = load_volume(path, c.frame, c.assume_ras, c.series)
        if volume.data.min() > -500:
            raise InputError(
                f"the volume's smallest value is {float(volume.data.min()):g}: this is no CT in Hounsfield units, "
                "where air is -1000",
                "give a CT; MR and label volumes say nothing about X-rays",
            )
        volume = attenuation_of_hounsfield(remove_table(volume) if c.crop == "body" else volume, c.water_per_mm)
        if volume.data.max() * max(volume.data.shape) * max(volume.spacing_mm) < LEAST_WATER_MM * c.water_per_mm:
            raise InputError("the volume holds nothing but air", "choose another volume")
        return volume

    def _geometry(self, volume: Volume) -> tuple[Camera, list[Rigid3]]:
        from medrecon.ingest.view_paths import orbit

        c = self.config
        shape = np.array(volume.data.shape)
        corners = (np.indices((2, 2, 2)).reshape(3, 8).T * shape - 0.5) @ volume.ras_from_ijk_mm[:3, :3].T
        corners += volume.ras_from_ijk_mm[:3, 3]
        center = corners.mean(0) if c.center_mm is None else np.array(c.center_mm, np.float64)
        poses = orbit(center, c.distance_mm, c.n_views, c.arc_deg / 360, c.elevation_deg, 1.0, c.start_deg)
        width, height = c.image_size_px
        if c.field_mm is not None:
            focal = min(width, height) / c.field_mm * c.distance_mm
        else:
            focal = np.inf
            for pose in poses:
                x, y, z = pose.apply(corners).T
                if z.min() <= 0:
                    raise InputError(
                        f"the volume reaches to the X-ray source, {c.distance_mm:g} mm from the centre",
                        "raise source.distance_mm",
                    )
                focal = min(focal, width / 2 / np.abs(x / z).max(), height / 2 / np.abs(y / z).max())
        return Camera("PINHOLE", width, height, (float(focal), float(focal), width / 2, height / 2)).validate(), poses

    def _grey(self, line_integral: np.ndarray, index: int) -> np.ndarray:
        """float32 [H, W] -> uint8: noise, then what brightness stands for; each view has its own generator."""
        c = self.config
        light = np.exp(-line_integral.astype(np.float64))
        if c.photons is not None:
            random = np.random.default_rng([c.seed, index])
            # A pixel without a photon is taken for one that got half of one: its logarithm is finite.
            light = np.maximum(random.poisson(light * c.photons), 0.5) / c.photons
        level = light if c.intensity == "transmission" else -np.log(light) / c.white
        return np.clip(np.rint(255 * level), 0, 255).astype(np.uint8)

    def _note(self) -> str:
        c = self.config
        white = f", white = {c.white:g}" if c.intensity == "attenuation" else ""
        return (
            f"computed: {c.arc_deg:g} deg at {c.distance_mm:g} mm, water {c.water_per_mm:g}/mm, {c.intensity}{white}; "
            + ("poses given" if c.known_poses else "poses withheld")
        )
