# SPDX-License-Identifier: Apache-2.0
"""Conformance kit for meshers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medrecon.errors import StageError
from medrecon.progress import Quiet
from medrecon.runfolder import RunFolder
from medrecon.testing import phantoms
from medrecon.testing.contract import require, require_valid, same
from medrecon.types import Mesh, RayBatch, RenderOut, Scale, Sim3, SparseModel

KIND = "mesher"
RADIUS_MM = 10.0
_FIELD_PER_MM = 1 / 14.0  # as in phantoms.scene
_METRIC_FROM_SFM = Sim3(0.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([3.0, -4, 5]))


class PhantomBall:
    """A field in closed form: a ball with an edge 0.1 mm wide, of the optical thickness given per mm."""

    name = "phantom-ball"
    appearance_size = 0

    def __init__(self, per_mm: float = 100.0):
        self._density = per_mm / _FIELD_PER_MM

    def density(self, xyz: torch.Tensor) -> torch.Tensor:
        """[N, 3] points of the field frame -> [N], per field unit."""
        return self._density * torch.sigmoid((RADIUS_MM - xyz.norm(dim=-1) / _FIELD_PER_MM) / 0.1)

    def render(self, rays: RayBatch, appearance: Any = None) -> RenderOut:
        """By quadrature with 400 intervals."""
        t = rays.near + (rays.far - rays.near) * torch.linspace(0, 1, 401)
        middle = (t[:, 1:] + t[:, :-1]) / 2
        points = rays.origins[:, None] + middle[..., None] * rays.directions[:, None]
        tau = self.density(points) * (t[:, 1:] - t[:, :-1]) * rays.directions.norm(dim=-1, keepdim=True)
        left = torch.exp(-tau.cumsum(1))
        weights = torch.cat([torch.ones(len(t), 1), left[:, :-1]], 1) - left
        opacity = 1 - left[:, -1]
        some, safe = opacity > 1e-6, opacity.clamp_min(1e-6)
        mean = torch.where(some, (weights * middle).sum(1) / safe, 0.0)
        spread = torch.where(some, ((weights * (middle - mean[:, None]) ** 2).sum(1) / safe).sqrt(), 0.0)
        half = (left > 0.5).sum(1, keepdim=True).clamp(max=middle.shape[1] - 1)
        median = torch.where(opacity > 0.5, middle.gather(1, half).squeeze(1), mean)
        return RenderOut(torch.full((len(t), 3), 0.5), mean, opacity, median, spread)

    render_basic = render

    def render_depth(self, rays: RayBatch) -> RenderOut:
        """As ``render``."""
        return self.render(rays)


class MesherConformance:
    """Inherit in a class called ``Test...`` and override :meth:`make`.

    The kit gives the mesher a run with pictures, cameras on an arc before a ball of 10 mm, and a field in closed form
    that ``medrecon.radiance.load_field`` returns: load it inside ``mesh``.

    Attributes:
        tolerance_mm: how far the surface may lie from the ball's, in the median.
    """

    tolerance_mm = 0.4

    def make(self) -> Any:
        """Return a new mesher of about 40 samples along the scene, e.g. ``create("mesher", "mine", resolution=40)``."""
        raise NotImplementedError("override make() and return your mesher")

    def _mesh(self, scale: Scale, field: PhantomBall | None = None) -> Mesh:
        with tempfile.TemporaryDirectory() as folder, _phantom_run(Path(folder), scale, field or PhantomBall()) as run:
            mesh = self.make().mesh(run, "cpu", Quiet())
        require(isinstance(mesh, Mesh), KIND, "mesh returns medrecon.types.Mesh", type(mesh).__name__)
        require_valid(mesh.validate, KIND, "the mesh is valid")
        return mesh

    @staticmethod
    def _metric() -> Scale:
        return Scale("mm", _METRIC_FROM_SFM, "known", 0.01)

    def test_surface_is_in_its_place_in_mm(self) -> None:
        mesh = self._mesh(self._metric())
        require(mesh.unit == "mm", KIND, "the unit is mm where the scale is known", repr(mesh.unit))
        require(len(mesh.faces) > 100, KIND, "a field with a surface gives triangles", f"{len(mesh.faces)} faces")
        # The phantom's own frame is the reconstruction's.
        gap = np.abs(_radii(mesh.vertices, self._metric()) - RADIUS_MM)
        found = f"{float(np.median(gap)):.2f} mm off in the median"
        require(np.median(gap) <= self.tolerance_mm, KIND, "the surface is where the field's is", found)

    def test_without_a_scale_nothing_is_mm(self) -> None:
        mesh = self._mesh(Scale())
        require(mesh.unit == "unknown", KIND, "the unit is unknown where the scale is", repr(mesh.unit))
        gap = np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS_MM)
        require(np.median(gap) <= self.tolerance_mm, KIND, "vertices are then in reconstruction units")

    def test_triangles_turn_outwards(self) -> None:
        mesh = self._mesh(Scale())
        a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
        outwards = (np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0
        found = f"{100 * outwards.mean():.0f} % do"
        require(outwards.mean() > 0.97, KIND, "triangles are counter-clockwise seen from outside", found)

    def test_the_unseen_is_left_out(self) -> None:
        mesh = self._mesh(Scale())
        centres = np.array([p.center for p in phantoms.views("sphere", 9).cam_from_world_mm])
        # A camera at c sees the points p of the ball's surface with p . c > r^2.
        seen = ((mesh.vertices @ centres.T) > RADIUS_MM**2 - 0.15 * RADIUS_MM * 40).any(1)
        found = f"{100 * (1 - seen.mean()):.0f} % of the vertices lie behind"
        require(seen.mean() > 0.97, KIND, "what no camera saw is left out", found)

    def test_values_of_vertices(self) -> None:
        mesh = self._mesh(Scale())
        n = len(mesh.vertices)
        if mesh.colors is not None:
            ok = mesh.colors.shape == (n, 3) and mesh.colors.dtype == np.uint8
            require(ok, KIND, "colors are uint8 [V, 3]", f"{mesh.colors.dtype} {mesh.colors.shape}")
        if mesh.confidence is not None:
            c = mesh.confidence
            ok = c.shape == (n,) and bool(np.isfinite(c).all()) and c.min() >= 0 and c.max() <= 1
            require(ok, KIND, "confidence is [V] in 0..1", f"{c.shape}")

    def test_is_deterministic(self) -> None:
        require(same(self._mesh(Scale()), self._mesh(Scale())), KIND, "the same run gives the same mesh, bit for bit")

    def test_a_transparent_field_has_no_surface(self) -> None:
        try:
            self._mesh(Scale(), PhantomBall(per_mm=1e-4))
        except StageError:
            return
        require(False, KIND, "a field without a surface raises medrecon.errors.StageError", "a mesh")


def _radii(vertices: np.ndarray, scale: Scale) -> np.ndarray:
    return np.linalg.norm(scale.metric_from_sfm.inverse().apply(vertices), axis=1)


@contextmanager
def _phantom_run(root: Path, scale: Scale, field: PhantomBall) -> Iterator[RunFolder]:
    """A run up to the radiance stage whose field is ``field``."""
    import medrecon.radiance
    from medrecon.radiance import field_files

    body = phantoms.views("sphere", 9, 48, 40)
    frames = phantoms.frame_set(root / "stages" / "source", body)
    for stage in ("source", "keyframes"):
        frames.save(root / "stages" / stage / "frames.json")
    empty = np.zeros(0, np.int64)
    poses = dict(enumerate(body.cam_from_world_mm))
    sparse = SparseModel(
        dict.fromkeys(poses, body.camera), poses, np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0), empty,
        empty.astype(np.int32), np.zeros(1, np.int64), scale=scale,
    )  # fmt: skip
    (root / "stages" / "sfm").mkdir(parents=True)
    sparse.save(root / "stages" / "sfm")
    scene = phantoms.scene(9, 48, 40)
    scene.save(root / "stages" / "radiance" / "scene.json")
    load = lambda run, device="cpu": (field, scene)  # noqa: E731
    before = field_files.load_field
    field_files.load_field = medrecon.radiance.load_field = load
    try:
        yield RunFolder(root)
    finally:
        field_files.load_field = before
        del medrecon.radiance.load_field  # the package finds the real one again by itself
