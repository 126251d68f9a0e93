# SPDX-License-Identifier: Apache-2.0
"""A run folder whose every answer is known: a coloured sphere of 30 mm seen by an orbit of cameras."""

import numpy as np
import torch

from medrecon import images
from medrecon.radiance.scene import Scene
from medrecon.runfolder import RunFolder
from medrecon.types import (
    Camera,
    Features,
    Frame,
    FrameSet,
    RenderOut,
    Rigid3,
    Scale,
    Sim3,
    SparseModel,
    Truth,
)
from medrecon.types.storage import write_json, write_npz

RADIUS_MM = 30.0
DISTANCE_MM = 110.0
CAMERA = Camera("PINHOLE", 96, 80, (110.0, 112.0, 48.5, 39.0))


def rotation(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


SFM_FROM_WORLD = Sim3(0.037, rotation(1), np.array([0.4, -1.2, 2.5]))
# The sphere has radius 0.6 in the field frame.
FIELD_FROM_SFM = Sim3(0.6 / (RADIUS_MM * 0.037), rotation(2), np.zeros(3))
FIELD_FROM_SFM = Sim3(FIELD_FROM_SFM.scale, FIELD_FROM_SFM.rotation, -FIELD_FROM_SFM.apply(SFM_FROM_WORLD.translation))


def look_at_origin(center):
    z = -center / np.linalg.norm(center)
    x = np.cross([0.2, -0.3, 1.0], z)
    x /= np.linalg.norm(x)
    r = np.stack([x, np.cross(z, x), z])
    return Rigid3(r, -r @ center)


def poses(n):
    """Cameras on a Fibonacci sphere: all of the surface is seen."""
    k = np.arange(n) + 0.5
    phi, theta = np.arccos(1 - 2 * k / n), np.pi * (1 + 5**0.5) * k
    c = np.stack([np.cos(theta) * np.sin(phi), np.sin(theta) * np.sin(phi), np.cos(phi)], 1)
    return {10 + i: look_at_origin(DISTANCE_MM * c[i]) for i in range(n)}


def colour_at(points_mm):
    """Smooth colours float [..., 3] in 0..1."""
    return 0.5 + 0.4 * np.stack([np.sin(points_mm[..., k] / (9.0 + 3 * k)) for k in range(3)], -1)


def picture(camera, pose):
    """uint8 [H, W, 3] and z-depth float32 [H, W] in mm, by exact intersection."""
    x, y = np.meshgrid(np.arange(camera.width_px) + 0.5, np.arange(camera.height_px) + 0.5)
    d = camera.unproject(np.stack([x, y], -1)) @ pose.rotation
    c = pose.center
    a, b, q = (d * d).sum(-1), d @ c, c @ c - RADIUS_MM**2
    disc = b * b - a * q
    t = np.where(disc > 0, (-b - np.sqrt(np.maximum(disc, 0))) / a, 0.0)
    rgb = np.where(t[..., None] > 0, colour_at(c + t[..., None] * d), 0.0)
    return np.rint(rgb * 255).astype(np.uint8), t.astype(np.float32)


class SphereRenderer:
    """Density of a soft-edged ball, composited by plain quadrature."""

    name = "sphere"

    def __init__(self, radius=0.6, hardness=60.0, width=0.01):
        self.radius, self.hardness, self.width = radius, hardness, width

    def density(self, xyz):
        return self.hardness * torch.sigmoid((self.radius - xyz.norm(dim=-1)) / self.width)

    def render(self, rays, appearance=None):
        t = rays.near + (rays.far - rays.near) * torch.linspace(0, 1, 200)
        mid = 0.5 * (t[:, 1:] + t[:, :-1])
        points = rays.origins[:, None] + mid[..., None] * rays.directions[:, None]
        tau = self.density(points) * (t[:, 1:] - t[:, :-1]) * rays.directions.norm(dim=-1, keepdim=True)
        through = torch.exp(-torch.cumsum(tau, 1))
        k = (through > 0.5).sum(1).clamp(max=mid.shape[1] - 1)
        median = mid[torch.arange(len(mid)), k]
        opacity = 1 - through[:, -1]
        return RenderOut(torch.zeros(len(mid), 3), median, opacity, median)

    def render_depth(self, rays):
        return self.render(rays)


def sphere_scene(sparse, heldout=()):
    far = DISTANCE_MM / RADIUS_MM * 0.6 + 1
    ids = sparse.registered_ids
    return Scene(
        FIELD_FROM_SFM, np.array([-0.8, -0.8, -0.75]), np.array([0.8, 0.7, 0.75]),
        [i for i in ids if i not in heldout], list(heldout), dict(sparse.cameras), dict(sparse.cam_from_world),
        dict.fromkeys(ids, (far - 2, far)), "black",
    ).validate()  # fmt: skip


def build(root, n=20, metric=True, drop=(), sigma=0.01, truth=True, noise=0.0):
    """Writes source, keyframes and sfm of the run; returns RunFolder.

    Args:
        drop: frames that structure from motion failed to register.
        noise: standard deviation in mm added to the estimated camera centres.
    """
    world, source = poses(n), root / "stages" / "source"
    frames, depth_paths = [], {}
    for i, pose in world.items():
        rgb, depth = picture(CAMERA, pose)
        path = source / "images" / f"{i:06d}.png"
        images.write_png(path, rgb)
        (source / "truth").mkdir(parents=True, exist_ok=True)
        depth_paths[i] = source / "truth" / f"{i:06d}.npz"
        np.savez(depth_paths[i], depth_mm=depth)
        frames.append(Frame(i, f"{i:06d}", path, CAMERA.width_px, CAMERA.height_px))
    truth_path = source / "truth.json" if truth else None
    if truth:
        Truth(dict.fromkeys(world, CAMERA), world, depth_paths).save(truth_path)
    frame_set = FrameSet(tuple(frames), "rendered sphere", truth_path=truth_path)
    frame_set.save(source / "frames.json")
    (root / "stages" / "keyframes").mkdir()
    frame_set.save(root / "stages" / "keyframes" / "frames.json")

    rng = np.random.default_rng(7)
    moved = {i: Rigid3(p.rotation, -p.rotation @ (p.center + noise * rng.normal(size=3))) for i, p in world.items()}
    estimated = {i: SFM_FROM_WORLD.transform_pose(p) for i, p in moved.items() if i not in drop}
    tracks = _points(estimated)
    scale = Scale("mm", SFM_FROM_WORLD.inverse(), "known camera poses", sigma) if metric else Scale()
    sparse = SparseModel(
        dict.fromkeys(estimated, CAMERA), estimated, *tracks, unregistered=dict.fromkeys(drop, "too few matches"),
        scale=scale,
    )  # fmt: skip
    (root / "stages" / "sfm").mkdir()
    sparse.save(root / "stages" / "sfm")
    return RunFolder(root)


def _points(estimated, n=40):
    """Sphere points with the tracks of the cameras that see them; keypoint k of each frame is its k-th observation."""
    x = np.random.default_rng(3).normal(size=(n, 3))
    x *= RADIUS_MM / np.linalg.norm(x, axis=1, keepdims=True)
    ids, index, offsets, used = [], [], [0], dict.fromkeys(estimated, 0)
    world_from_sfm = SFM_FROM_WORLD.inverse()
    for p in x:
        for i, pose in estimated.items():
            center = world_from_sfm.apply(pose.center)
            if (center - p) @ p > 0:
                ids.append(i)
                index.append(used[i])
                used[i] += 1
        offsets.append(len(ids))
    return (
        SFM_FROM_WORLD.apply(x), np.rint(colour_at(x) * 255).astype(np.uint8), np.full(n, 0.4),
        np.array(ids, np.int64), np.array(index, np.int32), np.array(offsets, np.int64),
    )  # fmt: skip


def write_features(run):
    """The keypoints the tracks refer to."""
    sparse = run.sparse
    xy = {i: [] for i in sparse.registered_ids}
    for p in range(len(sparse.points)):
        for k in range(sparse.track_offsets[p], sparse.track_offsets[p + 1]):
            i = int(sparse.track_frame_ids[k])
            xy[i].append(CAMERA.project(sparse.cam_from_world[i].apply(sparse.points[p])))
    for i, points in xy.items():
        points = np.array(points, np.float32).reshape(-1, 2)
        n = len(points)
        Features(
            points, np.ones(n, np.float32), np.zeros((n, 4), np.float32), "l2", (CAMERA.width_px, CAMERA.height_px), "t"
        ).save(run.root / "stages" / "features" / f"{i:06d}.npz")


def use_field(monkeypatch, run, renderer=None, heldout=()):
    """Lets ``load_field`` give the analytic sphere."""
    import medrecon.radiance

    pair = (renderer or SphereRenderer(), sphere_scene(run.sparse, heldout))
    monkeypatch.setattr(medrecon.radiance, "load_field", lambda run, device="cpu": pair, raising=False)
    return pair


def write_renders(run, heldout, offset=0, depth_factor=1.0, skip=()):
    """The render stage: held-out pictures with ``offset`` added to each channel, and true depth times a factor."""
    sphere_scene(run.sparse, heldout).save(run.root / "stages" / "radiance" / "scene.json")
    folder, views = run.root / "stages" / "render", []
    for i in heldout:
        if i in skip:
            continue
        rgb, depth = picture(CAMERA, poses(len(run.frames))[i])
        images.write_png(
            folder / "heldout" / f"{i:06d}.png", np.minimum(rgb.astype(int) + offset, 255).astype(np.uint8)
        )
        images.write_png(folder / "opacity" / f"{i:06d}.png", depth > 0)
        sfm = (depth * SFM_FROM_WORLD.scale * depth_factor).astype(np.float32)
        write_npz(folder / "depth" / f"{i:06d}.npz", {"depth_sfm": sfm})
        views.append({"frame_id": i, "rgb": f"heldout/{i:06d}.png", "depth": f"depth/{i:06d}.npz",
                      "opacity": f"opacity/{i:06d}.png"})  # fmt: skip
    write_json(
        folder / "renders.json",
        {"schema": 1, "appearance": "zero", "views": views, "path_video": None, "renderer": "sphere"},
    )
