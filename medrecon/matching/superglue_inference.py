# SPDX-License-Identifier: Apache-2.0
"""SuperGlue's forward pass as it runs on pictures: the same function as the network that is trained, rearranged.

Keypoints of all images lie one after another in one table of tokens, so that linear layers are single matrix products
whatever the images' sizes and nothing is padded. Batch normalisation is folded into the layer before it, the
projection of the attention's messages into the layer after it, the softmax's scale into the queries, and channels are
sorted by head once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medrecon import ops
from medrecon.matching.superglue_network import SuperglueNetwork, is_cross
from medrecon.networks.linear import attention, linear


class Side(NamedTuple):
    """One image's keypoints.

    Attributes:
        xy: float32 [N, 2], as by ``normalise_keypoints``; N >= 1.
        scores: float32 [N].
        descriptors: float32 [N, D].
    """

    xy: Tensor
    scores: Tensor
    descriptors: Tensor


class _Layer(NamedTuple):
    qkv: tuple[Tensor, Tensor]
    hidden: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]


class SuperglueInference:
    """A trained network, ready to match.

    Args:
        network: in eval mode; not changed.
        device: where to compute.
        dtype: of the attention layers; float32, or a half type on a GPU. The states between layers, the scores and
            the Sinkhorn algorithm stay float32.
    """

    def __init__(self, network: SuperglueNetwork, device: torch.device, dtype: torch.dtype):
        self.config, self.device, self.dtype = network.config, device, dtype
        # A GPU is filled by attention over all images at once; a CPU is by one, and has it in its caches.
        self.together = device.type != "cpu"
        put = lambda pair, to: tuple(t.to(device, to).contiguous() for t in pair)  # noqa: E731
        single = torch.float32
        self.encoder = [put(pair, single) for pair in _fold_norms(network.kenc.encoder)]
        self.input = None if network.input_proj is None else put(_matrix(network.input_proj), single)
        self.layers = [
            _Layer(*(put(pair, dtype) for pair in _fold_layer(layer, self.config.heads)))
            for layer in network.gnn.layers
        ]
        # Half of the scores' scale, 1 / sqrt(width), on either side.
        weight, bias = (t * self.config.width**-0.25 for t in _matrix(network.final_proj))
        self.final = put((weight, bias), single)
        self.bin_score = network.bin_score.detach().to(device, single)

    @torch.inference_mode()
    def log_assignments(self, pairs: Sequence[tuple[Side, Side]], iterations: int) -> Iterator[Tensor]:
        """For each pair the log of the soft assignment, float32 [M + 1, N + 1] (eq. 7-10), one at a time.

        How pairs are put together changes results by rounding only.

        Raises:
            FloatingPointError: the states overflowed, which the half types can.
        """
        sides = [side for pair in pairs for side in pair]
        states = self.states(sides)
        if not torch.isfinite(states).all():
            raise FloatingPointError("states are not finite")
        parts = linear(states, *self.final).split([len(s.xy) for s in sides])
        for a, b in zip(parts[::2], parts[1::2]):
            yield ops.log_sinkhorn(linear(a, b.contiguous())[None], self.bin_score, iterations)[0]

    def states(self, sides: Sequence[Side]) -> Tensor:
        """float32 [T, width] after the last layer, images one after another; image 2i is paired with 2i + 1."""
        width = self.config.width
        x = torch.cat([torch.cat([s.xy, s.scores[:, None]], 1) for s in sides]).to(self.device)
        for i, (weight, bias) in enumerate(self.encoder):
            x = linear(x, weight, bias, relu=i + 1 < len(self.encoder))
        descriptors = torch.cat([s.descriptors for s in sides]).to(self.device)
        x += linear(descriptors, *self.input) if self.input else descriptors
        sizes = [len(s.xy) for s in sides]
        both = torch.empty(len(x), 2 * width, device=self.device, dtype=self.dtype)
        for i, layer in enumerate(self.layers):
            both[:, :width] = x
            self._attend(linear(both[:, :width], *layer.qkv), both[:, width:], sizes, is_cross(i))
            x += linear(linear(both, *layer.hidden, relu=True), *layer.out)
        return x

    def _attend(self, qkv: Tensor, out: Tensor, sizes: list[int], cross: bool) -> None:
        """Messages of one layer.

        Args:
            qkv: [T, 3 * width]; queries, keys, values, each head by head.
            out: [T, width], written to.
            sizes: tokens of each image.
            cross: images ask their partner, not themselves.
        """
        heads, size = self.config.heads, self.config.width // self.config.heads
        if self.together and len(set(sizes)) == 1:
            images = len(sizes)
            query, key, value = qkv.view(images, sizes[0], 3, heads, size).permute(2, 0, 3, 1, 4).contiguous()
            if cross:
                key, value = (t.unflatten(0, (-1, 2)).flip(1).flatten(0, 1) for t in (key, value))
            messages = attention(query, key, value)
            out.view(images, sizes[0], heads, size)[:] = messages.transpose(1, 2)
            return
        images = [part.unflatten(1, (3, heads, size)).permute(1, 2, 0, 3).contiguous() for part in qkv.split(sizes)]
        for i, target in enumerate(out.split(sizes)):
            _, key, value = images[i ^ 1] if cross else images[i]
            messages = attention(images[i][0], key, value)
            target.unflatten(1, (heads, size))[:] = messages.transpose(0, 1)


def _matrix(layer: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Weight [out, in] and bias [out] in float64, in which layers are folded."""
    return layer.weight.detach().double()[:, :, 0], layer.bias.detach().double()


def _fold_norms(mlp: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of an MLP's linear layers, batch normalisation folded into the layer before it."""
    out = []
    for module in mlp:
        if isinstance(module, nn.Conv1d):
            out.append(_matrix(module))
        elif isinstance(module, nn.BatchNorm1d):
            weight, bias = out[-1]
            scale = module.weight.detach().double() / (module.running_var.double() + module.eps).sqrt()
            shift = module.bias.detach().double() - module.running_mean.double() * scale
            out[-1] = weight * scale[:, None], bias * scale + shift
    return out


def _fold_layer(layer: nn.Module, heads: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """(queries, keys, values), (hidden layer of the MLP with the merging projection in it), (its last layer)."""
    width = layer.attn.merge.out_channels
    by_head = torch.arange(width).view(-1, heads).t().reshape(-1)
    parts = [tuple(t[by_head] for t in _matrix(proj)) for proj in layer.attn.proj]
    scale = (width // heads) ** -0.5
    parts[0] = tuple(t * scale for t in parts[0])
    qkv = tuple(torch.cat(t) for t in zip(*parts))
    (weight, bias), out = _fold_norms(layer.mlp)
    merge, merge_bias = _matrix(layer.attn.merge)
    hidden = torch.cat([weight[:, :width], weight[:, width:] @ merge[:, by_head]], 1)
    return qkv, (hidden, bias + weight[:, width:] @ merge_bias), out
