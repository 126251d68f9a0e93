# SPDX-License-Identifier: Apache-2.0
"""Training on a machine with torch and numpy alone: python -m medrecon.training superpoint|superglue|evaluate.

`medrecon train` is the same with YAML, where medrecon is installed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from medrecon.errors import ConfigError, MedreconError, interrupted
from medrecon.training import evaluate, kinds
from medrecon.training.settings import Schedule, override


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, that of a ``MedreconError`` (2 settings, 3 input, 4 training), or 130 after Ctrl-C."""
    given = _parser().parse_args(arguments)
    say = lambda text: print(text, flush=True)
    try:
        device = pick_device(given.device)
        torch.set_float32_matmul_precision("high")  # TF32 on a GPU; a CPU ignores it
        if given.threads:
            torch.set_num_threads(given.threads)
        if given.kind == "evaluate":
            evaluate.from_arguments(given, device, say)
        else:
            settings, schedule = _settings(given)
            kinds.runner(given.kind)(settings, schedule, given.data, given.out, device, say, cache=given.cache)
    except MedreconError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return interrupted()
    return 0


def pick_device(name: str) -> torch.device:
    """ "auto": the GPU where there is one.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("--device cuda: there is no CUDA GPU here", "give --device auto")
    return torch.device(name)


def _settings(given: argparse.Namespace) -> tuple[object, Schedule]:
    """Defaults, then ``--set``; keys that begin with "schedule." are the schedule's."""
    own = [word for word in given.set if not word.startswith("schedule.")]
    if given.kind == "superglue":
        own.append(f"superpoint={given.superpoint}")
    settings = override(kinds.settings_class(given.kind)(), own)
    length = {"steps": given.steps, "minutes": given.minutes} if given.steps or given.minutes else {}
    schedule = Schedule(**length)
    return settings, override(schedule, [w.removeprefix("schedule.") for w in given.set if w not in own])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medrecon.training", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="kind", required=True)
    for kind in kinds.KINDS:
        command = commands.add_parser(kind, help=f"train {kind}, or go on with the training in OUT")
        command.add_argument("--data", type=Path, required=True, help="folder of shards")
        command.add_argument("--out", type=Path, required=True, help="folder of the training")
        length = command.add_mutually_exclusive_group()
        length.add_argument("--minutes", type=float, help="training time; the default is the schedule's")
        length.add_argument("--steps", type=int, help="optimiser steps; then the result does not depend on the time")
        command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting")
        command.add_argument("--cache", type=Path, help="folder of rendered views; default: for temporary files")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")
        if kind == "superglue":
            command.add_argument("--superpoint", type=Path, required=True, help="superpoint.safetensors")
    evaluate.add_arguments(commands.add_parser("evaluate", help="judge weights on another split"))
    for command in commands.choices.values():
        command.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as torch has them")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
