# SPDX-License-Identifier: Apache-2.0
"""A sequence so small that SIFT, a field and its views take seconds."""

from pathlib import Path

import yaml

from medrecon.bench.methods import parse
from medrecon.bench.suite.sequences import load_sequences
from medrecon.bench.suite.street import SuiteOptions

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published"
SIFT = "sift+nearest-neighbour"
ORBIT = {
    "title": "an orbit",
    "run": {
        "preset": "orbit",
        "source": {
            "name": "views", "path": "builtin:chest-ct", "n_views": 12, "image_size_px": [256, 256], "supersample": 1,
            "camera_path": {"kind": "orbit", "loops": 0.08}, "known_intrinsics": True,
        },
        "scale": {"source": "truth-poses"},
    },
    "twins": {"noisy": {"source": {"noise_sigma": 8}}},
}  # fmt: skip


def orbit_options(folder: Path, *methods: str) -> SuiteOptions:
    """Options for ``methods`` (default: SIFT), results in folder/out."""
    (folder / "sequences").mkdir()
    (folder / "sequences" / "orbit.yaml").write_text(yaml.safe_dump(ORBIT))
    found, _ = load_sequences(folder / "sequences")
    parsed = tuple(parse(methods or (SIFT,), 1500, {}))
    return SuiteOptions(folder / "out", tuple(found), parsed, PUBLISHED, quick=True, threads=1)
