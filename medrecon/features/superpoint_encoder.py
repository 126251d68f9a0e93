# SPDX-License-Identifier: Apache-2.0
"""The SuperPoint encoder on a CPU, in strips of rows that stay in the processor's cache.

At 640 x 480 each map of the first block holds 79 MB: computed layer by layer, it is memory that takes the time. Here
a strip goes through both convolutions and the pooling of a block before the next is begun. Each thread takes strips of
its own: threads that share a layer wait for each other after every one, on a busy machine for long. Every value comes
of the same sum as in ``SuperpointNetwork.encode``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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
    n_threads = torch.get_num_threads()
    x = image.contiguous(memory_format=torch.channels_last)
    if n_threads == 1:
        return _encode(network, x, strip_bytes, 1, map)
    try:
        # torch keeps the number of threads by thread: each of ours computes alone.
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return _encode(network, x, strip_bytes, n_threads, pool.map)
    finally:
        torch.set_num_threads(n_threads)  # what threads of the future start with


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes in the calling thread alone: small steps take less than waiting for another thread after each."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _encode(network: SuperpointNetwork, x: Tensor, strip_bytes: int, n_threads: int, each: Callable) -> Tensor:
    for first, second, pool in network.blocks():
        x = _block(x, first, second, 2 if pool else 1, strip_bytes, n_threads, each)
    return x


def _block(
    x: Tensor, first: nn.Conv2d, second: nn.Conv2d, step: int, strip_bytes: int, n_threads: int, each: Callable
) -> Tensor:
    """max_pool(relu(second(relu(first(x)))), step), strip by strip; ``each`` is map, in threads or not."""
    n, _, h, w = x.shape
    width = second.out_channels
    end = h // step * step
    out = torch.empty((n, width, h // step, w // step), memory_format=torch.channels_last)
    rows = min(strip_bytes // (4 * n * width * w), -(-end // n_threads))
    rows = max(-(-rows // step) * step, step)

    def strip(top: int) -> None:
        bottom = min(top + rows, end)
        # The first convolution's rows that the second one sees. Rows outside the image are zero for both of them.
        start, stop = max(top - 1, 0), min(bottom + 1, h)
        with torch.inference_mode():
            y = _convolve(_rows(x, start - 1, stop + 1), first)
            y = _convolve(_rows(y, top - 1 - start, bottom + 1 - start), second)
            out[:, :, top // step : bottom // step] = F.max_pool2d(y, step) if step > 1 else y

    _drain(each(strip, range(0, end, rows)))
    return out


def _drain(results: Iterable) -> None:
    """Waits for all of them; raises what one of them raised."""
    for _ in results:
        pass


def _convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """relu(layer(x)) without padding above and below: two rows fewer."""
    return F.conv2d(x, layer.weight, layer.bias, padding=(0, 1)).relu_()


def _rows(x: Tensor, top: int, bottom: int) -> Tensor:
    """Rows top .. bottom - 1 of [B, C, H, W]; those outside are zero."""
    h = x.shape[2]
    inside = x[:, :, max(top, 0) : min(bottom, h)]
    above, below = max(-top, 0), max(bottom - h, 0)
    return F.pad(inside, (0, 0, above, below)) if above or below else inside
