# SPDX-License-Identifier: Apache-2.0
"""What is missing is said before anything is computed."""

import sys

import pytest
import torch
from medrecon_gsplat import library
from medrecon_gsplat.options import GsplatRendererConfig
from medrecon_gsplat.renderer import GsplatRenderer

from medrecon.errors import InputError, PluginError


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="needs a CUDA GPU") as e:
        GsplatRenderer(GsplatRendererConfig())
    assert "mipgrid" in e.value.remedy


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(PluginError, match="gsplat is not installed") as e:
        GsplatRenderer(GsplatRendererConfig())
    assert "pip install" in e.value.remedy


def test_put_on_the_cpu():
    with pytest.raises(InputError, match="on the CPU"):
        library.rasterise(torch.zeros(1, 3))
