# SPDX-License-Identifier: Apache-2.0
"""The SuperPoint encoder on a CPU, in strips of rows that stay in the processor's cache.

At 640 x 480 each map of the first block holds 79 MB: computed layer by layer, it is memory that takes the time. A strip
goes through both convolutions and the pooling of a block before the next is begun. Every value comes of the same sum
as in ``SuperpointNetwork.encode``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrecon.features.superpoint_network import SuperpointNetwork

# One map of a strip. A few of them fit in the last-level cache of any processor of the last ten years.
_STRIP_BYTES = 5 << 19


def encode_in_strips(network: SuperpointNetwork, image: Tensor, strip_bytes: int = _STRIP_BYTES) -> Tensor:
    """float32 [B, 1, H, W] in 0..1 -> [B, C, H // 8, W // 8], channels last. H and W are at least 8. No gradients.

    Args:
        network: on the CPU, in the channels-last memory format.
        strip_bytes: size of one map of a strip.
    """
    x = image.contiguous(memory_format=torch.channels_last)
    for first, second, pool in network.blocks():
        x = _block(x, first, second, 2 if pool else 1, strip_bytes)
    return x


def _block(x: Tensor, first: nn.Conv2d, second: nn.Conv2d, step: int, strip_bytes: int) -> Tensor:
    """max_pool(relu(second(relu(first(x)))), step), strip by strip."""
    n, _, h, w = x.shape
    width = second.out_channels
    out = torch.empty((n, width, h // step, w // step), memory_format=torch.channels_last)
    rows = max(step, strip_bytes // (4 * n * width * w) // step * step)
    for top in range(0, h // step * step, rows):
        bottom = min(top + rows, h // step * step)
        # The first convolution's rows that the second one sees. Rows outside the image are zero for both of them.
        start, stop = max(top - 1, 0), min(bottom + 1, h)
        y = _convolve(_rows(x, start - 1, stop + 1), first)
        y = _convolve(_rows(y, top - 1 - start, bottom + 1 - start), second)
        out[:, :, top // step : bottom // step] = F.max_pool2d(y, step) if step > 1 else y
    return out


def _convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """relu(layer(x)) without padding above and below: two rows fewer."""
    return F.conv2d(x, layer.weight, layer.bias, padding=(0, 1)).relu_()


def _rows(x: Tensor, top: int, bottom: int) -> Tensor:
    """Rows top .. bottom - 1 of [B, C, H, W]; those outside are zero."""
    h = x.shape[2]
    inside = x[:, :, max(top, 0) : min(bottom, h)]
    above, below = max(-top, 0), max(bottom - h, 0)
    return F.pad(inside, (0, 0, above, below)) if above or below else inside
