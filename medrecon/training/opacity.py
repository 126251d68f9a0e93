# SPDX-License-Identifier: Apache-2.0
"""What of a volume a picture shows: random opacity ramps of a preset, random windows of a slice."""

from __future__ import annotations

import math

import torch

from medrecon.training.raycast import Ramp
from medrecon.training.shards import Shard

# name: low, width, opacity per mm, value at which the grey is brightest; in HU for CT, in parts of the brightest tissue
# for MR. Ranges are drawn from uniformly. The middles are the presets of medrecon.ingest.transfer_functions.
_CT_RAMPS = {
    "skin": ((-550, -250), (100, 250), (0.4, 1.0), (100, 400)),
    "bone": ((130, 280), (60, 200), (0.4, 1.0), (500, 1100)),
    "vessels": ((100, 170), (60, 220), (0.2, 0.9), (300, 600)),
    "airway": ((-720, -480), (100, 300), (0.3, 1.0), (0, 300)),
    "brain": ((5, 20), (10, 25), (0.2, 0.9), (50, 80)),
}
_MR_RAMPS = {
    "skin": ((0.08, 0.2), (0.05, 0.2), (0.3, 1.0), (0.5, 1.0)),
    "brain": ((0.3, 0.45), (0.08, 0.25), (0.2, 1.0), (0.8, 1.0)),
}
# Windows of CT slices in HU: centre, width; each is varied by a quarter.
_CT_WINDOWS = ((40, 400), (-550, 1500), (400, 1800), (60, 180), (0, 900))


def draw_ramp(shard: Shard, preset: str, draw: torch.Generator) -> tuple[Ramp, float]:
    """A ramp of the preset and the value of the brightest grey, in byte values of this shard."""
    low, width, alpha, top = (
        a + (b - a) * torch.rand(1, generator=draw).item()
        for a, b in (_CT_RAMPS if shard.meta.modality == "CT" else _MR_RAMPS)[preset]
    )
    start, end = shard.meta.value_range
    byte = lambda v: ((v if shard.meta.modality == "CT" else v * end) - start) / (end - start) * 255
    return Ramp(byte(low), byte(low + width), alpha), byte(top)


def draw_window(shard: Shard, draw: torch.Generator) -> tuple[float, float]:
    """Byte values that become black and white in a slice."""
    a, b, c = torch.rand(3, generator=draw).tolist()
    if shard.meta.modality == "MR":
        return 25 * a, 255 * (0.55 + 0.6 * b)
    centre, width = _CT_WINDOWS[int(c * len(_CT_WINDOWS))]
    width *= math.exp((a - 0.5) * 0.5)
    centre += (b - 0.5) * 0.25 * width
    start, end = shard.meta.value_range
    return tuple((v - start) / (end - start) * 255 for v in (centre - width / 2, centre + width / 2))
