# SPDX-License-Identifier: Apache-2.0
"""The ``medrecon`` command: parses, calls the public API, prints."""

from __future__ import annotations

import signal
import sys
import time


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Every failure is one message and a meaningful exit code; ``--debug`` shows the traceback."""
    from medrecon.errors import InputError, MedreconError

    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        from medrecon.cli.app import build

        code = build()(args=arguments, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            return _interrupted()
        return code if isinstance(code, int) else 0
    except MedreconError as e:
        if debug:
            raise
        _let_the_first_speak()
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except PermissionError as e:
        if debug:
            raise
        remedy = "give yourself the right to read or write it, and to enter the folders above it"
        print(f"error: permission denied: {e.filename}\n  try: {remedy}", file=sys.stderr)
        return InputError.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as e:
        import typer

        if type(e).__name__ == "Abort":
            return _interrupted()
        if type(e).__name__ == "Exit":
            return int(getattr(e, "exit_code", 0))
        if hasattr(e, "show") and hasattr(e, "exit_code"):  # click's usage errors
            e.show()
            return 2
        if debug or isinstance(e, typer.Exit):
            raise
        _let_the_first_speak()
        print(f"error: {type(e).__name__}: {e}\n  try: the same command with --debug, and report it", file=sys.stderr)
        return 1


def _let_the_first_speak() -> None:
    """In processes beside the first that torchrun started: an error of one is an error of the first, which says it;
    torchrun then ends the others, here.
    """
    from medrecon.pipeline import processes

    if processes.rank():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(30)


def _interrupted() -> int:
    from medrecon.errors import interrupted
    from medrecon.pipeline import processes

    if not processes.rank():
        print("interrupted: what was finished is kept; run the same command again to go on", file=sys.stderr)
    return interrupted()


def entry() -> None:
    sys.exit(main())
