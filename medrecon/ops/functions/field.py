# SPDX-License-Identifier: Apache-2.0
"""A radiance field in one call: cone, Gaussian, encoding, network and compositing, with nothing stored between."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..backends import kernels_for
from . import checks

MOST_LAYERS = 8
WIDEST = 1024
# On CUDA, a tile's activations must fit into the memory that a block of threads shares.
CUDA_MOST_LAYERS, CUDA_WIDEST, CUDA_MOST_OCTAVES = 4, 128, 16


def fused_field(
    t: Tensor,
    origins: Tensor,
    directions: Tensor,
    radii: Tensor,
    parameters: Tensor,
    ray_bias: Tensor,
    *,
    max_deg: int,
    width: int,
    layers: int,
    colour_width: int,
    min_deg: int = 0,
    density_shift: float = -1.0,
    density_gain: float = 1.0,
    background: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Renders rays through a mip-NeRF field (Barron et al. 2021, eq. 3, 7, 8, 14, 16 and figure 4 made small).

    The network: ``layers`` x ReLU(``width``) on the integrated positional encoding; density = gain * softplus(w h + b +
    shift); colour = sigmoid(Wo ReLU(M h + ray_bias) + bo). What is the same all along a ray (view direction, appearance
    code, the bias of M) enters through ``ray_bias``, multiplied out by the caller once per ray.

    Args:
        t, origins, directions, radii: [N, S + 1], [N, 3], [N, 3], [N, 1], as for `cast_rays`.
        parameters: [P], all matrices as in nn.Linear, row-major, one after the other: for each layer of the trunk
            weight [width, n_in] and bias [width] (n_in = 6 * (max_deg - min_deg), then width); density weight
            [1, width] and bias [1]; M [colour_width, width]; Wo [3, colour_width] and bo [3].
        ray_bias: [N, colour_width].
        min_deg, max_deg: octaves of the encoding, -32 <= min_deg < max_deg <= 32.
        width, layers, colour_width: 1 to 1024, 1 to 8, 1 to 1024.
        density_shift, density_gain: density is per unit length of the space that ``directions`` lives in.
        background: [3] or [N, 3], seen through what is left; None is black.
        mask: bool [N, S]; where False the density is 0 and nothing is computed.

    Returns:
        rgb [N, 3], depth [N], opacity [N], weights [N, S], as by `composite`. Differentiable in parameters, ray_bias
        and background; the backward pass recomputes instead of storing. Where t, origins, directions or radii require
        gradients, all gradients come from the plain-torch twin, which is several times slower.
        In float32, octaves whose damping is below half a rounding unit of 1 for neighbouring samples are left out.

    On CUDA, float32 products follow `torch.set_float32_matmul_precision`, as torch's own do: "highest" (the default) in
    float32, "high" with factors rounded to TensorFloat32, "medium" to bfloat16, each with sums in float32; the backward
    pass in what is set when it runs. Networks of more than 4 layers, 16 octaves or a width or colour_width of 128, and
    GPUs before compute capability 8.0, go through the plain-torch twin.

    Raises:
        ValueError: a shape, dtype, device or number does not fit; the message names it.
    """
    numbers = (min_deg, max_deg, width, layers, colour_width, float(density_shift), float(density_gain))
    tensors = (t, origins, directions, radii, parameters, ray_bias)
    _check("fused_field", tensors, background, mask, numbers)
    if _kernel_serves(tensors[:4], numbers):
        return torch.ops.medrecon.fused_field.default(*tensors, background, mask, *numbers)
    return reference.fused_field(*tensors, background, mask, *numbers)


