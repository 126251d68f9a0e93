# SPDX-License-Identifier: Apache-2.0
"""The pairs of pictures of a benchmark, on disk: drawn once per configuration, then read pair by pair."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medrecon.bench.geometry import DepthPair, HomographyPair, PairTruth, with_hidden
from medrecon.errors import InputError
from medrecon.images import cv2, read_mask, read_rgb, to_grey, write_png
from medrecon.types import Camera, Rigid3
from medrecon.types.storage import read_json, read_npz, write_json, write_npz

BLACK = 8  # grey level


@dataclass(frozen=True, slots=True)
class Case:
    """One pair.

    Attributes:
        name: unique in its set.
        group: row of the tables it counts in: "views", "homography", "modality" or "sweep".
        subject: what is shown ("chest-ct bone", "retina").
        variation: what changes between a and b ("viewpoint", "noise", "bone to vessels").
        strength: how much, in the unit of ``degrade.STRENGTH``; None where there is no scale.
        seed: which draw; the spread of the figures is over seeds.
        image_a, image_b: file names below the set's images/.
        truth: file name below the set's truth/.
    """

    name: str
    group: str
    subject: str
    variation: str
    strength: float | None
    seed: int
    image_a: str
    image_b: str
    truth: str


class CaseFolder:
    """Writes and reads cases below one folder: images/*.png, masks/*.png (255 = use), truth/*.npz, cases.json.

    A picture's file name is the hash of its pixels and mask, so equal pictures are kept, and later described, once.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    # -- writing ---------------------------------------------------------------------------------------------------
    def put_image(self, image: np.ndarray, mask: np.ndarray | None = None) -> str:
        """Name of the picture: uint8 [H, W, 3], mask bool [H, W], True = may hold keypoints."""
        h = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        if mask is not None:
            h.update(np.ascontiguousarray(mask).tobytes())
        name = h.hexdigest()[:20]
        path = self.root / "images" / f"{name}.png"
        if not path.is_file():
            if mask is not None:
                write_png(self.root / "masks" / f"{name}.png", mask)
            write_png(path, image)
        return name

    def put_depth(self, camera: Camera, pose: Rigid3, depth: np.ndarray) -> str:
        """Name of one view's truth: pose ``cam_from_world`` in mm and z-depth float32 [H, W] in mm."""
        h = hashlib.sha256(repr(camera).encode() + pose.matrix().tobytes() + depth.tobytes()).hexdigest()[:20]
        path = self.root / "truth" / f"view-{h}.npz"
        if not path.is_file():
            facts = np.array([camera.width_px, camera.height_px, *camera.params], np.float64)
            write_npz(path, {"camera": facts, "cam_from_world": pose.matrix(), "depth_mm": depth})
        return path.stem

    def put_pair(self, name: str, **arrays: Any) -> str:
        """Truth of a pair, see ``truth``."""
        given = {k: np.asarray(v) for k, v in arrays.items() if v is not None}
        write_npz(self.root / "truth" / f"{name}.npz", given)
        return name

    def drawn(self, name: str, draw: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """What ``draw`` gives, kept until the folder is finished: a kill does not cost renderings."""
        path = self.root / "drawn" / f"{name}.npz"
        if not path.is_file():
            write_npz(path, draw())
        return read_npz(path)

    def finish(self, cases: list[Case]) -> None:
        """The list of cases, last: it says that everything is there."""
        shutil.rmtree(self.root / "drawn", ignore_errors=True)
        write_json(self.root / "cases.json", [{k: getattr(c, k) for k in Case.__slots__} for c in cases])

    # -- reading ---------------------------------------------------------------------------------------------------
    def cases(self) -> list[Case]:
        return [Case(**c) for c in read_json(self.root / "cases.json")]

    def complete(self) -> bool:
        return (self.root / "cases.json").is_file()

    def image(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """uint8 [H, W, 3] and mask bool [H, W] or None."""
        mask = self.root / "masks" / f"{name}.png"
        return read_rgb(self.root / "images" / f"{name}.png"), read_mask(mask) if mask.is_file() else None

    def truth(self, case: Case) -> PairTruth:
        """Raises InputError for a damaged folder."""
        z = read_npz(self.root / "truth" / f"{case.truth}.npz")
        hidden = z.get("hidden_b")
        if "b_from_a" in z:
            size_a, size_b = (tuple(int(n) for n in z[k]) for k in ("size_a", "size_b"))
            return HomographyPair(z["b_from_a"], size_a, size_b, z.get("valid_b"), hidden)
        if "view_a" not in z:
            raise InputError(f"{case.truth} holds no truth", "delete the folder of cases and run again")
        a, b = (read_npz(self.root / "truth" / f"{z[k]}.npz") for k in ("view_a", "view_b"))
        camera = Camera("PINHOLE", int(a["camera"][0]), int(a["camera"][1]), tuple(float(p) for p in a["camera"][2:]))
        poses = (Rigid3.from_matrix(v["cam_from_world"]) for v in (a, b))
        return with_hidden(DepthPair(camera, *poses, a["depth_mm"], b["depth_mm"]), hidden)


def object_region(image: np.ndarray, mask: np.ndarray | None, truth: PairTruth) -> np.ndarray:
    """bool [H, W]: where picture a of a pair shows something that keypoints could lie on.

    Where the depth is known, or, in a flat picture, inside the mask and not in the black round it (the mean of 9 x 9
    pixels is above ``BLACK``).
    """
    if isinstance(truth, DepthPair):
        return truth.depth_a > 0
    bright = cv2.blur(to_grey(image), (9, 9)) > BLACK
    return bright if mask is None else bright & mask


def prepare_cases(root: Path, key: str, make: Callable[[CaseFolder], list[Case]]) -> CaseFolder:
    """The folder of cases for ``key`` below ``root``: as it is when complete, else made (again)."""
    folder = CaseFolder(root / key[:16])
    if not folder.complete():
        folder.finish(make(folder))
    return folder
