# SPDX-License-Identifier: Apache-2.0
"""Speed of SuperPoint beside the plain eager one and the transformers library's, and how far the outputs are apart."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import skimage
import torch
from peers.superpoint_eager import superpoint as eager
from peers.superpoint_transformers import run, transformers_superpoint

from medrecon.bench.speed.alternating import Timing, alternate
from medrecon.features.superpoint import SuperpointExtractor, SuperpointExtractorConfig
from medrecon.features.superpoint_network import SuperpointNetwork
from medrecon.images import cv2, read_rgb, to_grey
from medrecon.networks.checkpoint import load_network
from medrecon.networks.weights import weights_path

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # xy [N, 2] px, scores [N], descriptors [N, D]


@dataclass(frozen=True)
class Row:
    """One implementation: its time, and what it finds beside ours.

    Attributes:
        equal_keypoints: share of keypoints within 0.01 px of one of ours, over all pictures.
        scores_difference, descriptors_difference: largest of those shared keypoints.
    """

    name: str
    time: Timing
    keypoints: int
    equal_keypoints: float
    scores_difference: float
    descriptors_difference: float


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="superpoint", help="asset name or checkpoint file")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "bf16"), help="of ours")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--max-keypoints", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    config = SuperpointExtractorConfig.model_validate(
        {
            "weights": options.weights,
            "max_keypoints": options.max_keypoints,
            "max_size_px": None,
            "device": options.device,
            "precision": options.precision if options.device == "cuda" else "auto",
        }
    )
    pictures = [resized(p, tuple(options.size)) for p in photographs()]
    rows = compare(implementations(config), pictures, options.repeats)
    print(f"{options.size[0]} x {options.size[1]}, {options.device}, {options.threads} threads, median of "
          f"{options.repeats} rounds over {len(pictures)} pictures")  # fmt: skip
    print(f"{'':<15}{Timing.HEAD}{'keypoints':>11}{'equal':>9}{'d score':>10}{'d descr':>10}")
    for r in rows:
        print(f"{r.name:<15}{r.time}{r.keypoints:>11}{r.equal_keypoints:>9.2%}"
              f"{r.scores_difference:>10.1e}{r.descriptors_difference:>10.1e}")  # fmt: skip
    if options.json:
        machine = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        result = {"schema": 1, "device": machine, "precision": options.precision, "threads": options.threads,
                  "torch": torch.__version__, "size": list(options.size), "max_keypoints": options.max_keypoints,
                  "pictures": len(pictures), "repeats": options.repeats, "rows": [asdict(r) for r in rows]}  # fmt: skip
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def photographs() -> list[np.ndarray]:
    """Real pictures that scikit-image carries."""
    folder = Path(skimage.__file__).parent / "data"
    return [to_grey(read_rgb(folder / name)) for name in ("astronaut.png", "motorcycle_left.png", "retina.jpg")]


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut to the shape of (width, height), then scaled to it."""
    factor = max(size[0] / picture.shape[1], size[1] / picture.shape[0])
    width, height = (min(round(s / factor), n) for s, n in zip(size, picture.shape[::-1]))
    return cv2.resize(picture[:height, :width], size, interpolation=cv2.INTER_AREA)


def implementations(config: SuperpointExtractorConfig) -> dict[str, Callable[[np.ndarray], Found]]:
    """Ours first, then its peers, each from a grey picture uint8 [H, W] to what it finds."""
    extractor = SuperpointExtractor(config)
    network = load_network(weights_path(config.weights), SuperpointNetwork).to(extractor.device)
    model = transformers_superpoint(network, max_keypoints=config.max_keypoints).to(extractor.device)

    def ours(picture: np.ndarray) -> Found:
        f = extractor.extract(picture)
        return f.xy, f.scores, f.descriptors

    def peer(function: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> Callable[[np.ndarray], Found]:
        def call(picture: np.ndarray) -> Found:
            x = torch.from_numpy(picture).to(extractor.device)[None, None] / 255
            xy, scores, descriptors = (t.cpu().numpy() for t in function(x))
            return xy + 0.5, scores, descriptors

        return call

    return {
        "medrecon": ours,
        "plain eager": peer(lambda x: eager(network, x, limit=config.max_keypoints)),
        "transformers": peer(lambda x: run(model, x)),
    }


def compare(functions: dict[str, Callable], pictures: list[np.ndarray], repeats: int) -> list[Row]:
    """Times them in turns and compares what they find with what the first does."""
    times, found = alternate(functions, pictures, repeats)
    ours, rows = found[next(iter(functions))], []
    for name in functions:
        shared, scores, descriptors = zip(*(difference(a, b) for a, b in zip(ours, found[name])))
        n, n_ours = (sum(len(f[0]) for f in each) for each in (found[name], ours))
        rows.append(Row(name, times[name], n, sum(shared) / max(n, n_ours), max(scores), max(descriptors)))
    return rows


def difference(a: Found, b: Found) -> tuple[int, float, float]:
    """Number of keypoints within 0.01 px of each other, and their largest differences in score and descriptor."""
    place = {tuple(np.round(p, 1)): i for i, p in enumerate(b[0])}
    pairs = [(i, place[key]) for i, p in enumerate(a[0]) if (key := tuple(np.round(p, 1))) in place]
    i, j = np.array(pairs, int).reshape(-1, 2).T
    near = np.abs(a[0][i] - b[0][j]).max(1, initial=0) < 0.01
    i, j = i[near], j[near]
    return len(i), float(np.abs(a[1][i] - b[1][j]).max(initial=0)), float(np.abs(a[2][i] - b[2][j]).max(initial=0))


if __name__ == "__main__":
    main()
