# SPDX-License-Identifier: Apache-2.0
"""``python -m medrecon.bench.speed``: what ``medrecon bench speed`` does, with only torch and numpy installed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from medrecon.bench.speed import report
from medrecon.bench.speed.measure import run
from medrecon.errors import MedreconError


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m medrecon.bench.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for results.json, results.md, plots; rows there are kept")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few turns")
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose op, kind or size contains this")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--headline", type=Path, metavar="FILE", help="only print the short table of these results")
    options = parser.parse_args(arguments)
    if options.headline:
        print(report.headline(json.loads(options.headline.read_text(encoding="utf-8"))), end="")
        return 0
    try:
        results = run(
            options.out, options.device, options.quick, options.only, options.threads, options.compile,
            lambda text: print(text, flush=True),
        )  # fmt: skip
    except MedreconError as error:
        print(error, file=sys.stderr)
        return 2
    if options.out:
        report.write(results, options.out)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
