# SPDX-License-Identifier: Apache-2.0
"""The picture at the top of the README, from a run of the demo: python benchmarks/make_readme_picture.py runs/demo."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from medrecon.images import read_rgb, write_png
from medrecon.runfolder import RunFolder
from medrecon.types.storage import read_npz

SIDE_PX = 300


def panel(image: np.ndarray, text: str) -> np.ndarray:
    """A square RGB panel with its caption."""
    out = cv2.resize(image, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    return cv2.putText(
        out.copy(), text, (8, SIDE_PX - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA
    )


def row(run: RunFolder, frame_id: int) -> np.ndarray:
    """Picture, rendered view and depth of one held-out frame."""
    render = run.stage_dir("render")
    frame = run.frames.by_id()[frame_id]
    depth = read_npz(render / "depth" / f"{frame_id:06d}.npz")["depth_sfm"]
    hit = depth > 0
    low, high = np.percentile(depth[hit], [2, 98])
    grey = np.where(hit, 255 - 200 * np.clip((depth - low) / (high - low), 0, 1), 0).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB) * hit[..., None].astype(
        np.uint8
    )
    rendered = read_rgb(render / "heldout" / f"{frame_id:06d}.png")
    return np.hstack(
        [
            panel(frame.load_image(), "picture, held out"),
            panel(rendered, "rendered from the reconstruction"),
            panel(colour, "its depth"),
        ]
    )


if __name__ == "__main__":
    folder = RunFolder(Path(sys.argv[1]))
    held_out = sorted(int(p.stem) for p in (folder.stage_dir("render") / "heldout").glob("*.png"))
    write_png(Path("docs/images/demo.png"), np.vstack([row(folder, i) for i in held_out[1:3]]))
