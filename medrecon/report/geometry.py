# SPDX-License-Identifier: Apache-2.0
"""What the 3-D view shows, small enough to embed: cameras, sparse points and a decimated surface."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from medrecon.types import FrameSet, Mesh, SparseModel

MOST_FACES = 50_000
MOST_POINTS = 40_000


@dataclass(frozen=True, slots=True)
class View3D:
    """Everything in one frame: origin in the middle of the content, y up, in mm or the model's own unit.

    Attributes:
        unit: "mm" or "units".
        radius: of the content about the origin.
        cameras: one per registered frame: name, corners float [5, 3] (centre, then the four corners of its picture).
        points: float64 [P, 3]; point_colors uint8 [P, 3].
        mesh: in the same frame, with at most ``MOST_FACES`` faces, or None.
        n_points, n_faces: before thinning out.
    """

    unit: str
    radius: float
    cameras: tuple[tuple[str, np.ndarray], ...]
    points: np.ndarray
    point_colors: np.ndarray
    mesh: Mesh | None
    n_points: int
    n_faces: int

    def payload(self) -> dict:
        """For viewer.js; arrays in base64: positions uint16 over -extent..extent, colours uint8, faces uint32."""
        extent = 1e-9
        for xyz in (self.points, self.mesh.vertices if self.mesh else np.zeros((0, 3))):
            extent = max(extent, float(np.abs(xyz).max(initial=0.0)))
        out = {
            "unit": self.unit,
            "radius": self.radius,
            "extent": extent,
            "cameras": [{"name": name, "corners": np.round(c, 6).tolist()} for name, c in self.cameras],
            "points": {"xyz": _quantise(self.points, extent), "rgb": _base64(self.point_colors.astype(np.uint8))},
            "mesh": None,
        }
        if self.mesh is not None:
            rgb = None if self.mesh.colors is None else _base64(self.mesh.colors.astype(np.uint8))
            faces = _base64(self.mesh.faces.astype("<u4"))
            out["mesh"] = {"xyz": _quantise(self.mesh.vertices, extent), "rgb": rgb, "faces": faces}
        return out


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _quantise(xyz: np.ndarray, extent: float) -> str:
    return _base64(np.round((np.clip(xyz / extent, -1, 1) + 1) * 32767.5).astype("<u2"))


def view_3d(sparse: SparseModel, frames: FrameSet | None, mesh: Mesh | None) -> View3D | None:
    """Put the reconstruction upright in the middle. None when there is neither a camera nor a point nor a face."""
    mesh = mesh if mesh is not None and len(mesh.faces) else None
    if not sparse.cam_from_world and not len(sparse.points) and mesh is None:
        return None
    to_shown = sparse.scale.metric_from_sfm
    points, colors = _central(to_shown.apply(sparse.points), sparse.colors)
    vertices = np.zeros((0, 3)) if mesh is None else mesh.vertices
    if mesh is not None and mesh.unit == "unknown":
        vertices = to_shown.apply(vertices)
    poses = {i: to_shown.transform_pose(p) for i, p in sparse.cam_from_world.items()}
    centers = np.array([p.center for p in poses.values()]).reshape(-1, 3)

    content = vertices if len(vertices) else points if len(points) else centers
    middle = (content.min(0) + content.max(0)) / 2
    upright = _upright(np.array([-p.rotation[1] for p in poses.values()]).reshape(-1, 3))
    place = lambda x: (np.asarray(x) - middle) @ upright.T  # noqa: E731

    reach = np.linalg.norm(place(content), axis=1)
    radius = max(float(np.percentile(reach, 98)), 1e-9)
    distance = np.linalg.norm(place(centers), axis=1) if len(centers) else np.zeros(1)
    size = 0.12 * float(np.median(distance)) or 0.2 * radius
    names = {} if frames is None else {f.frame_id: f.name for f in frames.frames}
    cameras = tuple(
        (names.get(i, f"{i:06d}"), place(poses[i].inverse().apply(_frustum(sparse.cameras[i], size))))
        for i in sorted(poses)
    )
    shown = None
    if mesh is not None:
        shown = decimate(Mesh(place(vertices), mesh.faces, mesh.colors, mesh.confidence, mesh.unit), MOST_FACES)
    return View3D(
        "mm" if sparse.scale.is_metric else "units",
        max(radius, float(np.percentile(distance, 90)) if len(centers) else 0.0),
        cameras,
        place(points),
        colors,
        shown,
        len(sparse.points),
        0 if mesh is None else len(mesh.faces),
    )


def _central(points: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without far-off outliers, thinned out evenly to ``MOST_POINTS``."""
    if not len(points):
        return points, colors
    away = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    keep = np.flatnonzero(away <= 6 * np.median(away) + 1e-12)
    keep = keep[np.linspace(0, len(keep) - 1, min(len(keep), MOST_POINTS)).astype(int)]
    return points[keep], colors[keep]


