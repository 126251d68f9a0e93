# SPDX-License-Identifier: Apache-2.0
"""The lesser instruction sets pass the numerically telling tests too; what this processor is best at runs everywhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TELLING = {  # file: which of its tests
    "test_ops_composite.py": "every_size or extreme or faint or infinite or not_a_number or digits",
    "test_ops_composite_packed.py": "reference or stop",
    "test_ops_kernels.py": "reference or every_size or small_variances or strides or direction or finite",
    "test_ops_field.py": "network or squared_error or every_number or high_octaves",
}


@pytest.mark.parametrize("simd", ["baseline", "avx2"])
def test_the_telling_tests_pass_with_a_lesser_instruction_set(simd, kernels):
    environment = os.environ | {"MEDRECON_SIMD": simd}
    ask = "from medrecon import ops; print(ops.backend().build_info['simd'])"
    python = [sys.executable, "-c", ask]
    used = subprocess.run(python, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    if used != simd:
        pytest.skip(f"this processor has only {used}")
    files = [str(HERE / name) for name in TELLING]
    chosen = " or ".join(f"({name.removesuffix('.py')} and ({tests}))" for name, tests in TELLING.items())
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not gpu",
        "-k",
        chosen,
    ]
    result = subprocess.run([*command, *files], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
