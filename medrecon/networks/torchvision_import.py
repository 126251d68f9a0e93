# SPDX-License-Identifier: Apache-2.0
"""Importing packages that need torchvision where the installed torchvision was built for another torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_LIBRARIES: list = []  # the handles must outlive the process's use of torchvision


def import_with_torchvision(package: str) -> ModuleType:
    """Import a package that imports torchvision, although its compiled operators may not load.

    torchvision's Linux wheel is a CUDA build: with a CPU torch its import fails on two undeclared schemas. Who needs
    none of its operators gets by with declaring them.
    """
    try:
        return importlib.import_module(package)
    except RuntimeError as e:
        if "torchvision::" not in str(e):
            raise
    for name in [n for n in sys.modules if n.split(".")[0] in ("torchvision", package)]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not torch._C._dispatch_has_kernel(f"torchvision::{name}"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return importlib.import_module(package)
