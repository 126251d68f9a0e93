# SPDX-License-Identifier: Apache-2.0
"""Typed access to what a run has written so far. Reads only; knows the file names, nothing else does.

OUT/run.yaml  manifest.json  result.json  report.html
OUT/stages/source/     frames.json images/*.png [truth/]
OUT/stages/keyframes/  frames.json
OUT/stages/masks/      frames.json masks/*.png
OUT/stages/features/   <frame_id>.npz
OUT/stages/matching/   graph.npz
OUT/stages/sfm/        model.json model.npz
OUT/stages/radiance/   scene.json field.safetensors field.json history.json [poses.json]
OUT/stages/render/     renders.json heldout/<frame_id>.png depth/ opacity/ path.mp4
                       path_depth.mp4 maps/<frame_id>.npz median/ spread/ normals/
OUT/stages/surface/    mesh.npz
OUT/stages/analysis/   metrics.json
OUT/stages/export/     the files of every exporter
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from medrecon.errors import InputError
from medrecon.types import Features, FrameSet, MatchGraph, Mesh, Metric, Rigid3, SparseModel, Truth
from medrecon.types.storage import read_json


class FeatureFolder(Mapping):
    """Features by frame_id, read from disk on demand so that memory does not grow with the number of frames."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._ids = sorted(int(p.stem) for p in folder.glob("[0-9]*.npz"))

    def __getitem__(self, frame_id: int) -> Features:
        if frame_id not in self._ids:
            raise KeyError(frame_id)
        return Features.load(self.folder / f"{frame_id:06d}.npz")

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class RunFolder:
    """A run on disk.

    Args:
        root: the run's folder.
        staging: folders of stages still being written, by stage name (used by the pipeline itself).
        done: stages whose results belong to this run; default: those of manifest.json, so that results of older
            settings which still lie in the folder are not mixed with new ones.
    """

    def __init__(self, root: Path, staging: dict[str, Path] | None = None, done: set[str] | None = None):
        self.root = Path(root)
        self._staging = dict(staging or {})
        self._done = done
        if done is None and (self.root / "manifest.json").is_file():
            self._done = {s["name"] for s in read_json(self.root / "manifest.json").get("stages", [])}

    def stage_dir(self, stage: str) -> Path:
        return self._staging.get(stage, self.root / "stages" / stage)

    def has(self, stage: str) -> bool:
        mine = stage in self._staging or self._done is None or stage in self._done
        return mine and self.stage_dir(stage).is_dir()

    def _need(self, stage: str) -> Path:
        folder = self.stage_dir(stage)
        if not self.has(stage):
            raise InputError(f"{self.root} has no {stage!r} stage yet", f"run it with --until {stage} or further")
        return folder

    @property
    def source_frames(self) -> FrameSet:
        """Everything the source read, before keyframe selection."""
        return FrameSet.load(self._need("source") / "frames.json")

    @property
    def frames(self) -> FrameSet:
        """The frames that are used, with masks as far as the run has got."""
        for stage in ("masks", "keyframes", "source"):
            path = self.stage_dir(stage) / "frames.json"
            if self.has(stage) and path.is_file():
                return FrameSet.load(path)
        raise InputError(f"{self.root} holds no frames", "run it first")

    @property
    def features(self) -> FeatureFolder:
        return FeatureFolder(self._need("features"))

    @property
    def graph(self) -> MatchGraph:
        return MatchGraph.load(self._need("matching") / "graph.npz")

    @property
    def sparse(self) -> SparseModel:
        return SparseModel.load(self._need("sfm"))

    @property
    def pose_refinement(self) -> dict | None:
        """poses.json: how far the training moved the poses and how held-out ones were found; None: it did not."""
        path = self.stage_dir("radiance") / "poses.json"
        return read_json(path) if self.has("radiance") and path.is_file() else None

    @property
    def posed(self) -> SparseModel:
        """The sparse model with the poses that the field and the surface go by: those of structure from motion, or,
        where the training refined them, the refined ones. Points and tracks stay as they are."""
        sparse = self.sparse
        if self.pose_refinement is None:
            return sparse
        poses = read_json(self.stage_dir("radiance") / "scene.json")["cam_from_sfm"]
        refined = {int(i): Rigid3.from_matrix(m) for i, m in poses.items()}
        return replace(sparse, cam_from_world={**sparse.cam_from_world, **refined})

    @property
    def mesh(self) -> Mesh:
        return Mesh.load(self._need("surface") / "mesh.npz")

    @property
    def truth(self) -> Truth | None:
        path = self.source_frames.truth_path
        return Truth.load(path) if path else None

    @property
    def metrics(self) -> list[Metric]:
        return [Metric.from_dict(m) for m in read_json(self._need("analysis") / "metrics.json")]

    @property
    def manifest(self) -> dict:
        return read_json(self.root / "manifest.json")

    @property
    def result(self) -> dict:
        return read_json(self.root / "result.json")
