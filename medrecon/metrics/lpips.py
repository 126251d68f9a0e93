# SPDX-License-Identifier: Apache-2.0
"""LPIPS v0.1 (Zhang et al., CVPR 2018) over backbone weights that are fetched on request."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from medrecon import assets
from medrecon.config.base import ComponentConfig
from medrecon.errors import AssetError, InputError
from medrecon.metrics.images import check_pair
from medrecon.networks.torchvision_import import import_with_torchvision

_MIN_SIDE = 64  # below this AlexNet's last pooling leaves nothing


class LpipsConfig(ComponentConfig):
    network: Literal["alexnet", "vgg16"] = Field("alexnet", description="backbone; alexnet is what papers report")


class Lpips:
    """Learned perceptual distance, lower is better.

    With a mask, hidden pixels are made equal in both pictures and the distance map is averaged over the rest.
    ``measure`` raises AssetError when the weights have not been fetched; it never fetches them itself.
    """

    def __init__(self, config: LpipsConfig):
        self.config = config
        self._module = None

    @property
    def asset(self) -> str:
        return f"lpips-{self.config.network}"

    def measure(self, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
        use = check_pair(image, reference, mask)
        if min(image.shape[:2]) < _MIN_SIDE:
            raise InputError(f"LPIPS needs pictures of at least {_MIN_SIDE} px, got {image.shape[1]}x{image.shape[0]}")
        if self._module is None:
            self._module = load_lpips(self.config.network, assets.require(self.asset))
        a, b = (_tensor(np.where(use[..., None], x, reference)) for x in (image, reference))
        self._module.spatial = not use.all()
        with torch.no_grad():
            out = self._module(a, b)
        return float(out) if out.numel() == 1 else float(out[0, 0].double().numpy()[use].mean())


def _tensor(image: np.ndarray) -> torch.Tensor:
    """float32 [1, 3, H, W] in -1..1, what the network expects."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def load_lpips(network: str, weights: Path) -> torch.nn.Module:
    """The ``lpips`` package's module with its own heads and the backbone from ``weights``."""
    lpips = import_with_torchvision("lpips")
    arrays = _read_arrays(weights)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchvision's deprecations; the random start is overwritten below
        module = lpips.LPIPS(net={"alexnet": "alex", "vgg16": "vgg"}[network], pnet_rand=True, verbose=False)
    convolutions = [m for m in module.net.modules() if isinstance(m, torch.nn.Conv2d)]
    backbone = next((v for k, v in arrays.items() if not k.startswith("NetLinLayer")), {})
    if len(backbone) != len(convolutions):
        raise AssetError(f"{weights.name} does not hold the {network} backbone", "delete it and fetch it again")
    with torch.no_grad():
        for i, conv in enumerate(convolutions):
            kernel = torch.from_numpy(np.array(backbone[f"Conv_{i}"]["kernel"])).permute(3, 2, 0, 1)  # HWIO -> OIHW
            if kernel.shape != conv.weight.shape:
                raise AssetError(f"{weights.name}: layer {i} is {tuple(kernel.shape)}", "delete it and fetch it again")
            conv.weight.copy_(kernel)
            conv.bias.copy_(torch.from_numpy(np.array(backbone[f"Conv_{i}"]["bias"])))
    return module.eval()


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays and plain containers; anything else a pickle could call is refused."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _read_arrays(path: Path) -> dict:
    try:
        with open(path, "rb") as f:
            data = _ArraysOnly(f).load()
    except Exception as e:  # a hostile or broken pickle fails in many ways
        raise AssetError(f"{path.name} does not hold plain arrays: {e}", "delete it and fetch it again") from e
    if not isinstance(data, dict):
        raise AssetError(f"{path.name} does not hold a dictionary of arrays", "delete it and fetch it again")
    return data
