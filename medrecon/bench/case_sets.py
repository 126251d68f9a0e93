# SPDX-License-Identifier: Apache-2.0
"""Which pairs the matching benchmark is made of: views, homographies, modality pairs, and sweeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medrecon.bench import degrade, planes, volumes
from medrecon.bench.cases import Case, CaseFolder
from medrecon.bench.volumes import Studio, VolumeChoice
from medrecon.progress import Progress

VERSION = 1  # part of the cache key: raise it when other pairs come out of the same settings
SWEEP_ANGLE_DEG = 15.0
# The same anatomy under another transfer function; bone to skin shares outlines only.
OTHER_TRANSFERS = {"bone": ("vessels", "skin"), "skin": ("bone",), "vessels": ("bone",)}


@dataclass(frozen=True, slots=True)
class CaseSettings:
    """How many pairs of what.

    Attributes:
        size_px: longer side of every picture.
        supersample: rays per pixel of the renderings.
        seeds: draws of everything random.
        anchors: first views per volume and seed.
        angles_deg: viewpoint changes.
        sweeps: strengths by name.
        homographies: warps per picture and seed.
        pictures: of a user's folder, at most.
    """

    size_px: int
    supersample: int
    seeds: int
    anchors: int
    angles_deg: tuple[float, ...]
    sweeps: dict[str, tuple[float, ...]]
    homographies: int
    pictures: int

    def facts(self) -> dict:
        return {"version": VERSION, **asdict(self)}


def settings(quick: bool, seeds: int) -> CaseSettings:
    """Of a quick look (well under two minutes with classical features) and of the full benchmark."""
    if quick:
        sweeps = {"noise": (20.0,), "blur": (2.0,), "illumination": (0.7,), "occlusion": (0.3,)}
        return CaseSettings(320, 1, seeds, 1, (10.0, SWEEP_ANGLE_DEG, 30.0), sweeps, 1, 2)
    sweeps = {
        "noise": (5.0, 10.0, 20.0, 40.0),
        "blur": (1.0, 2.0, 3.0, 4.0),
        "illumination": (0.25, 0.5, 0.75, 1.0),
        "occlusion": (0.1, 0.2, 0.4, 0.6),
    }
    return CaseSettings(480, 2, seeds, 2, (5.0, 10.0, SWEEP_ANGLE_DEG, 20.0, 30.0, 45.0, 60.0), sweeps, 2, 6)


def make_cases(
    folder: CaseFolder, s: CaseSettings, choices: tuple[VolumeChoice, ...], images: Path | None, progress: Progress
) -> list[Case]:
    """Render, warp and damage pictures into ``folder``.  Raises InputError for unusable volumes or pictures."""
    cases: list[Case] = []
    slices: dict[str, np.ndarray] = {}
    progress.begin(len(choices) * s.seeds * s.anchors, "view points")
    for n, choice in enumerate(choices):
        volume = volumes.load(choice)
        cases += _of_volume(folder, s, n, choice, volume, progress)
        cases += _slices_modality(folder, s, n, choice, volume)
        window = volumes.HU_WINDOWS["soft tissue window"] if volumes.is_hounsfield(volume) else None
        slices[f"{choice.subject.split()[0]} slice"] = volumes.axial_slice(volume, 0.5, window, s.size_px)
    found = {name: planes.read(path, s.size_px) for name, path in planes.scikit_pictures().items()}
    for name in planes.IN_SCIKIT_IMAGE.keys() - found.keys():
        progress.say(f"scikit-image was installed without its picture {name!r}: left out")
    if images is not None:
        found |= {n: planes.read(p, s.size_px) for n, p in planes.folder_pictures(images, s.pictures).items()}
    for name, image in {**slices, **found}.items():
        for seed in range(s.seeds):
            for k in range(s.homographies):
                random = _random(seed, "homography", name, k)
                cases.append(_warped(folder, "homography", name, "homography", seed, image, image, random, k))
    return cases


def _random(seed: int, *what: object) -> np.random.Generator:
    """A generator for one draw, independent of what else is drawn."""
    return np.random.default_rng([seed, *"|".join(map(str, what)).encode()])


def _of_volume(folder, s: CaseSettings, n: int, choice: VolumeChoice, volume, progress: Progress) -> list[Case]:
    """Views at every angle from each anchor, their damaged versions, and the anchor under other transfer functions."""
    subject, cases = choice.subject, []
    others = OTHER_TRANSFERS.get(choice.transfer, ()) if volumes.is_hounsfield(volume) else ()
    studio = Studio(volume, choice.transfer, s.size_px, s.supersample)
    other_studios = {t: Studio(volume, t, s.size_px, s.supersample) for t in others}
    for seed in range(s.seeds):
        for k in range(s.anchors):
            tag = f"v{n}-s{seed}-{k}"
            random = _random(seed, "views", n, k)
            direction = volumes.random_direction(random)
            pose_a = studio.pose(direction)
            image_a, depth_a = _view(folder, f"{tag}-a", studio, pose_a)
            a = folder.put_image(image_a), folder.put_depth(studio.camera, pose_a, depth_a)
            for angle in s.angles_deg:
                pose_b = studio.pose(volumes.turned(direction, angle, random), random.uniform(0.75, 1.0))
                image_b, depth_b = _view(folder, f"{tag}-{angle:g}", studio, pose_b)
                b = folder.put_image(image_b), folder.put_depth(studio.camera, pose_b, depth_b)
                truth = folder.put_pair(f"{tag}-{angle:g}", view_a=a[1], view_b=b[1])
                case = Case(f"{tag}-view-{angle:g}", "views", subject, "viewpoint", angle, seed, a[0], b[0], truth)
                cases.append(case)
                if angle == SWEEP_ANGLE_DEG:
                    cases += _sweeps(folder, s, tag, subject, seed, a, (image_b, b[1]), case)
            for other, lens in other_studios.items():
                what = f"{choice.transfer} to {other}"
                drawn = folder.drawn(f"{tag}-{other}", lambda lens=lens, pose=pose_a: {"image": lens.image(pose)})
                random_other = _random(seed, "modality", n, k, other)
                cases.append(
                    _warped(folder, "modality", subject, what, seed, image_a, drawn["image"], random_other, f"{n}-{k}")
                )
            progress.advance()
    return cases


def _view(folder: CaseFolder, name: str, studio: Studio, pose) -> tuple[np.ndarray, np.ndarray]:
    """Picture and depth from one pose."""
    made = folder.drawn(name, lambda: {"image": studio.image(pose), "depth": studio.depth(pose)})
    return made["image"], made["depth"]


def _sweeps(folder, s: CaseSettings, tag: str, subject: str, seed: int, a, b, base: Case) -> list[Case]:
    """One pair with its second picture damaged more and more, beginning with not at all; and inverted."""
    cases = []

    def add(group: str, kind: str, strength: float | None, image: np.ndarray, hidden: np.ndarray | None = None) -> None:
        name = f"{tag}-{kind}" + ("" if strength is None else f"-{strength:g}")
        truth = folder.put_pair(name, view_a=a[1], view_b=b[1], hidden_b=hidden)
        cases.append(Case(name, group, subject, kind, strength, seed, a[0], folder.put_image(image), truth))

    for kind, strengths in s.sweeps.items():
        add("sweep", kind, 0.0, b[0])
        for strength in strengths:
            done = {**_DAMAGE, "occlusion": degrade.occlude}[kind](b[0], strength, _random(seed, tag, kind, strength))
            add("sweep", kind, strength, *(done if isinstance(done, tuple) else (done,)))
    add("modality", "inverted view", None, degrade.invert(b[0]))
    return cases


_DAMAGE = {"noise": degrade.noise, "blur": degrade.blur, "illumination": degrade.illumination}


def _slices_modality(folder, s: CaseSettings, n: int, choice: VolumeChoice, volume) -> list[Case]:
    """The same slice under another window, and inverted (as MR weightings turn bright into dark), warped."""
    cases = []
    subject = f"{choice.subject.split()[0]} slice"
    hounsfield = volumes.is_hounsfield(volume)
    window = volumes.HU_WINDOWS["soft tissue window"] if hounsfield else None
    for seed in range(s.seeds):
        for k in range(s.anchors):
            random = _random(seed, "slice", n, k)
            height = random.uniform(0.3, 0.7)
            first = volumes.axial_slice(volume, height, window, s.size_px)
            others = {"inverted slice": degrade.invert(first)}
            if hounsfield:
                lung = volumes.axial_slice(volume, height, volumes.HU_WINDOWS["lung window"], s.size_px)
                others["soft tissue to lung window"] = lung
            for what, second in others.items():
                cases.append(_warped(folder, "modality", subject, what, seed, first, second, random, f"{n}-{k}"))
    return cases


def _warped(folder, group, subject, variation, seed, first, second, random, tag) -> Case:
    """``second`` lies pixel by pixel on ``first``; the pair is ``first`` and a warped ``second``."""
    h, w = first.shape[:2]
    image_b, truth = planes.warp(second, planes.random_homography((w, h), random))
    name = f"{group}-{subject}-{variation}-s{seed}-{tag}".replace(" ", "-")
    stored = folder.put_pair(
        name, b_from_a=truth.b_from_a, size_a=truth.size_a, size_b=truth.size_b, valid_b=truth.valid_b
    )
    a, b = folder.put_image(first), folder.put_image(image_b, truth.valid_b)
    return Case(name, group, subject, variation, None, seed, a, b, stored)
