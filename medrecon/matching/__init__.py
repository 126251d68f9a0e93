# SPDX-License-Identifier: Apache-2.0
"""Which pairs to match, matching them, and verifying the matches by two-view geometry."""


def __getattr__(name: str):
    """``match_all`` on demand (PEP 562), so that importing the package stays light."""
    if name == "match_all":
        from medrecon.matching.match import match_all

        return match_all
    if name == "VerificationConfig":
        from medrecon.matching.verification import VerificationConfig

        return VerificationConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
