# SPDX-License-Identifier: Apache-2.0
"""The mip-NeRF training step and rendering through the fused field, beside the same network in PyTorch.

Cones, integrated encoding of 16 octaves, a trunk, a colour head that also gets direction and a 48-d appearance code,
compositing; for training the loss, all gradients and Adam. Counted is the arithmetic of the network's matrices that
meet every sample: 2 operations per weight and sample forward, 6 with gradients, none for what is computed again on the
way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon import ops
from medrecon.bench.speed.workload import Workload, compiled, largest_difference, name_of
from medrecon.ops import reference

OCTAVES, N_VIEW = 16, 27 + 48
NETWORKS = ((2, 64), (3, 128), (8, 256))


class Plain(nn.Module):
    """The network as a user of PyTorch writes it: direction and code beside the features of every sample."""

    def __init__(self, width: int, layers: int):
        super().__init__()
        sizes = [6 * OCTAVES] + [width] * layers
        self.trunk = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.density_head = nn.Linear(width, 1)
        self.colour_hidden = nn.Linear(width + N_VIEW, width // 2)
        self.colour_head = nn.Linear(width // 2, 3)

    def forward(self, rays: tuple[Tensor, ...], view: Tensor) -> Tensor:
        t, _, directions, _ = rays
        n, s = t.shape[0], t.shape[1] - 1
        x = reference.integrated_positional_encoding(*reference.cast_rays(*rays), 0, OCTAVES)
        for layer in self.trunk:
            x = F.relu(layer(x))
        density = F.softplus(self.density_head(x).squeeze(-1) - 1)
        hidden = F.relu(self.colour_hidden(torch.cat([x, view[:, None].expand(n, s, N_VIEW)], -1)))
        return reference.composite(torch.sigmoid(self.colour_head(hidden)), density, t, directions)[0]


class Fused(nn.Module):
    """The same network for ``fused_field``: all that meets every sample in one vector, the rest once per ray."""

    def __init__(self, plain: Plain, width: int, layers: int):
        super().__init__()
        hidden = plain.colour_hidden
        pieces = [p for layer in plain.trunk for p in (layer.weight, layer.bias)]
        pieces += [plain.density_head.weight, plain.density_head.bias, hidden.weight[:, :width]]
        pieces += [plain.colour_head.weight, plain.colour_head.bias]
        self.parameters_of_samples = nn.Parameter(torch.cat([p.detach().flatten() for p in pieces]))
        self.from_view = nn.Linear(N_VIEW, width // 2, device=hidden.weight.device)
        with torch.no_grad():
            self.from_view.weight.copy_(hidden.weight[:, width:])
            self.from_view.bias.copy_(hidden.bias)
        self.shape = {"max_deg": OCTAVES, "width": width, "layers": layers, "colour_width": width // 2}

    def forward(self, rays: tuple[Tensor, ...], view: Tensor) -> Tensor:
        return ops.fused_field(*rays, self.parameters_of_samples, self.from_view(view), **self.shape)[0]

    def loss(self, rays: tuple[Tensor, ...], view: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        inputs = (*rays, self.parameters_of_samples, self.from_view(view), target, weight)
        return ops.fused_field_loss(*inputs, **self.shape)[0]


def field_workloads(device: str, quick: bool, compile: bool, only: str = "") -> Iterator[Workload]:
    """Training and rendering with each network; the smallest also on fewer and on more rays."""
    sizes = [(*network, 1024, 64) for network in NETWORKS] + [(*NETWORKS[0], rays, 64) for rays in (256, 4096)]
    for layers, width, n, s in [(*NETWORKS[0], 128, 32)] if quick else sizes:
        size = f"{n} x {s}, {layers} x {width}"
        if any(only in name_of("mipnerf", what, size) for what in ("rendering", "training step")):
            yield from _rows(layers, width, n, s, device, compile and n == 1024)


def _rows(layers: int, width: int, n: int, s: int, device: str, compile: bool) -> Iterator[Workload]:
    torch.manual_seed(0)
    with torch.device(device):
        t = torch.linspace(1, 5, s + 1).expand(n, s + 1).contiguous()
        rays = (t, torch.randn(n, 3), torch.randn(n, 3), torch.full((n, 1), 0.005))
        view, target, weight = torch.randn(n, N_VIEW), torch.rand(n, 3), torch.full((n,), 1 / n)
        plain = Plain(width, layers)
        fused = Fused(plain, width, layers)
    per_sample = 6 * OCTAVES * width + (layers - 1) * width**2 + width + width * (width // 2) + 3 * (width // 2)
    size = f"{n} x {s}, {layers} x {width}"
    read = sum(x.nbytes for x in (*rays, view)) + sum(p.nbytes for p in fused.parameters())
    written = 12 * n + 8 * n + 4 * n * s

    def difference() -> float:
        with torch.no_grad():
            return largest_difference((fused(rays, view),), (plain(rays, view),))

    def render(network: nn.Module) -> Callable[[], Any]:
        def call() -> None:
            with torch.no_grad():
                network(rays, view)

        return call

    def train(network: nn.Module) -> Callable[[], Any]:
        return step(network, lambda: ((network(rays, view) - target) ** 2).mean())

    untrained = {"medrecon": partial(render, fused), "eager": partial(render, plain)}
    makers: dict[str, Any] = {**untrained}
    if compile:
        makers["compiled"] = compiled(plain, render)
    yield Workload("mipnerf", "rendering", size, 2 * per_sample * n * s, read + written, makers, difference)
    makers = {
        "medrecon": lambda: step(fused, lambda: fused.loss(rays, view, target, weight)),
        "eager": partial(train, plain),
    }
    if compile:
        makers["compiled"] = compiled(plain, train)
    # Adam reads and writes a parameter, two moments and a gradient.
    moved = read + written + 7 * sum(p.nbytes for p in fused.parameters())
    yield Workload("mipnerf", "training step", size, 6 * per_sample * n * s, moved, makers, difference)


def step(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Any]:
    """A training step: loss, gradients, Adam."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-6, fused=True)  # a small rate: the work stays the same

    def call() -> None:
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    return call
