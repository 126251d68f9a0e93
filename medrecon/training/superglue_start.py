# SPDX-License-Identifier: Apache-2.0
"""SuperGlue before its first step: not noise, but optimal transport between the descriptors themselves.

A network that starts at random spends its first hundred thousand pairs on learning that equal descriptors match. Here
the states begin as the descriptors, turned into the wider space of the states; positions and scores lie in the
dimensions that are left; the layers add nothing yet (``SuperglueNetwork`` starts them so); and the last projection
looks at the descriptors' dimensions alone. What is left to learn is what neighbours and the other picture can tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medrecon import ops
from medrecon.matching.superglue_network import SuperglueNetwork
from medrecon.training.assignment import assignment_loss
from medrecon.training.true_matches import Labels

# Factors on the cosine, and cosines from which a match is better than none, that ``fit_sharpness`` chooses from.
_SHARPNESS = (3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)
_LEAST_COSINE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@torch.no_grad()
def fit_sharpness(
    sides: Sequence[tuple[Tensor, Tensor]], labels: Sequence[Labels], iterations: int
) -> tuple[float, float]:
    """(sharpness, least cosine): scores = sharpness * cosine and dustbins at sharpness * least cosine are the most
    likely of a grid, by ``assignment_loss``.

    Args:
        sides: descriptors float [B, M, D] and [B, N, D] of unit length, batch by batch.
        labels: of each batch.
        iterations: of the Sinkhorn algorithm.
    """
    best = (torch.inf, _SHARPNESS[0], _LEAST_COSINE[0])
    cosines = [torch.einsum("bmd,bnd->bmn", a.float(), b.float()) for a, b in sides]
    for sharpness in _SHARPNESS:
        for least in _LEAST_COSINE:
            plans = (ops.log_sinkhorn(sharpness * c, sharpness * least, iterations) for c in cosines)
            loss = sum(float(assignment_loss(plan, truth)[0]) for plan, truth in zip(plans, labels))
            best = min(best, (loss, sharpness, least))
    return best[1:]


@torch.no_grad()
def start_from_descriptors(network: SuperglueNetwork, sharpness: float, least_cosine: float) -> None:
    """Set the weights so that scores are ``sharpness`` * cosine of the descriptors and a dustbin is worth
    ``sharpness * least_cosine``.

    Where the state is wider than the descriptor, states have entries of about 1 and positions enter at once; where it
    is as wide, the descriptors are taken as they are and positions begin with a weight of 0. A narrower state keeps a
    random projection of the descriptor, so that cosines hold about.

    Args:
        network: newly made, on the CPU; random numbers come from torch's global generator.
    """
    width, size = network.config.width, network.config.descriptor_size
    last = network.kenc.encoder[-1]
    last.bias.zero_()
    scale = 1.0
    if network.input_proj is None:
        kept = torch.eye(width)
        last.weight.zero_()
    else:
        scale = width**0.5
        turn = torch.linalg.qr(torch.randn(max(width, size), max(width, size)))[0]
        # What a narrower state loses of a descriptor's length it gets back.
        lost = max(1.0, size / width) ** 0.5
        network.input_proj.weight.copy_(scale * lost * turn[:width, :size, None])
        network.input_proj.bias.zero_()
        kept, free = torch.eye(width), turn[:width, size:]
        if width > size:
            kept = turn[:, :size] @ turn[:, :size].T
            # torch's start gives about a third of the descriptors' entries.
            last.weight.copy_(2 * (free @ (free.T @ last.weight[..., 0]))[..., None])
        else:
            last.weight.zero_()
    # The network divides scores by sqrt(width).
    gain = (sharpness * width**0.5) ** 0.5 / scale
    network.final_proj.weight.copy_(gain * kept[..., None])
    network.final_proj.bias.zero_()
    network.bin_score.fill_(sharpness * least_cosine)
