# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: each says what went wrong and what to try, and knows its exit code."""


class MedreconError(Exception):
    """Base of every error that medrecon raises on purpose.

    Args:
        cause: what went wrong, naming the file, key or value.
        remedy: what the user can try.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = ""):
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause}\n  try: {self.remedy}" if self.remedy else self.cause


class ConfigError(MedreconError):
    """The configuration cannot be used as written."""

    exit_code = 2


class InputError(MedreconError):
    """The images, volume or files given cannot be used."""

    exit_code = 3


class StageError(MedreconError):
    """A stage could not produce its result from valid input."""

    exit_code = 4


class TeamError(StageError):
    """Another process of the same run failed or is gone."""


class PluginError(MedreconError):
    """A plugin is broken, missing or breaks its contract."""

    exit_code = 5


class AssetError(InputError):
    """A weight or data set is missing, unreachable or has the wrong hash."""


def interrupted() -> int:
    """The exit code after Ctrl-C, 130, made sure of.

    CPython notes a KeyboardInterrupt that passes through ``exec`` of a string (dataclasses and named tuples are made
    so, as modules load) as unhandled even where it is caught, and then ends the process by the signal instead of with
    its exit code. Another ``exec`` takes the note back.
    """
    exec("")
    return 130
