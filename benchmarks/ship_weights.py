# SPDX-License-Identifier: Apache-2.0
"""Puts trained weights into the package: experimental, unless results of the benchmark meet the rule for a default.

FILE.safetensors is what the training exports, with FILE.json and the model card FILE.md beside it. With --results the
row of `medrecon bench matching` that was measured with these very files decides whether they are experimental. The rule
is about both together: a SuperPoint without a SuperGlue ships as experimental.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medrecon.assets.shipped import FOLDER, ship
from medrecon.assets.store import sha256_of
from medrecon.bench.methods import OURS
from medrecon.bench.shipping_rule import judge, read_results
from medrecon.errors import InputError, MedreconError
from medrecon.matching.superglue import SuperglueMatcherConfig

CITATIONS = {
    "superpoint": "DeTone et al., SuperPoint: Self-Supervised Interest Point Detection and Description, CVPRW 2018",
    "superglue": "Sarlin et al., SuperGlue: Learning Feature Matching with Graph Neural Networks, CVPR 2020",
}
SUMMARIES = {
    "superpoint": "SuperPoint trained on anatomy (extractor `superpoint`)",
    "superglue": "SuperGlue trained on anatomy, for superpoint-medrecon (matcher `superglue`)",
}


def main(arguments: list[str] | None = None) -> None:
    """Copies, and says what became of the rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superpoint", type=Path, required=True, metavar="FILE.safetensors")
    parser.add_argument("--superglue", type=Path, metavar="FILE.safetensors")
    parser.add_argument("--results", type=Path, help="results.json of medrecon bench matching")
    parser.add_argument("--ours", default=OURS, help="its row that was measured with these files")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    files = {"superpoint": options.superpoint}
    if options.superglue:
        files["superglue"] = options.superglue
    elif options.results:
        parser.error("--results decides about both: give --superglue too")
    try:
        experimental = options.results is None or not decided(options.results, options.ours, list(files.values()))
        for name, file in files.items():
            entry = ship(file, f"{name}-medrecon", SUMMARIES[name], CITATIONS[name], experimental, options.folder)
            words = "experimental" if experimental else "no longer experimental"
            print(f"{entry.name}: {entry.size_bytes / 1e6:.1f} MB, {words}")
    except MedreconError as e:
        raise SystemExit(f"error: {e}") from e


def decided(results: Path, ours: str, files: list[Path]) -> bool:
    """Whether the rule is met by these files.

    Args:
        files: of SuperPoint and of SuperGlue.

    Raises:
        InputError: the row was measured with others, or with another threshold of matches than SuperGlue's own.
    """
    content = read_results(results)
    verdict = judge(content, ours)
    print(verdict.table)
    print(verdict.text())
    if sorted(map(sha256_of, files)) != list(verdict.weights_sha256):
        raise InputError(f"{ours} was not measured with these files", "measure them: medrecon bench matching")
    # The threshold lies in the .json, which the hashes do not cover, and an option may overrule it.
    (taken,) = (m["matcher"].get("match_threshold") for m in content["methods"] if m["name"] == ours)
    own = SuperglueMatcherConfig(weights=files[1]).settled().match_threshold
    if taken != own:
        raise InputError(
            f"{ours} was measured with match_threshold {taken}, not with {own}", "measure it without options"
        )
    return verdict.met


if __name__ == "__main__":
    main()
