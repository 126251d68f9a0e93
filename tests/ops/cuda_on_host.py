# SPDX-License-Identifier: Apache-2.0
"""Runs CUDA sources on the CPU, for tests where there is no GPU.

A source is compiled as C++ with a few lines in place of the CUDA headers: the threads of a block are threads, __syncthreads is
a barrier, __shared__ is static, the lanes of a warp (four) exchange values between barriers, and the blocks of a grid follow
one another.
"""

import ctypes
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medrecon.ops import recipe

CSRC = Path(__file__).resolve().parents[2] / "csrc"
THREADS, MOST_BLOCKS, WARP = 16, 3, 4  # small, so that every loop over threads, lanes and the grid goes round

RUNTIME = """
#pragma once
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
struct Index { unsigned x; };
inline thread_local Index threadIdx, blockIdx;
inline Index blockDim, gridDim;
inline std::barrier<>* block_barrier;
inline void __syncthreads() { block_barrier->arrive_and_wait(); }

constexpr unsigned warp_size = 4;
inline std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
inline std::vector<double> exchanged;
template <typename T>
T shuffled(T mine, unsigned from) {  // all lanes of a warp give theirs and take that of another one; beyond the warp: their own
  const unsigned first = threadIdx.x / warp_size * warp_size;
  std::barrier<>& warp = *warp_barriers[threadIdx.x / warp_size];
  exchanged[threadIdx.x] = mine;
  warp.arrive_and_wait();
  const T result = static_cast<T>(exchanged[from < warp_size ? first + from : threadIdx.x]);
  warp.arrive_and_wait();
  return result;
}
template <typename T>
T __shfl_sync(unsigned, T mine, unsigned lane) { return shuffled(mine, lane); }
template <typename T>
T __shfl_up_sync(unsigned, T mine, unsigned by) { return shuffled(mine, threadIdx.x % warp_size - by); }
template <typename T>
T __shfl_down_sync(unsigned, T mine, unsigned by) { return shuffled(mine, threadIdx.x % warp_size + by); }
template <typename T>
T __shfl_xor_sync(unsigned, T mine, unsigned by) { return shuffled(mine, (threadIdx.x % warp_size) ^ by); }

using cudaStream_t = void*;
using cudaError_t = int;
inline int cudaGetLastError() { return 0; }
inline int cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { std::memset(to, value, bytes); return 0; }
template <typename Kernel>
void run_grid(unsigned blocks, unsigned threads, const Kernel& kernel) {
  std::barrier<> barrier(threads);
  block_barrier = &barrier;
  warp_barriers.clear();
  for (unsigned w = 0; w < threads / warp_size; ++w) warp_barriers.push_back(std::make_unique<std::barrier<>>(warp_size));
  exchanged.assign(threads, 0);
  blockDim.x = threads;
  gridDim.x = blocks;
  std::vector<std::thread> all;
  for (unsigned t = 0; t < threads; ++t) {
    all.emplace_back([&, t] {
      threadIdx.x = t;
      for (unsigned b = 0; b < blocks; ++b) {
        blockIdx.x = b;
        kernel();
        __syncthreads();
      }
    });
  }
  for (auto& thread : all) thread.join();
}
"""


def as_host_code(text: str) -> str:
    """The source with launches turned into calls, and fewer threads."""
    launch = r"kernel<<<(.+), kThreads, 0, static_cast<cudaStream_t>\(stream\)>>>\((.+)\);"
    text = re.sub(launch, r"run_grid(\1, kThreads, [=] { kernel(\2); });", text)
    text = re.sub(r"kThreads = \d+", f"kThreads = {THREADS}", text)
    text = re.sub(r"kWarp = \d+", f"kWarp = {WARP}", text)
    text = re.sub(r"most = 1 << 20", f"most = {MOST_BLOCKS}", text)
    assert "<<<" not in text.replace("Calls kernel<<<...>>>", "")
    return text


def build(root: Path, sources: list[str], entry: str) -> ctypes.CDLL:
    """A library of the .cu files and the headers they need (relative to csrc), with ``entry`` as its C interface."""
    if recipe.compiler() is None or sys.platform != "linux":
        pytest.skip("needs a C++20 compiler on Linux")
    for name in ("cuda/launch.h", "core/hd.h", *sources):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(as_host_code((CSRC / name).read_text()))
    (root / "cuda_runtime.h").write_text(RUNTIME)
    includes = "".join(f'#include "{name}"\n' for name in sources if name.endswith(".cu"))
    (root / "all.cpp").write_text(includes + entry)
    command = [recipe.compiler(), "-std=c++20", "-O1", "-pthread", "-shared", "-fPIC", f"-I{root}", "-Wall", "-Werror"]
    result = subprocess.run(
        [*command, str(root / "all.cpp"), "-o", str(root / "all.so")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return ctypes.CDLL(str(root / "all.so"))


def call(function, sizes, inputs, output_sizes, *indices):
    """Calls with outputs full of NaN, each with a sentinel behind it that must still be there.

    In the order of the C function: ``sizes``, arrays of ``indices`` (int64), ``inputs``, outputs.
    """
    sentinel = 12345.0
    outputs = [np.append(np.full(size, np.nan), sentinel).astype(inputs[0].dtype) for size in output_sizes]
    function(*map(ctypes.c_int64, sizes), *(ctypes.c_void_p(x.ctypes.data) for x in (*indices, *inputs, *outputs)))
    assert all(x[-1] == sentinel for x in outputs)
    return [x[:-1] for x in outputs]
