# SPDX-License-Identifier: Apache-2.0
"""SuperPoint (DeTone et al., CVPR workshops 2018): learned keypoints and descriptors from one convolutional network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from medrecon.config import ComponentConfig
from medrecon.errors import StageError
from medrecon.features.prepare import outside_mask, prepare, within
from medrecon.networks.device import Device, Precision, place, refuse_half_on_cpu
from medrecon.networks.weights import Weights, weights_assets, weights_path
from medrecon.types import Features

_CELL_PX = 8  # superpoint_network.CELL_PX; torch is imported only when an extractor is made
# The maps of the heads see 38 px around their cell: 5 whole cells.
_SIGHT_PX = 40
# How far one score is felt by the non-maximum suppression, in radii: a maximum, then twice what it hides and the
# maximum of what that leaves.
_NMS_REACH = 5


class SuperpointExtractorConfig(ComponentConfig):
    weights: Weights = Field(
        "superpoint", description="asset name, or a checkpoint: .safetensors of our own, .pth of the original form"
    )
    detector: Literal["superpoint", "shi-tomasi", "sift"] = Field(
        "superpoint",
        description="what finds the keypoints: superpoint, the network; shi-tomasi, corners; sift, blobs; "
        "the network describes them",
    )
    max_keypoints: int | None = Field(
        1024, ge=1, description="keypoints kept per image, the strongest first; null: all"
    )
    threshold: float = Field(
        0.005,
        ge=0,
        lt=1,
        description="least score of a keypoint: its probability; of shi-tomasi the change of grey (0..1) per px in the "
        "direction of least change, of sift the contrast (0..1)",
    )
    nms_radius_px: int = Field(4, ge=0, le=64, description="keypoints keep this distance along both axes; 0: no limit")
    border_px: int = Field(4, ge=0, description="nothing is kept nearer the edge of the image")
    subpixel: bool = Field(
        False,
        description="keypoints between the pixels, at the centre of gravity of the scores; the paper: false; "
        "classical detectors: always",
    )
    max_size_px: int | None = Field(
        1600, ge=32, description="larger images are shrunk to this longest side; null: never"
    )
    device: Device = Field("auto", description="auto: the GPU where there is one")
    # fp16 before bf16: the released network's maps stay below 700, and bf16 moves 1 keypoint in 12, fp16 1 in 50.
    precision: Precision = Field("auto", description="of the convolutions on a GPU, auto: fp16; a CPU takes fp32")

    @model_validator(mode="after")
    def _half_needs_a_gpu(self) -> "SuperpointExtractorConfig":
        refuse_half_on_cpu(self.device, self.precision)
        return self

    def assets(self) -> tuple[str, ...]:
        return weights_assets(self.weights)


class SuperpointExtractor:
    """Descriptors float32 [N, 256] of unit length, metric "l2"; keypoints by falling score, then y, then x.

    With a classical ``detector`` the network gives the descriptors alone, read where the keypoints lie between pixels.

    Raises:
        AssetError: the weights have not been fetched, or are damaged or of another network.
        ConfigError: a GPU is asked for and there is none.
    """

    def __init__(self, config: SuperpointExtractorConfig):
        import torch

        from medrecon.features.superpoint_network import SuperpointNetwork
        from medrecon.networks.checkpoint import load_network

        self.config = config
        self.device, self.dtype = place("superpoint", config.device, config.precision)
        self.network = load_network(weights_path(config.weights), SuperpointNetwork).requires_grad_(False)
        self.network.to(self.device, memory_format=torch.channels_last)

    def extract(self, image: np.ndarray, mask: np.ndarray | None = None) -> Features:
        """image uint8 [H, W] or [H, W, 3] RGB; mask bool [H, W], True = use.

        Nothing is found in images that are constant or smaller than a cell of 8 px, and none in a margin of up to 7 px
        on the right and below that fills no cell. A mask removes keypoints and changes nothing else: what it hides is
        still seen by those beside it.

        Raises:
            InputError: wrong dtype or shape.
            StageError: the network's output is not finite.
        """
        grey, small_mask, factor = prepare(image, mask, self.config.max_size_px)
        hidden = [(m, f) for m, f in ((small_mask, 1.0), (mask, factor)) if m is not None]
        xy, scores = np.zeros((0, 2)), np.zeros(0, np.float32)
        descriptors = np.zeros((0, self.network.config.descriptor_size), np.float32)
        region = _region(small_mask, grey.shape, self.config.nms_radius_px)
        if region and min(grey.shape) >= _CELL_PX and grey.min() != grey.max():
            found = self._find(grey, region, lambda xy: _hidden(xy, hidden))
            xy, scores, descriptors = found or (xy, scores, descriptors)
        size = image.shape[1], image.shape[0]
        return Features(within(xy * factor, size), scores, descriptors, "l2", size, "superpoint")

    def _find(
        self, grey: np.ndarray, region: tuple[slice, slice], hidden: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """xy float64 [N, 2] px of ``grey``, scores, descriptors, best first; None where nothing is found.

        Args:
            grey: uint8 [H, W].
            region: the part of it that the network needs to see.
            hidden: tells of xy [N, 2] which keypoints the mask hides.
        """
        import torch

        from medrecon.features.classical_points import find_classical
        from medrecon.features.superpoint_encoder import encode_in_strips, one_thread
        from medrecon.features.superpoint_keypoints import sample_descriptors

        c, network = self.config, self.network
        grid = grey.shape[0] // _CELL_PX, grey.shape[1] // _CELL_PX
        origin = region[0].start, region[1].start
        half = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        # fp32 on a GPU means fp32, and the same picture gives the same features.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), half, exact:
            picture = torch.from_numpy(grey[region].astype(np.float32) / 255).to(self.device)[None, None]
            picture = picture.contiguous(memory_format=torch.channels_last)
            encoded = encode_in_strips(network, picture) if self.device.type == "cpu" else network.encode(picture)
            if c.detector == "superpoint":
                row, column, scores, offset = self._detect(encoded)
                row, column = row + origin[0], column + origin[1]
            else:
                with one_thread():
                    row, column, scores, offset = find_classical(c.detector, grey, c.nms_radius_px, c.threshold)
            xy = np.stack([column, row], 1) + 0.5
            # Distance to the edge of the whole cells: the margin beyond them does not count as image.
            inside = np.minimum(xy, np.array([grid[1], grid[0]]) * _CELL_PX - xy).min(1) > c.border_px
            best = np.flatnonzero(inside & ~hidden(xy))
            best = best[np.lexsort((column[best], row[best], -scores[best]))][: c.max_keypoints]
            if not len(best):
                return None
            xy, scores, fine = xy[best], scores[best], xy[best] + offset[best]
            # A step within a pixel of a shrunk picture may cross into a masked one of the original: it is not made.
            fine = np.where(hidden(fine)[:, None], xy, fine)
            # SuperGlue knows descriptors that were read where the network's own detector put the keypoint: at a pixel.
            column, row = (xy if c.detector == "superpoint" else fine).T - 0.5
            cells = _finite(network.describe(encoded)[0])
            with one_thread():
                first_cell = origin[0] // _CELL_PX, origin[1] // _CELL_PX
                descriptors = sample_descriptors(cells, row, column, grid, first_cell)
        return fine, scores, descriptors

    def _detect(self, encoded) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The network's own keypoints in its map [1, C, h, w]: rows, columns, scores, offsets [N, 2] px."""
        from medrecon.features.superpoint_encoder import one_thread
        from medrecon.features.superpoint_keypoints import find_keypoints, score_map, subpixel_offsets

        logits = _finite(self.network.detect(encoded)[0])
        with one_thread():
            probability = score_map(logits)
            row, column, scores = find_keypoints(probability, self.config.nms_radius_px, self.config.threshold)
            offset = np.zeros((len(row), 2))
            if self.config.subpixel:
                offset = subpixel_offsets(probability, row, column)
        return row, column, scores, offset