def _frustum(camera, size: float) -> np.ndarray:
    """float64 [5, 3] in the camera frame: centre and the corners of the picture plane at z = size."""
    w, h = camera.width_px, camera.height_px
    (fx, fy), (cx, cy) = camera.focal_px, camera.principal_px
    corners = [[(u - cx) / fx, (v - cy) / fy, 1.0] for u, v in ((0, 0), (w, 0), (w, h), (0, h))]
    return size * np.array([[0.0, 0.0, 0.0], *corners])


def _upright(ups: np.ndarray) -> np.ndarray:
    """Rotation [3, 3] that turns the cameras' common "up" to +y."""
    up = ups.sum(0) if len(ups) else np.array([0.0, 1.0, 0.0])
    if np.linalg.norm(up) < 1e-6 * max(len(ups), 1):
        up = np.array([0.0, 1.0, 0.0])
    y = up / np.linalg.norm(up)
    x = np.cross(y, np.eye(3)[int(np.abs(y).argmin())])
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)])


def decimate(mesh: Mesh, most_faces: int) -> Mesh:
    """At most (about) this many faces by quadric edge collapse; colours and confidences from the nearest vertex."""
    if len(mesh.faces) <= most_faces:
        return mesh
    mesh = _cluster(mesh, 4 * most_faces)
    from medrecon.surface.cleanup import decimate as collapse

    vertices, faces = collapse(mesh.vertices, mesh.faces, most_faces)
    if not len(faces):
        return _cluster(mesh, most_faces)
    nearest = cKDTree(mesh.vertices).query(vertices)[1]
    take = lambda values: None if values is None else values[nearest]  # noqa: E731
    return Mesh(vertices, faces, take(mesh.colors), take(mesh.confidence), mesh.unit)


def _cluster(mesh: Mesh, most_faces: int) -> Mesh:
    """Vertices merged on a grid until the faces are few enough: coarse, but linear in size."""
    low, span = mesh.vertices.min(0), float(np.ptp(mesh.vertices, axis=0).max()) or 1.0
    cells = 1024
    while len(mesh.faces) > most_faces:
        key = np.floor((mesh.vertices - low) / span * cells).astype(np.int64)
        _, first, group = np.unique(key @ np.array([1, 1 << 20, 1 << 40]), return_index=True, return_inverse=True)
        faces = group.reshape(-1)[mesh.faces]
        real = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        take = lambda values: None if values is None else values[first]  # noqa: E731, B023
        faces = faces[real].astype(np.int32)
        mesh = Mesh(mesh.vertices[first], faces, take(mesh.colors), take(mesh.confidence), mesh.unit)
        cells = int(cells * 0.75)
    return mesh


def confidence_still(view: View3D) -> np.ndarray | None:
    """The same picture with the surface coloured by its confidence, 0 dark to 1 bright; None where there is none."""
    from medrecon.report.pictures import heat

    if view.mesh is None or view.mesh.confidence is None:
        return None
    colors = heat(view.mesh.confidence[None])[0]
    radius = max(float(np.percentile(np.linalg.norm(view.mesh.vertices, axis=1), 98)), 1e-9)
    return still(replace(view, cameras=(), radius=radius, mesh=replace(view.mesh, colors=colors)))


def still(view: View3D, width_px: int = 760, height_px: int = 480) -> np.ndarray:
    """uint8 [H, W, 3]: the view as a plain picture, for print and for browsers without WebGL."""
    from medrecon.images import cv2

    image = np.full((height_px, width_px, 3), (244, 245, 243), np.uint8)
    yaw, pitch = np.radians(35.0), np.radians(20.0)
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    rotation = tilt @ turn
    distance, focal = 3.2 * view.radius, 1.35 * height_px

    def project(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = xyz @ rotation.T
        z = np.maximum(distance - p[:, 2], 1e-3 * distance)
        return np.stack([width_px / 2 + focal * p[:, 0] / z, height_px / 2 - focal * p[:, 1] / z], 1), z

    if view.mesh is not None:
        xy, z = project(view.mesh.vertices)
        corners = view.mesh.vertices[view.mesh.faces] @ rotation.T
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        shade = 0.35 + 0.65 * np.abs(normal @ np.array([0.3, 0.4, 0.866]))
        base = np.array([200.0, 196.0, 186.0])
        if view.mesh.colors is not None:
            base = view.mesh.colors[view.mesh.faces].mean(1)
        color = np.clip(base * shade[:, None], 0, 255)
        for f in np.argsort(-z[view.mesh.faces].mean(1), kind="stable"):
            polygon = np.round(xy[view.mesh.faces[f]] * 16).astype(np.int32)
            cv2.fillConvexPoly(image, polygon, color[f].tolist(), cv2.LINE_8, 4)
    elif len(view.points):
        xy, z = project(view.points)
        for i in np.argsort(-z, kind="stable"):
            cv2.circle(image, tuple(np.round(xy[i]).astype(int).tolist()), 1, view.point_colors[i].tolist(), -1)
    for _, corners in view.cameras:
        xy = np.round(project(corners)[0] * 16).astype(np.int32)
        for line in (xy[[1, 2, 3, 4, 1]], *(xy[[0, k]] for k in range(1, 5))):
            cv2.polylines(image, [line], False, (15, 118, 110), 1, cv2.LINE_AA, 4)
    return image
