# SPDX-License-Identifier: Apache-2.0
"""The vectors of csrc/cpu/vector.inl.h against numpy in a wider type, for each instruction set that this processor has."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medrecon.ops import recipe

CPU = Path(__file__).resolve().parents[2] / "csrc" / "cpu"

# Every function as one of arrays: out = function(a, b, c), a multiple of 16 long; the last vector is cut to `part` lanes.
KERNELS = """
#define EACH(NAME, EXPRESSION)                                                                                      \\
  template <typename T> void NAME(int64_t n, const T* a, const T* b, const T* c, T* out) {                          \\
    for (int64_t i = 0; i < n; i += kLanes<T>) {                                                                    \\
      const Vec<T> x = load(a + i), y = load(b + i), z = load(c + i), no = splat(T(0)), yes = splat(T(1));          \\
      (void)x, (void)y, (void)z, (void)no, (void)yes;                                                               \\
      store(out + i, EXPRESSION);                                                                                   \\
    }                                                                                                               \\
  }
template <typename T> Vec<T> one_of_sin_cos(Vec<T> x, bool sine) {
  Vec<T> s, c;
  sin_cos(x, &s, &c);
  return sine ? s : c;
}
template <typename T> Vec<T> power_or_rest(Vec<T> x, bool power) {
  Vec<T> p, r;
  power_and_rest(x, &p, &r);
  return power ? p : r;
}
EACH(arithmetic, (x + y) * z - x / y)
EACH(negative, -x)
EACH(absolute, vabs(x))
EACH(fused, fma(x, y, z))
EACH(root, vsqrt(x))
EACH(nearest, vround(x))
EACH(below, vfloor(x))
EACH(smaller, vmin(x, y))
EACH(larger, vmax(x, y))
EACH(exp, vexp(x))
EACH(expm1, vexpm1(x))
EACH(exp2, vexp2_flushed(x))
EACH(power, power_or_rest(x, true))
EACH(rest, power_or_rest(x, false))
EACH(permuted, permute(x, words_of(y + splat(Format<T>::magic)) & splat_word<T>(kLanes<T> - 1)))
EACH(log1p, vlog1p(x))
EACH(sine, one_of_sin_cos(x, true))
EACH(cosine, one_of_sin_cos(x, false))
EACH(is_less, select(x < y, yes, no))
EACH(is_at_most, select(x <= y, yes, no))
EACH(is_more, select(x > y, yes, no))
EACH(is_at_least, select(x >= y, yes, no))
EACH(is_equal, select(x == y, yes, no))
EACH(is_unequal, select(x != y, yes, no))
EACH(both, select((x < y) & (y < z), yes, no))
EACH(either, select((x < y) | (y < z), yes, no))
EACH(any_less, splat(T(any(x < y))))
EACH(all_less, splat(T(all(x < y))))
EACH(total, splat(sum(x)))
EACH(lanes, iota<T>() + splat(T(100 * kLanes<T>)))
template <typename T> void part(int64_t n, const T* a, const T*, const T*, T* out) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) store(out + i, load(a + i));
  const Vec<T> rest = load_part(a + i, n - i);
  store_part(out + i, rest + splat(T(1)), n - i);
  store(out + n + 1, rest);
}
"""
NAMES = [line.split("(")[1].split(",")[0] for line in KERNELS.splitlines() if line.startswith("EACH(")] + ["part"]
SETS = {"plain": "baseline", "baseline": "baseline", "avx2": "avx2", "avx512": "avx512"}
DTYPES = {np.float32: "float", np.float64: "double"}
TINY = {np.float32: 1e-45, np.float64: 5e-324}


def entries(kinds):
    lines = ['#include "vector.h"', "namespace medrecon::cpu {", '#define MR_KERNELS "kernels.inl.h"']
    lines += ['#include "each_isa.inl.h"', "}"]
    for kind in kinds:
        for name in NAMES:
            for T in DTYPES.values():
                arguments = f"int64_t n, const {T}* a, const {T}* b, const {T}* c, {T}* out"
                body = f"medrecon::cpu::{kind}::{name}<{T}>(n, a, b, c, out);"
                lines.append(f'extern "C" void {kind}_{name}_{T}({arguments}) {{ {body} }}')
    return "\n".join(lines)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """One for the instruction sets, one for compilers without vector types."""
    if recipe.compiler() is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler on Linux")
    root = tmp_path_factory.mktemp("vector")
    (root / "kernels.inl.h").write_text(KERNELS)
    found = {}
    sets = subprocess.run(
        [recipe.compiler(), "-E", "-dM", "-include", str(CPU / "isa.h"), "-x", "c++", "/dev/null"],
        capture_output=True,
        text=True,
    ).stdout.count("MR_INSTRUCTION_SETS 1")
    for name, kinds in {"vector": ["baseline", "avx2", "avx512"][: 3 if sets else 1], "plain": ["baseline"]}.items():
        (root / f"{name}.cpp").write_text(entries(kinds))
        command = [recipe.compiler(), "-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror"]
        command += [f"-I{CPU}", f"-I{root}"]
        command += ["-DMR_PLAIN_VECTORS"] if name == "plain" else []
        made = root / f"{name}.so"
        result = subprocess.run([*command, str(root / f"{name}.cpp"), "-o", str(made)], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found[name] = ctypes.CDLL(str(made))
    return found


@pytest.fixture(params=SETS)
def call(request, libraries):
    """call(name, a, b, c) -> function of arrays on one instruction set."""
    kind = SETS[request.param]
    flags = Path("/proc/cpuinfo").read_text() if kind != "baseline" else ""
    library = libraries["plain" if request.param == "plain" else "vector"]
    if not hasattr(library, f"{kind}_exp_float") or kind not in flags.replace("avx512dq", "avx512") + "baseline":
        pytest.skip(f"this compiler or processor has no {kind}")

    def run(name, a, b=None, c=None, spare=64):
        arrays = [np.ascontiguousarray(a if x is None else x, a.dtype) for x in (a, b, c)]
        out = np.full(len(a) + spare, 77, a.dtype)
        function = getattr(library, f"{kind}_{name}_{DTYPES[a.dtype.type]}")
        function(ctypes.c_int64(len(a)), *(ctypes.c_void_p(x.ctypes.data) for x in (*arrays, out)))
        return out if name == "part" else out[: len(a)]

    run.kind = request.param
    return run


def awkward(dtype):
    """Zeros of both signs, the smallest and largest numbers, infinities, NaN, halves."""
    top = float(np.finfo(dtype).max)
    x = [
        0.0,
        TINY[dtype],
        1.0,
        0.5,
        1.5,
        2.5,
        7.25,
        0.49999997,
        1e-30,
        3.25e7,
        8388607.5,
        2**52 - 0.5,
        2**52 + 1.0,
        top,
    ]
    return np.array([*x, *(-v for v in x), np.inf, -np.inf, np.nan, 3.0], dtype)


def spread(dtype, low, high, n=8_000):
    """Both signs, sizes from 10^low to 10^high."""
    rng = np.random.default_rng(5)
    return (rng.choice([-1.0, 1.0], n) * 10 ** rng.uniform(low, high, n)).astype(dtype)


def same(found, expected):
    return np.array_equal(found, np.asarray(expected, found.dtype), equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic_rounding_and_comparisons_are_those_of_numpy(call, dtype):
    x = np.concatenate([awkward(dtype)] * 32)
    y = np.concatenate([np.roll(awkward(dtype), k) for k in range(32)])
    z = np.roll(y, 5)
    with np.errstate(all="ignore"):
        assert same(call("negative", x), -x) and same(call("absolute", x), np.abs(x))
        assert np.array_equal(np.signbit(call("negative", x)), np.signbit(-x))
        assert same(call("root", x), np.sqrt(x))
        assert same(call("nearest", x), np.rint(x)) and same(call("below", x), np.floor(x))
        assert same(call("smaller", x, y), np.where(x < y, x, y)) and same(call("larger", x, y), np.where(x > y, x, y))
        for name, expected in {
            "is_less": x < y, "is_at_most": x <= y, "is_more": x > y, "is_at_least": x >= y, "is_equal": x == y,
            "is_unequal": x != y, "both": (x < y) & (y < z), "either": (x < y) | (y < z),
        }.items():  # fmt: skip
            assert same(call(name, x, y, z), expected), name
        a, b, c = (spread(dtype, -3, 3, 4096) for _ in range(3))
        b, c = np.roll(b, 1), np.roll(c, 2)
        wide = np.longdouble if dtype == np.float64 else np.float64
        exact = (a.astype(wide) + b) * c - a.astype(wide) / b
        size = np.abs(a * c) + np.abs(b * c) + np.abs(a / b)
        assert (np.abs(call("arithmetic", a, b, c) - exact) <= 3 * np.finfo(dtype).eps * size).all()
        exact = a.astype(wide) * b + c
        size = np.abs(exact) if call.kind in ("avx2", "avx512") else np.abs(exact) + np.abs(a * b)
        assert (np.abs(call("fused", a, b, c) - exact) <= np.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_masks_and_parts_of_vectors(call, dtype):
    lanes = {"plain": 16, "baseline": 16, "avx2": 32, "avx512": 64}[call.kind] // np.dtype(dtype).itemsize
    x = np.arange(1, 161, dtype=dtype) ** 2
    groups = x.reshape(-1, lanes)
    assert same(call("total", x), np.repeat(groups.sum(1), lanes))
    assert same(call("lanes", x[:lanes]), np.arange(lanes) + 100 * lanes)
    order = np.random.default_rng(2).integers(0, lanes, len(x))
    permuted = call("permuted", x, order.astype(dtype)).reshape(-1, lanes)
    assert same(permuted, np.take_along_axis(groups, order.reshape(-1, lanes), 1))
    threshold = np.full_like(x, 40.0)
    assert same(call("any_less", x, threshold), np.repeat((groups < 40).any(1), lanes))
    assert same(call("all_less", x, threshold), np.repeat((groups < 40).all(1), lanes))
    for n in range(lanes):  # nothing behind the n lanes is read into the result or written
        found = call("part", x[:n] if n else np.empty(0, dtype))
        assert same(found[:n], x[:n] + 1) and found[n] == 77
        assert same(found[n + 1 : n + 1 + lanes], np.pad(x[:n], (0, lanes - n)))


def units(found, exact, dtype):
    """Distance in units of the last place of the exact value (denormals: of the smallest number)."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(found - exact) / np.spacing(np.abs(exact).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "expm1", "log1p"])
