# SPDX-License-Identifier: Apache-2.0
"""Trains the demo scene through the grid ops: held-out PSNR after some minutes, and the time of a frame.

    python benchmarks/grid_scene.py DIR/chest.npz [--minutes N] [--device cpu|cuda] [--json FILE]

The file is made by make_grid_scene.py. Needs only torch and numpy. On the CPU a step is one fused_grid_loss; on a GPU
the same is put together from march_rays, grid_encode, torch and composite_packed. One picture in five is held out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from medrecon import ops

RESOLUTIONS, LOG2_SIZE, FEATURES, WIDTH, CELLS = (16, 24, 35, 53, 78, 116, 172, 256), 18, 2, 32, 128
DENSITY_SHIFT, STOP = 4.0, 1e-3
# From which share of the time on: intervals along the cube's edge. Coarse ones fade the fine levels, see `Scene.rays`.
STAGES = ((0.0, 64), (0.05, 128), (0.15, 256))
SAMPLES = 1 << 16  # about so many a step
THRESHOLD, REFRESH = 0.05, 16  # share of light that a step in an empty cell takes; steps between looks


class Scene:
    """Pictures and cameras on one device.

    Attributes:
        images: uint8 [V, H, W, 3]; pose: [V, 3, 4], world from camera; focal: pixels.
        distance: [V], of the camera from the middle of the cube.
        training, held_out: numbers of the pictures.
    """

    def __init__(self, path: Path, device: str):
        with np.load(path) as data:
            self.images = torch.from_numpy(data["images"]).to(device)
            self.pose = torch.from_numpy(data["world_from_camera"]).to(device)
            self.focal = float(data["focal"])
        self.distance = (self.pose[:, :, 3] - 0.5).norm(dim=-1)
        self.device = torch.device(device)
        self.height, self.width = self.images.shape[1:3]
        views = range(len(self.images))
        self.held_out = [i for i in views if i % 5 == 2]
        self.training = torch.tensor([i for i in views if i % 5 != 2], device=device)

    def rays(self, view: Tensor, row: Tensor, column: Tensor, step: float) -> dict[str, Tensor]:
        """Of pixels [N], each as wide as a pixel or an interval, whichever is more; for `Field.arguments`."""
        x, y = (column + 0.5 - self.width / 2) / self.focal, (row + 0.5 - self.height / 2) / self.focal
        local = torch.stack([x, y, torch.ones_like(x)], -1) * (x * x + y * y + 1).rsqrt()[:, None]
        pose = self.pose[view]
        radii = (step / self.distance).clamp(min=1 / self.focal) * 2 / 12**0.5  # mip-NeRF's, of something so wide
        return {
            "origins": pose[:, :, 3],
            "directions": (pose[:, :, :3] @ local[..., None]).squeeze(-1),
            "near": torch.zeros_like(x),
            "far": self.distance[view] + 1,
            "radii": radii[view],
        }

    def hull(self, cells: int = 64) -> Tensor:
        """bool [CELLS^3], x fastest: cells that no training picture shows to be black."""
        axis = (torch.arange(cells, device=self.device) + 0.5) / cells
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        points = torch.stack([x, y, z], -1).reshape(-1, 3)
        kept = torch.arange(len(points), device=self.device)
        for view in self.training.tolist():
            seen = self.images[view].amax(-1)[None, None].float()
            reach = 2 * int(self.focal / cells) + 1  # a cell's width in pixels, on both sides
            seen = F.max_pool2d(seen, reach, 1, reach // 2)[0, 0] > 4
            local = (points[kept] - self.pose[view, :, 3]) @ self.pose[view, :, :3]
            column, row = (local[:, :2] / local[:, 2:] * self.focal).unbind(-1)
            column, row = (column + self.width / 2).long(), (row + self.height / 2).long()
            inside = (column >= 0) & (column < self.width) & (row >= 0) & (row < self.height)
            black = ~seen[row.clamp(0, self.height - 1), column.clamp(0, self.width - 1)]
            kept = kept[~(inside & black)]
        full = torch.zeros(len(points), device=self.device).index_fill(0, kept, 1.0).view(1, 1, cells, cells, cells)
        return F.interpolate(full, (CELLS,) * 3)[0, 0].flatten() > 0


class Field(torch.nn.Module):
    """Grid, network and the cells that are not empty."""

    def __init__(self, candidates: Tensor):
        super().__init__()
        n_in, device = len(RESOLUTIONS) * FEATURES, candidates.device
        entries = ops.grid_levels(RESOLUTIONS, LOG2_SIZE)[-1]
        self.table = torch.nn.Parameter((torch.rand(entries, FEATURES, device=device) * 2 - 1) * 1e-4)
        layers = [torch.nn.Linear(n_in, WIDTH), torch.nn.Linear(WIDTH, 1), torch.nn.Linear(WIDTH, WIDTH, bias=False)]
        layers.append(torch.nn.Linear(WIDTH, 3))
        flat = torch.cat([p.detach().flatten() for layer in layers for p in layer.parameters()])
        self.parameters_ = torch.nn.Parameter(flat.to(device))
        self.from_view = torch.nn.Linear(9, WIDTH, device=device)
        self.candidates = candidates.nonzero().squeeze(1)
        self.density = torch.full((len(self.candidates),), -1.0, device=device)  # -1: nobody looked yet
        self.bits = _bits(candidates)

    def arguments(self, rays: dict[str, Tensor], step: float) -> tuple[tuple[Tensor, ...], dict]:
        """Of fused_grid."""
        x, y, z = rays["directions"].unbind(-1)
        view = torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], -1)
        tensors = *(rays[k] for k in ("origins", "directions", "near", "far")), self.bits, self.table, self.parameters_
        shape = {"resolutions": RESOLUTIONS, "log2_size": LOG2_SIZE, "width": WIDTH, "colour_width": WIDTH}
        numbers = {"resolution": CELLS, "step": step, "stop": STOP, "density_shift": DENSITY_SHIFT}
        return (*tensors, self.from_view(view)), {**shape, **numbers, "radii": rays["radii"]}

    @torch.no_grad()
    def refresh(self, step: float, every: int = 8) -> None:
        """Looks at a share of the cells, at a random point of each; a decaying maximum tells the empty ones."""
        first = int(torch.randint(every, (1,)))
        cell = self.candidates[first::every]
        corner = torch.stack([cell % CELLS, cell // CELLS % CELLS, cell // CELLS**2], -1)
        x = (corner + torch.rand(len(cell), 3, device=cell.device)) / CELLS
        features = ops.grid_encode(x, None, self.table, RESOLUTIONS, LOG2_SIZE)
        n_in = features.shape[1]
        weight, bias, head, more = self.parameters_.split([WIDTH * n_in, WIDTH, WIDTH, 1, WIDTH * (WIDTH + 3) + 3])[:4]
        raw = F.relu(F.linear(features, weight.view(WIDTH, n_in), bias)) @ head + more + DENSITY_SHIFT
        self.density[first::every] = torch.maximum(self.density[first::every] * 0.8, raw.clamp(max=15).exp())
        mean = self.density.clamp(0, 1e3).mean()
        full = torch.zeros(CELLS**3, dtype=torch.bool, device=cell.device)
        full[self.candidates] = (self.density < 0) | (self.density > mean.clamp(max=THRESHOLD / step))
        self.bits = _bits(full)

    def frame(self, scene: Scene, view: int) -> Tensor:
        """[H, W, 3]"""
        pixel, step = torch.arange(scene.height * scene.width, device=scene.device), 1 / STAGES[-1][1]
        with torch.no_grad():
            rays = scene.rays(torch.full_like(pixel, view), pixel // scene.width, pixel % scene.width, step)
            tensors, numbers = self.arguments(rays, step)
            return ops.fused_grid(*tensors, **numbers)[0].view(scene.height, scene.width, 3)


def _bits(cells: Tensor) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=cells.device)
    return (cells.view(-1, 8).to(torch.uint8) << shifts).sum(-1, dtype=torch.uint8)


def train(scene: Scene, seconds: float) -> tuple[Field, dict]:
    """The field after about so long, and figures of the training."""
    begun = time.perf_counter()
    field = Field(scene.hull())
    network = [field.parameters_, *field.from_view.parameters()]
    adam = ops.LazyAdam([{"params": [field.table], "rate": 5e-2}, {"params": network, "rate": 5e-3}])
    per_ray, steps, samples, device = 64.0, 0, 0, scene.device
    while (share := (time.perf_counter() - begun) / seconds) < 1:
        step = 1 / next(n for start, n in reversed(STAGES) if share >= start)
        for group in adam.param_groups:
            group["lr"] = group["rate"] * 0.02 ** max(0.0, (share - 0.1) / 0.9)
        n = max(64, min(1 << 14, round(SAMPLES / per_ray)))
        view = scene.training[torch.randint(len(scene.training), (n,), device=device)]
        row = torch.randint(scene.height, (n,), device=device)
        column = torch.randint(scene.width, (n,), device=device)
        tensors, numbers = field.arguments(scene.rays(view, row, column, step), step)
        target, weight = scene.images[view, row, column].float() / 255, torch.full((n,), 1 / n, device=device)
        jitter = torch.rand(n, device=device)
        adam.zero_grad()
        loss, _, seen = ops.fused_grid_loss(*tensors, target, weight, jitter=jitter, **numbers)
        loss.backward()
        adam.step()
        steps, count = steps + 1, int(seen.sum())
        samples, per_ray = samples + count, 0.8 * per_ray + 0.2 * max(count / n, 1.0)
        if steps % REFRESH == 0:
            field.refresh(step, 1 if steps <= 256 else 8)
    took = time.perf_counter() - begun
    return field, {"seconds": took, "steps": steps, "samples_per_second": samples / took}


def evaluate(field: Field, scene: Scene) -> dict:
    """Mean PSNR, in dB, of the held-out pictures, and the median time of a frame in ms."""
    psnr, ms = [], []
    for view in scene.held_out:
        begun = time.perf_counter()
        picture = field.frame(scene, view)
        if scene.device.type == "cuda":
            torch.cuda.synchronize()
        ms.append(1e3 * (time.perf_counter() - begun))
        error = (picture.clamp(0, 1) - scene.images[view].float() / 255).square().mean()
        psnr.append(-10 * torch.log10(error).item())
    return {"held_out_psnr_db": statistics.mean(psnr), "worst_psnr_db": min(psnr), "frame_ms": statistics.median(ms)}


def main() -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    scene = Scene(options.scene, options.device)
    field, figures = train(scene, 60 * options.minutes)
    info = ops.backend()
    figures |= {"device": options.device, "backend": info.name, "torch": torch.__version__, **evaluate(field, scene)}
    figures["occupied_cells"] = float(sum(bin(b).count("1") for b in field.bits.cpu().tolist())) / CELLS**3
    print("\n".join(f"{k}: {v:.4g}" if isinstance(v, float) else f"{k}: {v}" for k, v in figures.items()))
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, **figures}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
