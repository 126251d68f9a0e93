# SPDX-License-Identifier: Apache-2.0
"""Small components that keep their contracts, for the kits to be tried on; broken ones derive from them."""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import torch

from medrecon.errors import InputError, StageError
from medrecon.images import read_any, to_grey, write_png
from medrecon.types import Features, Frame, FrameSet, Matches, Mesh, RenderOut


class CornerExtractor:
    def extract(self, image, mask=None):
        grey = np.ascontiguousarray(to_grey(np.ascontiguousarray(image)))
        use = np.ones(grey.shape, np.uint8) if mask is None else mask.astype(np.uint8)
        corners = cv2.goodFeaturesToTrack(grey, 200, 0.02, 4, mask=use) if min(grey.shape) > 8 and use.any() else None
        xy = (np.zeros((0, 2)) if corners is None else corners.reshape(-1, 2)).astype(np.float32) + np.float32(0.5)
        n = len(xy)
        return Features(xy, np.ones(n, np.float32), np.ones((n, 4), np.float32), "l2", grey.shape[::-1], "corners")


class MutualMatcher:
    batch_size = 2

    def match_pairs(self, pairs):
        return [self.match(a, b) for a, b in pairs]

    def match(self, a, b):
        if a.metric != b.metric:
            raise InputError(f"{a.metric} and {b.metric} descriptors cannot be compared", "use one extractor")
        if not len(a) or not len(b):
            return Matches.empty()
        d = ((a.descriptors[:, None].astype(np.float32) - b.descriptors[None].astype(np.float32)) ** 2).sum(-1)
        ab, ba = d.argmin(1), d.argmin(0)
        i = np.flatnonzero(ba[ab] == np.arange(len(a)))
        idx = np.stack([i, ab[i]], 1).astype(np.int32)
        return Matches(idx, (-d[idx[:, 0], idx[:, 1]]).astype(np.float32))


class EveryPair:
    def pairs(self, frames, features):
        return list(combinations([f.frame_id for f in frames.frames], 2))


class FolderSource:
    def __init__(self, folder):
        self.folder = folder

    def read(self, out_dir, progress):
        frames = []
        for i, path in enumerate(sorted(self.folder.glob("*.png"))):
            image = read_any(path)
            where = out_dir / "images" / f"{i:06d}.png"
            write_png(where, image)
            frames.append(Frame(i, f"{i:06d}", where, image.shape[1], image.shape[0]))
        return FrameSet(tuple(frames), "a folder").validate()


class Ball(torch.nn.Module):
    """A soft ball of one density, seen by eight samples a ray; colour from an appearance row per frame."""

    def setup(self, scene, frame_ids, seed):
        generator = torch.Generator().manual_seed(seed)
        self.raw = torch.nn.Parameter(torch.randn(1, generator=generator))
        self.codes = torch.nn.Parameter(torch.zeros(64, 3))

    def density(self, xyz):
        return torch.nn.functional.softplus(self.raw) * torch.sigmoid(8 * (0.7 - xyz.norm(dim=-1)))

    def render_depth(self, rays):
        return self.render(rays)

    def render(self, rays, appearance=None, jitter=0.5):
        edges = torch.linspace(0, 1, 9)
        t = rays.near + (rays.far - rays.near) * edges
        middle = t[:, :-1] + (t[:, 1:] - t[:, :-1]) * jitter
        xyz = rays.origins[:, None] + middle[..., None] * rays.directions[:, None]
        alpha = 1 - torch.exp(-self.density(xyz.reshape(-1, 3)).reshape(middle.shape) * (t[:, 1:] - t[:, :-1]))
        before = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)[:, :-1]
        weights = alpha * before
        opacity = weights.sum(1)
        depth = torch.where(opacity > 0, (weights * middle).sum(1) / opacity.clamp_min(1e-9), torch.zeros(()))
        rgb = torch.sigmoid(self.codes[rays.frame_ids]) * opacity[:, None]
        return RenderOut(rgb, depth, opacity)

    def loss(self, rays, rgb, weight, step, generator):
        out = self.render(rays, jitter=torch.rand(len(rays), 1, generator=generator))
        loss = (weight[:, None] * (out.rgb - rgb) ** 2).mean()
        return loss, {"loss": float(loss.detach())}


class SeenBall:
    """A sphere of triangles as large as the depth in the middle of a view says, where the cameras see it."""

    def mesh(self, run, device, progress):
        from medrecon.radiance import load_field

        field, scene = load_field(run, device)
        centres = np.array([scene.cam_from_field(scene.cam_from_sfm[i]).center for i in scene.train_ids])
        rays = scene.rays(scene.train_ids[0])
        out = field.render_depth(rays)
        near = out.depth_median[out.opacity > 0.5]
        if not len(near):
            raise StageError("transparent", "train longer")
        radius = float(np.linalg.norm(centres[0]) - near.min())
        u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 49), np.linspace(0, np.pi, 25), indexing="ij")
        p = radius * np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], -1).reshape(-1, 3)
        k = (np.arange(48)[:, None] * 25 + np.arange(24)).ravel()
        faces = np.concatenate([np.stack([k, k + 1, k + 26], 1), np.stack([k, k + 26, k + 25], 1)])
        seen = ((p @ centres.T) > radius**2).any(1)
        faces = faces[seen[faces].all(1)]
        used, faces = np.unique(faces, return_inverse=True)
        scale = run.sparse.scale
        placed = (scale.metric_from_sfm @ scene.field_from_sfm.inverse()).apply(p[used])
        return Mesh(placed, faces.reshape(-1, 3).astype(np.int32), unit=scale.unit)


def changed(out, **fields):
    """Features, Matches or RenderOut with some fields replaced."""
    return replace(out, **fields)
