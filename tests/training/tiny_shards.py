# SPDX-License-Identifier: Apache-2.0
"""Shards of a few kilobytes and settings that train in seconds: what the whole chain is tried with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from medrecon.training.shards import ShardMeta, write_photos, write_volume

SUPERPOINT = (
    "encoder_widths=4,4,8,8", "head_width=8", "descriptor_size=16", "views=10", "validation_views=10", "batch=2",
    "crop=64,64", "validation_pairs=2", "validation_size=64,64", "corners=16", "others=16",
)  # fmt: skip
SUPERGLUE = (
    "width=16", "layers=2", "heads=2", "encoder_widths=8", "image_px=64,64", "keypoints=16", "pairs=2", "views=10",
    "validation_views=10", "validation_pairs=4", "sinkhorn_iterations=5",
)  # fmt: skip


def write(folder: Path) -> Path:
    """A lumpy ball (CT) and two photographs in each split."""
    for seed, split in enumerate(("train", "val", "test")):
        rng = np.random.default_rng(seed)
        n = 32
        x = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2] * 3, indexing="ij"))
        lumps = cv2.GaussianBlur(rng.normal(size=(n, n * n)).astype(np.float32), (0, 0), 2).reshape(n, n, n)
        volume = np.where(np.linalg.norm(x, axis=0) < 11 + 12 * lumps, 150 + 500 * lumps, 5).clip(0, 255)
        facts = {"license": "CC0-1.0", "citation": "made here"}
        meta = ShardMeta(
            f"ball-{split}", f"ball {split}", split, "CT", **facts, value_range=(-1000.0, 1000.0), presets=("skin",)
        )
        write_volume(folder, meta, volume.astype(np.uint8), (2.0, 2.0, 2.0))
        photos = np.stack([cv2.GaussianBlur(rng.integers(0, 256, (96, 128), np.uint8), (0, 0), 2) for _ in range(2)])
        photos = cv2.normalize(photos, None, 0, 255, cv2.NORM_MINMAX)
        write_photos(folder, ShardMeta(f"photos-{split}", f"photos {split}", split, "photo", **facts), photos)
    return folder