def fused_field_loss(
    t: Tensor,
    origins: Tensor,
    directions: Tensor,
    radii: Tensor,
    parameters: Tensor,
    ray_bias: Tensor,
    target: Tensor,
    ray_weight: Tensor,
    *,
    max_deg: int,
    width: int,
    layers: int,
    colour_width: int,
    min_deg: int = 0,
    density_shift: float = -1.0,
    density_gain: float = 1.0,
    background: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error of `fused_field` and its gradients in one pass: what a training step needs, without recomputation.

    Args:
        target: [N, 3], the colours wanted.
        ray_weight: [N]; the loss is the sum over rays of ray_weight * mean over channels of (rgb - target)^2.
        the others: as for `fused_field`.

    Returns:
        loss [] (differentiable once in parameters, ray_bias and background), rgb [N, 3] and weights [N, S]; the last
        two carry no gradient.

    Raises:
        ValueError: as `fused_field`; or target or ray_weight require gradients, which there are none of.
    """
    op = "fused_field_loss"
    numbers = (min_deg, max_deg, width, layers, colour_width, float(density_shift), float(density_gain))
    tensors = (t, origins, directions, radii, parameters, ray_bias)
    _check(op, tensors, background, mask, numbers)
    checks.floating(op, t=t, target=target, ray_weight=ray_weight)
    checks.shaped(op, "target", target, (t.shape[0], 3))
    checks.shaped(op, "ray_weight", ray_weight, (t.shape[0],))
    if torch.is_grad_enabled() and (target.requires_grad or ray_weight.requires_grad):
        raise ValueError(f"{op}: target and ray_weight get no gradients; detach them, or use fused_field")
    rest = (background, mask, target, ray_weight, *numbers)
    if _kernel_serves(tensors[:4], numbers):
        loss, rgb, weights, *_ = torch.ops.medrecon.fused_field_loss.default(*tensors, *rest)
        return loss, rgb.detach(), weights.detach()
    return reference.fused_field_loss(*tensors, *rest)


def _kernel_serves(rays: tuple[Tensor, ...], numbers: tuple) -> bool:
    if torch.is_grad_enabled() and any(x.requires_grad for x in rays):
        return False
    device = rays[0].device
    return kernels_for(device.type) and (device.type != "cuda" or _fits_on_cuda(device.index, *numbers[:5]))


def _fits_on_cuda(index: int, min_deg: int, max_deg: int, width: int, layers: int, colour_width: int) -> bool:
    fits = layers <= CUDA_MOST_LAYERS and max_deg - min_deg <= CUDA_MOST_OCTAVES
    return fits and max(width, colour_width) <= CUDA_WIDEST and _has_matrix_units(index)


def _has_matrix_units(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (8, 0)


_has_matrix_units._dynamo_marked_constant = True  # of the trace, as `kernels_for` is


def _check(op: str, tensors: tuple[Tensor, ...], background: Tensor | None, mask: Tensor | None, numbers) -> None:
    t, origins, directions, radii, parameters, ray_bias = tensors
    names = ("t", "origins", "directions", "radii", "parameters", "ray_bias")
    checks.floating(op, {"background": background}, **dict(zip(names, tensors)))
    if t.dim() != 2 or t.shape[1] < 1:
        raise ValueError(f"{op}: t has shape {checks.shape(t)}, expected [N, S + 1]")
    min_deg, max_deg, width, layers, colour_width = numbers[:5]
    if not -32 <= min_deg < max_deg <= 32:
        raise ValueError(f"{op}: needs -32 <= min_deg < max_deg <= 32, got min_deg {min_deg} and max_deg {max_deg}")
    for name, value, most in (
        ("width", width, WIDEST),
        ("layers", layers, MOST_LAYERS),
        ("colour_width", colour_width, WIDEST),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{op}: {name} is {value}, expected 1 to {most}")
    n, s = t.shape[0], t.shape[1] - 1
    checks.shaped(op, "origins", origins, (n, 3))
    checks.shaped(op, "directions", directions, (n, 3))
    checks.shaped(op, "radii", radii, (n, 1))
    checks.shaped(op, "ray_bias", ray_bias, (n, colour_width))
    n_in = 6 * (max_deg - min_deg)
    count = (n_in + 1) * width + (layers - 1) * (width + 1) * width + width + 1 + colour_width * (width + 3) + 3
    checks.shaped(op, "parameters", parameters, (count,))
    checks.background(op, background, n)
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.device != t.device:
            raise ValueError(f"{op}: mask must be a bool tensor on {t.device}")
        checks.shaped(op, "mask", mask, (n, s))
