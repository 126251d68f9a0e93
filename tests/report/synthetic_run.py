# SPDX-License-Identifier: Apache-2.0
"""A finished run in a folder, written with the types' own save methods: a phantom sphere seen by ten cameras."""

from dataclasses import replace

import numpy as np

from medrecon.images import write_png
from medrecon.runfolder import RunFolder
from medrecon.testing import phantoms
from medrecon.types import (
    DroppedFrame,
    Features,
    FunnelStep,
    Matches,
    MatchGraph,
    Mesh,
    Metric,
    Scale,
    Sim3,
    SparseModel,
    TwoView,
)
from medrecon.types.storage import write_json, write_npz

STAGES = "source keyframes masks features matching sfm radiance render surface analysis".split()

MANIFEST = {
    "medrecon_version": "0.1.0",
    "created": "2026-01-02",
    "config": {
        "version": 1,
        "source": {"name": "views", "path": "/home/doe/john/ct.nii.gz"},
        "seed": 3,
        "modality": {"kind": "mr", "window": None, "gamma": 0.8, "invert": False},
    },
    "seed": 3,
    "device": "cpu",
    "ops_backend": {"name": "cpu", "reason": "prebuilt kernels, no CUDA device"},
    "versions": {"torch": "2.13.0", "numpy": "2.3.0"},
    "machine": {"cpu": "Some CPU", "cores": 2, "ram_gb": 8, "platform": "Linux", "gpu": None},
    "stages": [
        {"name": name, "key": "ab" * 32, "seconds": seconds, "cached": name == "source"}
        for name, seconds in zip(STAGES, (4.25, 0.5, 0.4, 9.0, 22.0, 31.0, 312.0, 14.0, 6.0, 8.0))
    ],
    "licences": ["CC-BY-3.0 (chest CT)"],
    "input_hash": "ef" * 32,
}


def sphere_mesh(radius, n_around=48, n_up=24):
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, n_around, endpoint=False), np.linspace(0.05, np.pi - 0.05, n_up))
    r = radius * (1 + 0.05 * np.sin(5 * u) * np.sin(4 * v))
    xyz = np.stack([r * np.sin(v) * np.cos(u), r * np.cos(v), r * np.sin(v) * np.sin(u)], -1).reshape(-1, 3)
    i = np.arange(n_up - 1)[:, None] * n_around + np.arange(n_around)
    j = np.arange(n_up - 1)[:, None] * n_around + (np.arange(n_around) + 1) % n_around
    faces = np.concatenate([np.stack([i, j, i + n_around], -1), np.stack([j, j + n_around, i + n_around], -1)])
    colors = np.round(255 * phantoms.texture(xyz, 0, 2.0)).astype(np.uint8)
    return Mesh(xyz, faces.reshape(-1, 3).astype(np.int32), colors, None, "mm")


