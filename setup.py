# SPDX-License-Identifier: Apache-2.0
"""Builds the C++/CUDA kernels beside the package where that is possible; all other settings are in pyproject.toml.

MEDRECON_BUILD=auto (default)  build what torch and the compilers at hand allow; what is missing never stops the install
               cpu, cuda       build exactly this, or fail
               none            build nothing: the kernels are then built on first use
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MODE = os.environ.get("MEDRECON_BUILD", "auto")
if MODE not in ("auto", "cpu", "cuda", "none"):
    sys.exit(f"MEDRECON_BUILD={MODE}: use auto, cpu, cuda or none")

_spec = importlib.util.spec_from_file_location("medrecon_recipe", ROOT / "medrecon" / "ops" / "recipe.py")
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)


class PackageWithSources(build_py):
    """Puts csrc into the package, so that an installed copy can build the kernels on first use."""

    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):
            target = Path(self.build_lib) / "medrecon" / "ops" / "_csrc"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / "csrc", target)


def say(text):
    print(f"medrecon: {text}", file=sys.stderr, flush=True)


def kernels():
    """Keyword arguments of setup() that build the extension; none where it cannot be built."""
    if MODE == "none":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        text = f"kernels not built, torch cannot be imported here ({error}); they will be built on first use"
        if MODE != "auto":
            sys.exit(f"medrecon: MEDRECON_BUILD={MODE}: {text}")
        say(text)
        return {}

    if MODE == "auto" and recipe.compiler() is None:
        say("kernels not built, there is no C++ compiler; the program will use plain torch, which is slower")
        return {}
    recipe.with_tools_on_path()
    cuda = MODE == "cuda" or (MODE == "auto" and torch.version.cuda is not None and CUDA_HOME is not None)
    if cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", recipe.CUDA_ARCH_LIST)
    csrc = ROOT / "csrc"
    hash_text = recipe.source_hash(csrc)

    class BuildKernels(BuildExtension):
        def run(self):
            try:
                super().run()
            except Exception as error:
                if MODE != "auto":
                    raise
                lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                say(f"kernels not built ({lines[-1].strip()[:200]}); built on first use, else replaced by plain torch")
                self.extensions = []  # nothing was made, so nothing must be copied or listed
                return
            note = json.dumps(
                {"torch": torch.__version__, "cuda": torch.version.cuda if cuda else None, "source_hash": hash_text}
            )
            for extension in self.extensions:
                made = Path(self.get_ext_fullpath(extension.name))
                places = {made.parent, Path(self.build_lib) / "medrecon" / "ops"}
                for place in places:
                    if any(place.glob("_C.*")):
                        partial = place / f"_C.json.{os.getpid()}.part"
                        partial.write_text(note)
                        os.replace(partial, place / "_C.json")

        def copy_file(self, infile, outfile, *arguments, **options):
            """Renamed into place: whoever loads the library meanwhile gets the old one or the new one, and whole."""
            partial = f"{outfile}.{os.getpid()}.part"
            copied = super().copy_file(infile, partial, *arguments, **options)
            if os.path.exists(partial):  # not in a dry run
                os.replace(partial, outfile)
            return outfile, copied[1]

    flags = {"cxx": recipe.cxx_flags(), "nvcc": recipe.nvcc_flags()}
    extension = (CUDAExtension if cuda else CppExtension)(
        "medrecon.ops._C",
        [f"csrc/{name}" for name in recipe.sources(cuda)],
        depends=sorted(str(p.relative_to(ROOT)) for p in csrc.rglob("*.h")),
        define_macros=recipe.macros(cuda),
        extra_compile_args=flags if cuda else flags["cxx"],
        extra_link_args=["-s"] if sys.platform == "linux" else [],
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildKernels}}


settings = kernels()
settings["cmdclass"] = {**settings.get("cmdclass", {}), "build_py": PackageWithSources}
setup(**settings)
