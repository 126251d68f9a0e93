# SPDX-License-Identifier: Apache-2.0
"""The mip-NeRF training step through ``fused_field_loss`` beside the same step in PyTorch, and rendering likewise.

1024 rays x 64 samples, 16 octaves, direction and 48-d appearance code in the colour head, Adam(fused=True), float32.
The kinds compared take turns in one run, with the machine's own ceiling (sgemm of 2048^3). A row says how many times
faster than PyTorch, and which part of the ceiling: 6 operations (2 without gradients) per sample and weight of the
matrices that every sample meets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medrecon import ops
from medrecon.ops import reference

OCTAVES, N_VIEW = 16, 27 + 48


@dataclass(frozen=True)
class Row:
    """Median milliseconds of one kind of step of one network."""

    network: str
    what: str
    ms: dict[str, float]
    ratio: dict[str, float]
    gflops: float
    ceiling_gflops: float
    fraction: float


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
        self.from_view = nn.Linear(N_VIEW, width // 2)
        with torch.no_grad():
            self.from_view.weight.copy_(hidden.weight[:, width:])
            self.from_view.bias.copy_(hidden.bias)
        self.shape = {"max_deg": OCTAVES, "width": width, "layers": layers, "colour_width": width // 2}

    def forward(self, rays: tuple[Tensor, ...], view: Tensor) -> Tensor:
        return ops.fused_field(*rays, self.parameters_of_samples, self.from_view(view), **self.shape)[0]

    def loss(self, rays: tuple[Tensor, ...], view: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        inputs = (*rays, self.parameters_of_samples, self.from_view(view), target, weight)
        return ops.fused_field_loss(*inputs, **self.shape)[0]


def step_of(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
    """A training step: loss, gradients, Adam."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, fused=True)

    def step() -> float:
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return value.item()

    return step


def medians(calls: dict[str, Callable], repeats: int, warm: int = 2) -> dict[str, float]:
    """Milliseconds of each; they take turns, so that other work on the machine meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + warm):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values[warm:]) for name, values in times.items()}


def measure(width: int, layers: int, n: int, s: int, repeats: int, compiled: bool) -> list[Row]:
    """Training and rendering with one network."""
    directions = torch.randn(n, 3)
    t = torch.linspace(1, 5, s + 1).expand(n, s + 1).contiguous()
    rays = (t, torch.randn(n, 3), directions, torch.full((n, 1), 0.005))
    view, target, weight = torch.randn(n, N_VIEW), torch.rand(n, 3), torch.full((n,), 1 / n)
    plain = Plain(width, layers)
    fused = Fused(plain, width, layers)
    big = torch.randn(2048, 2048)
    ceiling: dict[str, Callable] = {"sgemm": lambda: big @ big}

    training = {
        "fused": step_of(fused, lambda: fused.loss(rays, view, target, weight)),
        "eager": step_of(plain, lambda: ((plain(rays, view) - target) ** 2).mean()),
    }
    with torch.no_grad():
        difference = (plain(rays, view) - fused(rays, view)).abs().max().item()
    if difference > 1e-3:
        raise SystemExit(f"the two networks differ by {difference}")
    if compiled:
        quick = torch.compile(Plain(width, layers))
        training["compiled"] = step_of(quick, lambda: ((quick(rays, view) - target) ** 2).mean())
    weights = 6 * OCTAVES * width + (layers - 1) * width**2 + width + width * (width // 2) + 3 * (width // 2)
    rows = []

    @torch.no_grad()
    def render(network: nn.Module) -> None:
        network(rays, view)

    rendering = {"fused": lambda: render(fused), "eager": lambda: render(plain)}
    for what, calls, operations in (("training step", training, 6), ("rendering", rendering, 2)):
        ms = medians({**calls, **ceiling}, repeats)
        top = 2 * 2048**3 / ms.pop("sgemm") / 1e6
        gflops = operations * weights * n * s / ms["fused"] / 1e6
        ratio = {name: value / ms["fused"] for name, value in ms.items() if name != "fused"}
        rows.append(Row(f"{layers} x {width}", what, ms, ratio, gflops, top, gflops / top))
    return rows


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="2x64,3x128,8x256", help="layers x width, separated by commas")
    parser.add_argument("--rays", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    info = ops.backend()
    print(f"backend {info.name} ({info.build_info.get('simd')}), torch {torch.__version__}, {options.threads} threads")
    rows = []
    for name in options.networks.split(","):
        layers, width = map(int, name.split("x"))
        for row in measure(width, layers, options.rays, options.samples, options.repeats, options.compile):
            rows.append(row)
            times = ", ".join(f"{kind} {value:.1f} ms" for kind, value in row.ms.items())
            ratios = ", ".join(f"{value:.2f}x {kind}" for kind, value in row.ratio.items())
            speed = f"{row.gflops:.0f} of {row.ceiling_gflops:.0f} GFLOP/s = {row.fraction:.0%}"
            print(f"{row.network:<8} {row.what:<14} {times}; {ratios}; {speed}", flush=True)
    if options.json:
        result = {
            "schema": 1,
            "torch": torch.__version__,
            "threads": options.threads,
            "simd": info.build_info.get("simd"),
        }
        options.json.write_text(json.dumps(result | {"rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