def write_run(root, metric=True, n=10, width_px=240, height_px=180):
    """The whole street on disk; world = the phantom's millimetres, SfM = the same divided by 5 and turned."""
    body = phantoms.views("sphere", n, width_px, height_px)
    folder = lambda stage: root / "stages" / stage  # noqa: E731
    frames = phantoms.frame_set(folder("source"), body)
    frames = replace(frames, notes=("Window 40/400 HU", "No identifiers were read from the input"))
    frames.save(folder("source") / "frames.json")
    kept = frames.subset(
        list(range(1, n)), (DroppedFrame(0, "000000", "blurred: sharpness 3 is below 12 <b>really</b>"),)
    )
    kept.save(folder("keyframes") / "frames.json")
    masked = []
    for f in kept.frames:
        mask = np.ones((height_px, width_px), bool)
        mask[:, :10] = False
        path = folder("masks") / "masks" / f"{f.name}.png"
        write_png(path, mask)
        masked.append(replace(f, mask_path=path))
    masks = replace(kept, frames=tuple(masked))
    masks.save(folder("masks") / "frames.json")

    rng = np.random.default_rng(0)
    directions = rng.normal(size=(900, 3))
    world = 10 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    seen, features = {}, {}
    for i in range(1, n):
        xy = body.camera.project(body.cam_from_world_mm[i].apply(world))
        inside = (xy > 1).all(1) & (xy[:, 0] < width_px - 1) & (xy[:, 1] < height_px - 1)
        inside[inside] &= np.linalg.norm(body.points(i, xy[inside]) - world[inside], axis=1) < 1e-6
        seen[i] = np.flatnonzero(inside)
        m = len(seen[i])
        features[i] = Features(
            xy[inside].astype(np.float32),
            rng.random(m).astype(np.float32),
            rng.normal(size=(m, 8)).astype(np.float32),
            "l2",
            (width_px, height_px),
            "sift",
        ).validate()
        features[i].save(folder("features") / f"{i:06d}.npz")
    pairs = []
    for a in range(1, n):
        for b in range(a + 1, n):
            both = np.intersect1d(seen[a], seen[b])
            idx = np.stack([np.searchsorted(seen[a], both), np.searchsorted(seen[b], both)], 1).astype(np.int32)
            wrong = np.zeros(len(idx), bool)
            wrong[::7] = True
            idx[wrong, 1] = np.roll(idx[wrong, 1], 1)
            kind = "essential" if b - a < 6 else "none"
            found = Matches(idx, np.ones(len(idx), np.float32))
            pairs.append(TwoView(a, b, found, ~wrong & (kind != "none"), kind, np.eye(3)))
    MatchGraph(tuple(pairs)).save(folder("matching") / "graph.npz")

    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    sfm_from_world = Sim3(0.2, turn, np.array([1.0, 2.0, 3.0]))
    scale = Scale("mm", sfm_from_world.inverse(), "known camera poses", 0.012) if metric else Scale()
    registered = list(range(1, n - 1))
    used = np.unique(np.concatenate([seen[i] for i in registered]))
    tracks = [[i for i in registered if p in set(seen[i])] for p in used]
    SparseModel(
        {i: body.camera for i in registered},
        {i: sfm_from_world.transform_pose(body.cam_from_world_mm[i]) for i in registered},
        sfm_from_world.apply(world[used]),
        np.round(255 * phantoms.texture(world[used], 0, 2.0)).astype(np.uint8),
        rng.uniform(0.2, 1.2, len(used)),
        np.array([i for t in tracks for i in t], np.int64),
        np.zeros(sum(map(len, tracks)), np.int32),
        np.concatenate([[0], np.cumsum([len(t) for t in tracks])]).astype(np.int64),
        {n - 1: "too few matches with the model"},
        (3,),
        (
            FunnelStep("frames used", n - 1, "frames"),
            FunnelStep("keypoints per frame", 412.5, "keypoints"),
            FunnelStep("view-graph components", 2, "components", False, "match more pairs, or film more slowly"),
            FunnelStep("frames registered", n - 2, "frames"),
            FunnelStep("reprojection error", 0.71, "px"),
        ),
        ("default settings: 3 frames registered", f"smaller triangulation angle: {n - 2} frames registered"),
        scale,
    ).validate().save(folder("sfm"))

    history = []
    for step in range(0, 2001, 100):
        psnr = 26 - 16 * np.exp(-step / 500) + rng.normal(0, 0.2)
        row = {"step": step, "loss": float(10 ** (-psnr / 10)), "psnr_db": float(psnr), "seconds": 0.1 * step}
        if step % 500 == 0:
            row["heldout_psnr_db"] = float(psnr - 1.2)
        history.append(row)
    write_json(folder("radiance") / "history.json", history)
    views = []
    for i in sorted({2, n // 2}):
        noisy = np.clip(body.images[i][::2, ::2] + rng.normal(0, 12, (height_px // 2, width_px // 2, 3)), 0, 255)
        name = f"{i:06d}"
        write_png(folder("render") / "heldout" / f"{name}.png", noisy.astype(np.uint8))
        depth = (body.depths_mm[i][::2, ::2] * 0.2).astype(np.float32)
        write_npz(folder("render") / "depth" / f"{name}.npz", {"depth_sfm": depth})
        write_png(folder("render") / "opacity" / f"{name}.png", ((depth > 0) * 255).astype(np.uint8))
        entry = {"rgb": f"heldout/{name}.png", "depth": f"depth/{name}.npz", "opacity": f"opacity/{name}.png"}
        views.append({"frame_id": i, **entry})
    renders = {"schema": 1, "appearance": "mean", "views": views, "path_video": "path.mp4", "renderer": "mipnerf"}
    write_json(folder("render") / "renders.json", renders)
    mesh = sphere_mesh(10.0)
    if not metric:
        mesh = replace(mesh, vertices=sfm_from_world.apply(mesh.vertices), unit="unknown")
    mesh.save(folder("surface") / "mesh.npz")
    metrics = [
        Metric("psnr_db", 24.13, "dB", "higher", 0.42, 2, "held-out views"),
        Metric("ssim", 0.8123, "", "higher", None, 2, "held-out views"),
        Metric("ate_mm", 0.83, "mm", "lower", 0.11, 8, "cameras against the truth"),
        Metric("surface_hd95_mm", None, "mm", "lower", None, None, "surface against the truth", "no truth surface"),
        Metric("area", 1256.6, "mm^2" if metric else "units^2", "", None, None, "surface mesh"),
    ]
    write_json(folder("analysis") / "metrics.json", [m.to_dict() for m in metrics])
    write_json(root / "manifest.json", MANIFEST)
    return RunFolder(root)
