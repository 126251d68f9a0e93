# SPDX-License-Identifier: Apache-2.0
"""Runs the CPU kernels under the address, undefined-behaviour and thread sanitizers; any report is a failure.

    python benchmarks/sanitize.py [--kinds address,thread] [--simd baseline,avx2,avx512] [--tests TEST.py ...]

The kernels are built from csrc with GCC into build/sanitize (a minute each; later only what changed), and loaded by
`python -m medrecon.ops.selftest`: every op, forward and backward, float32 and float64, on each instruction set. With
--tests pytest also runs those files, such as tests/ops/test_ops_hostile_inputs.py. Before that each sanitizer has to
report a mistake made on purpose.

Python and torch themselves are not instrumented. For the thread sanitizer our loops run on std::threads of their own
(MR_OWN_THREADS in csrc/cpu/parallel.h) and torch on one thread, because waiting inside an OpenMP library that is not
instrumented looks like a race. Nothing is suppressed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from medrecon.ops import recipe  # noqa: E402

KINDS = {
    "address": (["-fsanitize=address,undefined", "-fopenmp"], ["libasan.so", "libubsan.so", "libstdc++.so"]),
    "thread": (["-fsanitize=thread", "-DMR_OWN_THREADS"], ["libtsan.so", "libstdc++.so"]),
}
SIMD = ("baseline", "avx2", "avx512")
REPORT = re.compile(r"(ERROR|WARNING): (Address|Thread)Sanitizer|runtime error:|Sanitizer:DEADLYSIGNAL")


MISTAKES = {
    "address": """
        #include <vector>
        extern "C" int mistake() { std::vector<int> v(7); volatile int i = 7; return v.data()[i]; }""",
    "thread": """
        #include <thread>
        extern "C" int mistake() {
          int count = 0;
          std::thread other([&] { ++count; });
          ++count;
          other.join();
          return count;
        }""",
}


def build(kind: str) -> Path:
    """A package of the ops with instrumented kernels; returns the folder to import it from.

    Raises:
        SystemExit: a file does not compile.
    """
    tree, csrc = ROOT / "build" / "sanitize" / kind, ROOT / "csrc"
    package, objects = tree / "medrecon", tree / "objects"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "medrecon/ops", package / "ops", ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "medrecon" / name, package)
    objects.mkdir(exist_ok=True)
    includes = [f"-I{path}" for path in (*cpp_extension.include_paths(), sysconfig.get_paths()["include"])]
    flags = [
        *KINDS[kind][0],
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-fPIC",
        "-std=c++20",
        "-DTORCH_EXTENSION_NAME=_C",
    ]
    flags += ["-fno-sanitize-recover=undefined"] if kind == "address" else []
    newest = max(path.stat().st_mtime for path in csrc.rglob("*.h"))

    def compile_one(source: str) -> str:
        made = objects / (source.replace("/", "_") + ".o")
        if made.exists() and made.stat().st_mtime > max(newest, (csrc / source).stat().st_mtime):
            return str(made)
        subprocess.run(["g++", *flags, *includes, "-c", str(csrc / source), "-o", str(made)], check=True)
        return str(made)

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = list(pool.map(compile_one, recipe.sources(cuda=False)))
        library = package / "ops" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
        where = [f"-L{path}" for path in cpp_extension.library_paths()]
        libraries = ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
        subprocess.run(["g++", *flags, "-shared", *made, *where, *libraries, "-o", str(library)], check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{kind}: {' '.join(error.cmd[-4:])} failed") from error
    (package / "ops" / "_C.json").write_text(json.dumps({"torch": torch.__version__}))
    return tree


def run(kind: str, tree: Path, simd: str, command: list[str]) -> tuple[bool, str]:
    """Runs Python with the sanitizer's runtime; returns whether all is well, and what was printed."""
    runtime = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in KINDS[kind][1]
    ]
    environment = os.environ | {
        "LD_PRELOAD": ":".join(runtime),
        "PYTHONPATH": str(tree),
        "MEDRECON_OPS": "prebuilt",
        "MEDRECON_SIMD": simd,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=0",
    }
    if kind == "thread":
        environment["OMP_NUM_THREADS"] = "1"
    # Without randomised addresses, which this thread sanitizer cannot always place.
    prefix = ["setarch", "-R"] if shutil.which("setarch") else []
    done = subprocess.run(
        [*prefix, sys.executable, *command], env=environment, cwd=tree, capture_output=True, text=True, errors="replace"
    )
    text = done.stdout + done.stderr
    return done.returncode == 0 and not REPORT.search(text), text


def is_awake(kind: str, tree: Path) -> bool:
    """Whether the sanitizer reports a mistake in a library that Python loads as it loads the kernels."""
    source, library = tree / "mistake.cpp", tree / "mistake.so"
    source.write_text(MISTAKES[kind])
    subprocess.run(["g++", *KINDS[kind][0], "-g", "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
    text = run(kind, tree, "baseline", ["-c", f"import ctypes; ctypes.CDLL({str(library)!r}).mistake()"])[1]
    return REPORT.search(text) is not None and "mistake.cpp" in text


def check(kind: str, tree: Path, simd: str, command: list[str]) -> bool:
    """Prints what went wrong and returns whether nothing did."""
    good, text = run(kind, tree, simd, command)
    print(f"{kind} {simd} {' '.join(command)}: {'clean' if good else 'FAILED'}", flush=True)
    if not good:
        print(text[-12000:], flush=True)
    return good


def main() -> int:
    """Builds and runs; exit code 1 when anything was reported."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--simd", default=",".join(SIMD))
    parser.add_argument("--tests", nargs="*", default=[], type=Path, help="files for pytest, besides the selftest")
    options = parser.parse_args()
    good = True
    for kind in options.kinds.split(","):
        tree = build(kind)
        if not is_awake(kind, tree):
            raise SystemExit(f"{kind}: the sanitizer does not report a mistake made on purpose")
        for simd in options.simd.split(","):
            good &= check(kind, tree, simd, ["-m", "medrecon.ops.selftest", "--seed", "1"])
            for test in options.tests:
                command = ["-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "--rootdir", str(tree)]
                good &= check(kind, tree, simd, [*command, str(test.resolve())])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
