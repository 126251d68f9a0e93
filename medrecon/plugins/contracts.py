# SPDX-License-Identifier: Apache-2.0
"""What a component of each kind must offer. Structural: no base class to inherit, any object that fits will do.

Every factory is called as ``Factory(config)`` with a validated instance of its own config model. Components get
only what stands in the signatures: no globals, no network, no files outside the folder they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from medrecon.progress import Progress
from medrecon.types import Features, FrameSet, Matches, MatchGraph, Mesh, Metric, SparseModel

if TYPE_CHECKING:
    from medrecon.runfolder import RunFolder


@runtime_checkable
class Source(Protocol):
    def read(self, out_dir: Path, progress: Progress) -> FrameSet:
        """Write every picture as 8-bit PNG below ``out_dir`` and return the set.  Raises InputError."""


@runtime_checkable
class Keyframer(Protocol):
    def select(self, frames: FrameSet, progress: Progress) -> FrameSet:
        """Return the subset to use; every frame left out stands in ``dropped`` with its reason."""


@runtime_checkable
class Extractor(Protocol):
    def extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        """image uint8 [H, W] or [H, W, 3] RGB; mask bool [H, W], True = use. No keypoint where the mask is False."""


@runtime_checkable
class Pairing(Protocol):
    def pairs(self, frames: FrameSet, features: Mapping[int, Features]) -> list[tuple[int, int]]:
        """Pairs (frame_id_a, frame_id_b) to match, each once, a != b.

        None at all is an error later on, unless the pairing says that it means it: ``matches_nothing = True``.
        """


@runtime_checkable
class SecondRound(Protocol):
    """A pairing may also offer this, and is then asked once more when its first pairs are matched and verified."""

    def more_pairs(
        self, graph: MatchGraph, frames: FrameSet, features: Mapping[int, Features]
    ) -> list[tuple[int, int]]:
        """Pairs as above that the graph of the first round makes likely, none of them in it; may be empty."""


@runtime_checkable
class Matcher(Protocol):
    def match(self, features_a: Features, features_b: Features) -> Matches:
        """One-to-one putative matches."""


@runtime_checkable
class BatchMatcher(Matcher, Protocol):
    """A matcher may also take several pairs at once, where that is faster (on a GPU).

    The matching stage then hands over up to ``batch_size`` pairs of like size; with 1 it calls ``match``.
    """

    batch_size: int

    def match_pairs(self, pairs: Sequence[tuple[Features, Features]]) -> list[Matches]:
        """As ``match`` for each pair, up to the rounding of its arithmetic."""


@runtime_checkable
class Mapper(Protocol):
    def map(
        self,
        frames: FrameSet,
        features: Mapping[int, Features],
        graph: MatchGraph,
        work_dir: Path,
        seed: int,
        progress: Progress,
    ) -> SparseModel:
        """Poses and points; ``work_dir`` is scratch space.  Raises StageError with advice when nothing registers.

        A mapper whose ``uses_matches`` is False (if it has one) may return a model without points; the scene's extent
        is then what the views have in common.
        """


@runtime_checkable
class Mesher(Protocol):
    def mesh(self, run: "RunFolder", device: str, progress: Progress) -> Mesh:
        """Surface of the trained field, in millimetres when the scale is known."""


@runtime_checkable
class Exporter(Protocol):
    def export(self, run: "RunFolder", out_dir: Path) -> list[Path]:
        """Write the run in another format; returns the files."""


@runtime_checkable
class Analysis(Protocol):
    def analyse(self, run: "RunFolder", progress: Progress) -> list[Metric]:
        """Figures for the report."""


@runtime_checkable
class ImageMetric(Protocol):
    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        """image, reference: uint8 [H, W, 3] of the same size; mask bool [H, W], True = count."""


@runtime_checkable
class Benchmark(Protocol):
    def run(self, out_dir: Path, quick: bool, seeds: int, progress: Progress) -> dict:
        """Measure, write files into ``out_dir``, return the figures."""


# kind -> protocol. "renderer" is a torch module and lives with its base class: medrecon.radiance.renderer.Renderer.
CONTRACTS: dict[str, type] = {
    "source": Source,
    "keyframer": Keyframer,
    "extractor": Extractor,
    "pairing": Pairing,
    "matcher": Matcher,
    "mapper": Mapper,
    "mesher": Mesher,
    "exporter": Exporter,
    "analysis": Analysis,
    "metric": ImageMetric,
    "benchmark": Benchmark,
}
