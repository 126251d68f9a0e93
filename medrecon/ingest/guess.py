# SPDX-License-Identifier: Apache-2.0
"""Which source reads a path that a user just points at."""

from __future__ import annotations

from pathlib import Path

from medrecon.errors import InputError

IMAGES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv"}
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr")


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        return False


def guess_source(path: Path) -> str:
    """Name of the source component for a file or folder.

    Raises:
        InputError: nothing there, or nothing that looks like pictures.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    if path.is_file():
        name = path.name.lower()
        if name.endswith(VOLUMES):
            return "views"
        if path.suffix.lower() in VIDEOS:
            return "video"
        if _is_dicom(path):
            return "dicom"
        if path.suffix.lower() in IMAGES:
            raise InputError(f"{path.name} is a single picture", "give the folder that holds all the views")
        raise InputError(
            f"{path.name} is no video, DICOM file or volume that is known",
            "say what it is: -o source.name=video (or dicom, views, image-folder)",
        )
    try:
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}", "check its permissions") from e
    if not files:
        raise InputError(f"{path} is empty", "give a folder with pictures or DICOM files")
    if any(p.suffix.lower() in IMAGES for p in path.iterdir()):
        return "image-folder"
    if any(_is_dicom(p) for p in files[:50]):
        return "dicom"
    raise InputError(
        f"{path} holds no pictures ({', '.join(sorted(IMAGES))}) and no DICOM files",
        "give the folder that holds the pictures directly",
    )
