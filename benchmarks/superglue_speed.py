# SPDX-License-Identifier: Apache-2.0
"""Speed of SuperGlue beside the plain eager one and the transformers library's, and how far the outputs are apart."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from peers.superglue_eager import superglue as eager
from peers.superglue_transformers import match as library_match
from peers.superglue_transformers import transformers_superglue
from superpoint_speed import photographs, resized

from medrecon.bench.speed.alternating import Timing, alternate
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.images import cv2
from medrecon.matching.superglue import SuperglueMatcher, SuperglueMatcherConfig
from medrecon.matching.superglue_network import SuperglueNetwork, normalise_keypoints
from medrecon.networks.checkpoint import load_network
from medrecon.networks.weights import weights_path
from medrecon.types import Features, Matches

Pair = tuple[Features, Features]


@dataclass(frozen=True)
class Row:
    """One implementation: its time for a pair, and what it finds beside ours.

    Attributes:
        equal_matches: share of the matches of either that both have, over all pairs.
        scores_difference, scores_difference_p95: largest and 95th percentile of those shared matches.
    """

    name: str
    time: Timing
    matches: int
    equal_matches: float
    scores_difference: float
    scores_difference_p95: float


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="superglue-outdoor", help="asset name or checkpoint file")
    parser.add_argument("--superpoint", default="superpoint", help="the extractor's: asset name or checkpoint file")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "bf16"), help="of ours, on a GPU")
    parser.add_argument("--keypoints", type=int, default=1024, help="per image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3, help="how many of the three pairs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    config = SuperglueMatcherConfig(
        weights=options.weights, device=options.device, precision=options.precision, max_keypoints=options.keypoints
    ).settled()
    pairs = picture_pairs(options.superpoint, options.keypoints, options.device)[: options.pairs]
    rows = compare(implementations(config), pairs, options.repeats)
    print(f"{options.keypoints} keypoints an image, {options.device}, {options.threads} threads, median of "
          f"{options.repeats} rounds over {len(pairs)} pairs")  # fmt: skip
    print(f"{'':<15}{Timing.HEAD}{'matches':>9}{'equal':>9}{'d score':>10}{'95 %':>10}")
    for r in rows:
        print(f"{r.name:<15}{r.time}{r.matches:>9}{r.equal_matches:>9.2%}"
              f"{r.scores_difference:>10.1e}{r.scores_difference_p95:>10.1e}")  # fmt: skip
    if options.json:
        machine = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        result = {"schema": 1, "device": machine, "precision": options.precision, "threads": options.threads,
                  "torch": torch.__version__, "keypoints": options.keypoints, "pairs": len(pairs),
                  "repeats": options.repeats, "rows": [asdict(r) for r in rows]}  # fmt: skip
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def picture_pairs(weights: str, n: int, device: str) -> list[Pair]:
    """Exactly ``n`` keypoints of real pictures of 640 x 480, and of the same seen from elsewhere."""
    config = {"weights": weights, "max_keypoints": n, "threshold": 0.0, "device": device, "precision": "fp32"}
    extractor = SuperpointExtractor(SuperpointExtractorConfig.model_validate(config))
    pairs = []
    for i, photograph in enumerate(photographs()):
        picture = resized(photograph, (640, 480))
        corners = np.float32([[0, 0], [640, 0], [640, 480], [0, 480]])
        moved = corners + np.random.default_rng(i).uniform(-60, 60, (4, 2)).astype(np.float32)
        other = cv2.warpPerspective(picture, cv2.getPerspectiveTransform(corners, moved), (640, 480))
        pair = extractor.extract(picture), extractor.extract(other)
        if min(map(len, pair)) < n:
            raise SystemExit(f"only {min(map(len, pair))} keypoints found, {n} wanted: ask for fewer with --keypoints")
        pairs.append(pair)
    return pairs


def implementations(config: SuperglueMatcherConfig) -> dict[str, Callable[[Pair], Matches]]:
    """Ours first, then its peers, each from a pair of features to its matches."""
    network = load_network(weights_path(config.weights), SuperglueNetwork).to(config.device)
    model = transformers_superglue(network, config.sinkhorn_iterations, config.match_threshold).to(config.device)
    matcher = SuperglueMatcher(config)
    return {
        "medrecon": lambda pair: matcher.match(*pair),
        "plain eager": lambda pair: _eager(network, pair, config),
        "transformers": lambda pair: _library(model, pair, config.device),
    }


def _eager(network: SuperglueNetwork, pair: Pair, config: SuperglueMatcherConfig) -> Matches:
    a, b = (
        tuple(
            torch.from_numpy(t).to(config.device)[None]
            for t in (normalise_keypoints(torch.from_numpy(f.xy), f.image_size).numpy(), f.scores, f.descriptors)
        )
        for f in pair
    )
    inner = eager(network, a, b, config.sinkhorn_iterations)[0, :-1, :-1]
    best, column = inner.max(1)
    mutual = inner.max(0).indices[column] == torch.arange(len(best), device=inner.device)
    chosen = torch.nonzero(mutual & (best.exp() > config.match_threshold))[:, 0]
    return _matches(chosen, column[chosen], best[chosen].exp())


def _library(model: torch.nn.Module, pair: Pair, device: str) -> Matches:
    stack = lambda name: torch.from_numpy(np.stack([getattr(f, name) for f in pair])).to(device)  # noqa: E731
    partner, scores = library_match(model, stack("xy") - 0.5, stack("descriptors"), stack("scores"), pair[0].image_size)
    chosen = torch.nonzero(partner >= 0)[:, 0]
    return _matches(chosen, partner[chosen], scores[chosen])


def _matches(rows: torch.Tensor, columns: torch.Tensor, scores: torch.Tensor) -> Matches:
    return Matches(torch.stack([rows, columns], 1).int().cpu().numpy(), scores.cpu().numpy())


def compare(functions: dict[str, Callable[..., Matches]], pairs: list[Pair], repeats: int) -> list[Row]:
    """Times them in turns and compares what they find with what the first does."""
    times, found = alternate(functions, pairs, repeats)
    ours, rows = found[next(iter(functions))], []
    for name in functions:
        shared, either, errors = difference(ours, found[name])
        n, tail = sum(map(len, found[name])), np.quantile(errors, 0.95) if len(errors) else 0.0
        rows.append(Row(name, times[name], n, shared / max(either, 1), float(errors.max(initial=0)), float(tail)))
    return rows


def difference(ours: list[Matches], theirs: list[Matches]) -> tuple[int, int, np.ndarray]:
    """Matches that both found, that either found, and how far the scores of the former are apart."""
    sides = [
        {(k, *idx): s for k, m in enumerate(each) for idx, s in zip(m.idx.tolist(), m.scores.tolist())}
        for each in (ours, theirs)
    ]
    both = sides[0].keys() & sides[1].keys()
    return len(both), len(sides[0].keys() | sides[1].keys()), np.array([abs(sides[0][k] - sides[1][k]) for k in both])


if __name__ == "__main__":
    main()