def _finite(output):
    """The network's output, if it is one.  Raises StageError."""
    import torch

    if not torch.isfinite(output).all():
        raise StageError("superpoint: the network's output is not finite", "set precision: fp32, or other weights")
    return output


def _hidden(xy: np.ndarray, masks: list[tuple[np.ndarray, np.ndarray | float]]) -> np.ndarray:
    """bool [N]: keypoints (working pixels) that one of the (mask, scale to its pixels) hides."""
    out = np.zeros(len(xy), bool)
    for mask, scale in masks:
        out |= outside_mask(xy * scale, mask)
    return out


def _region(mask: np.ndarray | None, shape: tuple[int, int], radius: int) -> tuple[slice, slice] | None:
    """Rows and columns of whole cells that decide what is found inside the mask; None where it hides everything.

    Args:
        mask: bool [H, W] or None.
        shape: (H, W).
        radius: of the non-maximum suppression.
    """
    if mask is None:
        return slice(0, shape[0]), slice(0, shape[1])
    # Descriptors are mixed from neighbouring cells, hence one cell at least.
    reach = max(_NMS_REACH * radius, _CELL_PX) + _SIGHT_PX
    out = []
    for axis, size in enumerate(shape):
        seen = np.flatnonzero(mask.any(axis=1 - axis))
        if not len(seen):
            return None
        start = max(0, (int(seen[0]) - reach) // _CELL_PX * _CELL_PX)
        stop = -(-(int(seen[-1]) + 1 + reach) // _CELL_PX) * _CELL_PX
        out.append(slice(start, stop if stop < size // _CELL_PX * _CELL_PX else size))
    return out[0], out[1]