def test_exponentials_and_logarithm(call, dtype, name):
    wide = np.longdouble if dtype == np.float64 else np.float64
    largest = float(np.log(np.finfo(dtype).max))
    x = np.concatenate([spread(dtype, -30, 2.5), np.linspace(-745, 709, 4_001).astype(dtype), awkward(dtype)])
    if name == "log1p":
        x = np.concatenate([np.abs(spread(dtype, -30, 35)), -np.abs(spread(dtype, -30, -1e-6)), awkward(dtype)])
    x = x[: len(x) // 16 * 16]
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(wide))
        rounded = exact.astype(dtype)
        found = call(name, x)
        assert same(np.isnan(found), np.isnan(rounded))
        beyond = x > largest * (1 + 1e-6) if name != "log1p" else np.isinf(rounded)
        assert same(found[beyond], rounded[beyond])
        inside = np.isfinite(rounded) & (x < largest * (1 - 1e-6) if name != "log1p" else True)
        assert units(found, exact, dtype)[inside].max() <= (2 if name == "exp" else 4)
    one = np.array([np.inf, -np.inf, np.nan, -0.0] * 4, dtype)
    expected = {"exp": [np.inf, 0, np.nan, 1], "expm1": [np.inf, -1, np.nan, 0], "log1p": [np.inf, np.nan, np.nan, 0]}
    assert same(call(name, one), expected[name] * 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_flushed_power_of_two(call, dtype):
    smallest, top = np.finfo(dtype).minexp + 1, np.finfo(dtype).maxexp
    x = np.concatenate([spread(dtype, -3, 3.2), awkward(dtype)])
    with np.errstate(all="ignore"):
        exact = np.exp2(x.astype(np.longdouble))
        expected = np.where(x < smallest, 0, np.where(x < top, exact, np.inf)).astype(dtype)
        expected[np.isnan(x)] = np.nan
        found = call("exp2", x)
    inside = (x >= smallest) & (x < top)
    assert same(found[~inside], expected[~inside]) and units(found, exact, dtype)[inside].max() <= 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_power_of_two_and_what_it_lacks_of_one(call, dtype):
    smallest, top = np.finfo(dtype).minexp + 1, np.finfo(dtype).maxexp - 1
    x = np.concatenate([spread(dtype, -12, 3.2), awkward(dtype)])
    with np.errstate(all="ignore"):
        # rounded twice, but not less exact than asked: 1 - 2^x near 0 through expm1
        exact = np.exp2(x.astype(np.longdouble)), -np.expm1(x.astype(np.longdouble) * np.log(np.longdouble(2)))
        power, rest = call("power", x), call("rest", x)
    inside, below = (x >= smallest) & (x < top), x < smallest
    assert not power[below].any() and (rest[below] == 1).all()
    assert np.isnan(power[np.isnan(x)]).all() and np.isnan(rest[np.isnan(x)]).all()
    assert units(power, exact[0], dtype)[inside].max() <= 2
    assert units(rest, exact[1], dtype)[inside].max() <= 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_sine_and_cosine_of_every_number(call, dtype):
    wide = np.longdouble if dtype == np.float64 else np.float64
    quarters = (np.arange(-200_000, 200_000, 37) * np.pi / 2).astype(dtype)  # where the reduction cancels most
    encoded = (spread(dtype, -2, 1, 1000)[:, None] * 2.0 ** np.arange(16)).astype(dtype).ravel()
    x = np.concatenate([quarters, encoded, spread(dtype, -40, 6.02), spread(dtype, 6, 38), awkward(dtype)])
    x = x[len(x) % 16 :]
    with np.errstate(invalid="ignore"):
        for name, function in {"sine": np.sin, "cosine": np.cos}.items():
            found, exact = call(name, x), function(x.astype(wide))
            assert same(np.isnan(found), ~np.isfinite(x))
            within = 1e-7 if dtype == np.float32 else 4e-16
            assert np.nanmax(np.abs(found - exact)) <= within
    x = spread(dtype, -30, -3, 4096)
    assert np.abs(call("sine", x) / x - 1).max() <= 1e-6
