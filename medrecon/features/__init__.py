# SPDX-License-Identifier: Apache-2.0
"""Keypoints and descriptors: sift, surf, orb, and the stage that runs them over a set of frames."""


def __getattr__(name: str):
    """``extract_all`` on demand (PEP 562), so that importing the package stays light."""
    if name == "extract_all":
        from medrecon.features.extract import extract_all

        return extract_all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
