# SPDX-License-Identifier: Apache-2.0
"""How long and how a training runs: frozen dataclasses of the standard library, and named overrides for them.

Every field is a number, a word, a flag, a tuple of those or another such dataclass, so that settings travel through
JSON, YAML, the command line and a checkpoint without anything that the machine with the GPU does not have.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from medrecon.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """Length of a training and what happens on the way; exactly one of ``steps`` and ``minutes`` is set.

    Attributes:
        steps: optimiser steps; the training is then determined by its settings.
        minutes: training time including validation; the learning rate follows the time that has passed.
        warmup: share of the training in which the learning rate rises linearly; then it falls as a cosine to
            ``final_rate`` of its height.
        final_rate: share of the learning rate that is left at the end.
        betas: of AdamW.
        clip: greatest norm of the gradient over all parameters.
        log_every: steps from one line of the curves to the next.
        validations: how often the networks are judged, at equal shares of the training.
        checkpoint_s: greatest time between two checkpoints.
        precision: of convolutions and products: bf16, fp32, or auto, bf16 where the machine is fast at it.
    """

    steps: int | None = None
    minutes: float | None = 25.0
    warmup: float = 0.06
    final_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 2.0
    log_every: int = 50
    validations: int = 12
    checkpoint_s: float = 25.0
    precision: str = "auto"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ConfigError("a training has either steps or minutes", "set one of them, and the other to none")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ConfigError(f"precision {self.precision!r}", "one of: auto, bf16, fp32")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and not self.minutes > 0):
            raise ConfigError("a training needs at least one step", "give --steps or --minutes more than 0")
        if not 0 <= self.warmup < 1 or not 0 <= self.final_rate <= 1 or self.log_every < 1 or self.validations < 0:
            raise ConfigError(
                "warmup must be in 0..1 (not 1), final_rate in 0..1, log_every at least 1, validations at least 0",
                "correct the schedule",
            )


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """A dataclass as {"inner.field": value}, tuples as lists: what a checkpoint stores and a resumed run compares."""
    out: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            out |= flat(value, f"{prefix}{field.name}.")
        else:
            out[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return out


def override(settings: T, assignments: typing.Iterable[str]) -> T:
    """Copy of a dataclass with "inner.field=value" words applied, each value read as the field's type asks.

    Raises:
        ConfigError: a word without "=", an unknown key, or a value of another type; names the key.
    """
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not key=value", "write for example learning_rate=0.001")
        settings = _set(settings, key.strip(), text.strip(), key.strip())
    return settings


def _set(settings: Any, path: str, text: str, key: str) -> Any:
    name, _, rest = path.partition(".")
    kinds = typing.get_type_hints(type(settings))
    if name not in kinds:
        raise ConfigError(f"unknown key {key!r}", "one of: " + ", ".join(f.name for f in fields(settings)))
    if rest:
        inner = getattr(settings, name)
        if not dataclasses.is_dataclass(inner):
            raise ConfigError(f"unknown key {key!r}", f"{name} has no parts")
        return dataclasses.replace(settings, **{name: _set(inner, rest, text, key)})
    try:
        value = _read(text, kinds[name])
    except (ValueError, KeyError) as e:
        raise ConfigError(f"{key}: {text!r} is not a {_words(kinds[name])}", "correct the value") from e
    return dataclasses.replace(settings, **{name: value})


def _read(text: str, kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        raise ValueError("has parts")
    choices = typing.get_args(kind)
    if type(None) in choices:
        if text.lower() in ("none", "null", ""):
            return None
        return _read(text, next(c for c in choices if c is not type(None)))
    if typing.get_origin(kind) is tuple:
        parts = [p for p in text.strip("()[]").split(",") if p.strip()]
        kinds = [choices[0]] * len(parts) if choices[-1] is Ellipsis else list(choices)
        if len(parts) != len(kinds):
            raise ValueError("another length")
        return tuple(_read(p.strip(), k) for p, k in zip(parts, kinds))
    if kind is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    return kind(text)


def _words(kind: Any) -> str:
    return getattr(kind, "__name__", None) if isinstance(kind, type) else str(kind)
