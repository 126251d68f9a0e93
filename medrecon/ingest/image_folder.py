# SPDX-License-Identifier: Apache-2.0
"""Source `image-folder`: 8- and 16-bit PNG, JPEG, TIFF and BMP pictures in natural order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import medrecon.images  # noqa: F401  (cv2 first, see there)

import cv2  # isort: skip
import numpy as np
from pydantic import Field, model_validator

from medrecon.errors import InputError
from medrecon.ingest.natural_order import natural_key
from medrecon.ingest.pictures import PictureSourceConfig, PictureWriter, pick, quiet_opencv, to_uint8
from medrecon.ingest.poses_file import KnownPoses, read_poses
from medrecon.progress import Progress
from medrecon.types import DroppedFrame, Frame, FrameSet

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 2**28  # one picture; a header that claims more is taken for broken


class ImageFolderSourceConfig(PictureSourceConfig):
    ordered: bool = Field(True, description="file names follow time or the camera's path; false for a loose collection")
    masks_path: Path | None = Field(
        None, description="folder of masks with the pictures' file names (any suffix); white = use, black = ignore"
    )
    poses_path: Path | None = Field(
        None, description="transforms.json (nerfstudio, instant-ngp) with known camera poses and intrinsics"
    )
    poses_unit_mm: float = Field(1.0, gt=0, description="millimetres per unit of length in poses_path")
    percentiles: tuple[float, float] = Field(
        (0.5, 99.5), description="16-bit pictures: percentiles over the whole set that become black and white"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "ImageFolderSourceConfig":
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError("percentiles must be [low, high] with 0 <= low < high <= 100")
        return self


class ImageFolderSource:
    """Pictures of one folder. File names, which may name a patient, go no further: frames are numbered."""

    def __init__(self, config: ImageFolderSourceConfig):
        self.config = config

    def read(self, out_dir: Path, progress: Progress) -> FrameSet:
        """Write the pictures below ``out_dir``; unreadable ones are dropped with their reason.

        Raises:
            InputError: no folder, no pictures, none can be decoded, or masks and poses do not fit.
            StageError: the run folder cannot be written to.
        """
        config = self.config
        pages = list(_pages(list_pictures(config.path)))
        chosen = pick(range(len(pages)), config.stride, config.max_frames)
        masks = _masks(config.masks_path)
        poses = None if config.poses_path is None else read_poses(config.poses_path, config.poses_unit_mm)
        progress.begin(len(chosen), "pictures")
        window, window_note = self._window([pages[i] for i in chosen])
        writer = PictureWriter(out_dir, config)
        frames, dropped = [], []
        n_masks = 0
        for i in chosen:
            path, page = pages[i]
            try:
                image = read_picture(path, page)
            except InputError as e:
                dropped.append(DroppedFrame(i, f"{i:06d}", e.cause))
                progress.say(f"picture {i + 1} of {len(pages)} left out: {e.cause}")
                progress.advance()
                continue
            if image.dtype == np.uint16:
                image = to_uint8(image, *window)
            mask = _mask_for(masks, path, image, i + 1)
            n_masks += mask is not None
            frames.append(self._write(writer, i, image, mask, poses, path))
            progress.advance()
        if not frames:
            raise InputError(
                f"none of the {len(chosen)} pictures can be decoded: {dropped[0].reason}",
                "open one in a viewer; export them again as PNG, JPEG, TIFF or BMP",
            )
        notes = window_note + writer.notes()
        if masks is not None:
            if not n_masks:
                raise InputError(
                    f"none of the {len(masks)} masks carries the file name of a picture",
                    "name each mask like its picture (any suffix), in the folder given as masks_path",
                )
            notes.append(f"{n_masks} of {len(frames)} pictures have a user mask")
        if poses is not None:
            n_poses = sum(f.cam_from_world_mm is not None for f in frames)
            if not n_poses:
                raise InputError(
                    "poses_path names none of the pictures", "its file_path entries must end in the pictures' names"
                )
            notes.append(f"{n_poses} of {len(frames)} pictures have a known pose")
        if dropped:
            notes.append(f"{len(dropped)} of {len(chosen)} pictures could not be decoded")
        return FrameSet(
            tuple(frames), f"folder of {len(pages)} pictures", config.ordered, tuple(dropped), None, tuple(notes)
        ).validate()

    def _write(
        self,
        writer: PictureWriter,
        frame_id: int,
        image: np.ndarray,
        mask: np.ndarray | None,
        poses: KnownPoses | None,
        path: Path,
    ) -> Frame:
        height, width = image.shape[:2]
        known = {} if poses is None else poses.of(path, width, height)
        return writer.write(frame_id, image, mask=mask, **known)

    def _window(self, pages: list[tuple[Path, int]]) -> tuple[tuple[float, float], list[str]]:
        """One grey window for all 16-bit pictures, so that brightness stays comparable between them."""
        counts = np.zeros(65536, np.int64)
        n = 0
        for path, page in pages:
            if path.suffix.lower() not in (".png", ".tif", ".tiff"):
                continue
            try:
                image = read_picture(path, page)
            except InputError:
                continue  # told when it is read for good
            if image.dtype == np.uint16:
                counts += np.bincount(image.ravel(), minlength=65536)
                n += 1
        if not n:
            return (0.0, 65535.0), []
        share = np.cumsum(counts) / counts.sum() * 100
        low, high = (int(np.searchsorted(share, p)) for p in self.config.percentiles)
        high = min(max(high, low + 1), 65535)
        return (float(low), float(high)), [
            f"16-bit values {low} to {high} (percentiles {self.config.percentiles[0]:g} and "
            f"{self.config.percentiles[1]:g} of the set) shown as 0 to 255 in {n} pictures"
        ]


def list_pictures(folder: Path) -> list[Path]:
    """Picture files directly in the folder, in natural order.  Raises InputError."""
    try:
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.is_file() else "does not exist"
            raise InputError(f"the path of the image folder {what}", "give the folder that holds the pictures")
        entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
        files = [p for p in entries if p.suffix.lower() in SUFFIXES and p.is_file()]
        folders = sum(p.is_dir() for p in entries)
    except PermissionError:
        raise InputError("the image folder may not be read", "give yourself read permission on it") from None
    except OSError as e:
        raise InputError(f"the image folder cannot be read: {e.strerror}", "check the path and the drive") from None
    if not files:
        dicom = any(p.suffix.lower() in (".dcm", ".ima") for p in entries)
        hint = "use the dicom source for DICOM files" if dicom else "it must hold " + ", ".join(SUFFIXES) + " files"
        raise InputError(
            f"the folder holds no pictures ({len(entries) - folders} other files, {folders} folders)",
            hint + ("; give one of its folders" if folders and not dicom else ""),
        )
    return sorted(files, key=lambda p: (natural_key(Path(p.name)), p.name))


def _pages(files: list[Path]) -> Iterator[tuple[Path, int]]:
    """(file, page): a TIFF may hold a stack."""
    for path in files:
        n = 1
        if path.suffix.lower() in (".tif", ".tiff"):
            try:
                with quiet_opencv():
                    n = max(1, cv2.imcount(str(path)))
            except cv2.error:
                n = 1
        for page in range(n):
            yield path, page


def read_picture(path: Path, page: int = 0) -> np.ndarray:
    """uint8 or uint16 [H, W] or [H, W, 3] RGB, turned upright by its EXIF tag, without alpha.

    Raises:
        InputError: why it cannot be used; the file is not named.
    """
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # unlike IMREAD_UNCHANGED this honours EXIF
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as e:
        raise InputError(f"the file cannot be read ({e.strerror or 'input/output error'})", "check the drive") from None
    if not data.size:
        raise InputError("the file is empty", "export it again")
    width, height = _claimed_size(data)
    if width * height > MAX_PIXELS:
        raise InputError(f"the header claims {width}x{height} px, which cannot be right", "export it again")
    try:
        with quiet_opencv():
            if page:
                ok, pages = cv2.imdecodemulti(data, flags, range=(page, page + 1))
                image = pages[0] if ok and len(pages) else None
            else:
                image = cv2.imdecode(data, flags)
    except (cv2.error, MemoryError):
        image = None
    if image is None or image.size == 0:
        raise InputError("it is damaged, cut off or not a picture", "export it again")
    if image.dtype not in (np.uint8, np.uint16):
        bad = np.issubdtype(image.dtype, np.floating) and not np.isfinite(image).all()
        raise InputError(
            f"its values are {image.dtype}{' with NaN or infinity' if bad else ''}, not 8- or 16-bit integers",
            "convert it to 16-bit first",
        )
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _claimed_size(data: np.ndarray) -> tuple[int, int]:
    """Size in a PNG or BMP header, read before the decoder allocates memory for it; (0, 0) for other formats."""
    head = data[:26].tobytes()
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    if head[:2] == b"BM" and len(head) >= 26:
        size = [abs(int.from_bytes(head[i : i + 4], "little", signed=True)) for i in (18, 22)]
        return size[0], size[1]
    return 0, 0


def _masks(folder: Path | None) -> dict[str, Path] | None:
    if folder is None:
        return None
    try:
        return {p.stem: p for p in list_pictures(folder)}
    except InputError as e:
        raise InputError(f"masks_path: {e.cause}", e.remedy) from None


def _mask_for(masks: dict[str, Path] | None, path: Path, image: np.ndarray, number: int) -> np.ndarray | None:
    if masks is None or path.stem not in masks:
        return None
    try:
        mask = read_picture(masks[path.stem])
    except InputError as e:
        raise InputError(f"the mask of picture {number} cannot be used: {e.cause}", "export it again") from None
    if mask.shape[:2] != image.shape[:2]:
        raise InputError(
            f"the mask of picture {number} is {mask.shape[1]}x{mask.shape[0]} px, the picture "
            f"{image.shape[1]}x{image.shape[0]}",
            "export masks at the size of their pictures",
        )
    grey = mask if mask.ndim == 2 else mask.max(axis=2)
    return grey > np.iinfo(grey.dtype).max // 2
