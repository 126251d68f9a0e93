# SPDX-License-Identifier: Apache-2.0
"""The selftest passes, reports, and fails when an op is wrong; the doctor's lines."""

import json

import torch

from medrecon.errors import ConfigError
from medrecon.ops import doctor, functions, reference, selftest


def test_selftest_passes_and_writes_json(tmp_path, capsys):
    torch.set_num_threads(1)
    assert selftest.main(["--seed", "3", "--json", str(tmp_path / "out.json")]) == 0
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["passed"] and out["seed"] == 3
    assert {o["name"] for o in out["ops"]} == {
        "cast_rays",
        "positional_encoding",
        "integrated_positional_encoding",
        "composite",
        "composite_packed",
        "resample",
        "log_sinkhorn",
        "grid_encode",
        "march_rays",
        "fused_field",
        "fused_field_loss",
        "fused_grid",
        "fused_grid_loss",
    }
    assert "all 26 passed" in capsys.readouterr().out


def _outcome(op, plain=reference.positional_encoding):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 3).double()  # exact in float32
    case = selftest.Case("x", lambda x: op(x, 0, 8), lambda x: plain(x, 0, 8), (x,), 1e-6)
    return selftest.check(case, "cpu", torch.float32, generator, repeats=1)


def test_selftest_notices_wrong_values_wrong_gradients_and_nan():
    right = functions.positional_encoding
    assert _outcome(right).ok
    assert not _outcome(lambda *a: right(*a) + 1e-5).ok
    assert not _outcome(lambda x, *d: right(x.detach(), *d) + (x - x.detach()).sum()).ok
    assert not _outcome(lambda *a: right(*a) * float("nan")).ok


def test_selftest_without_the_device_says_so(capsys):
    if not torch.cuda.is_available():
        assert selftest.main(["--device", "cuda"]) == 1
        assert "sees no CUDA device" in capsys.readouterr().out


def test_doctor_names_every_part_and_a_fix_for_what_is_missing(monkeypatch):
    checks = {c.name: c for c in doctor.checks()}
    assert list(checks) == ["C++ compiler", "ninja", "Python headers", "torch", "nvcc", "ops backend"]
    assert all(c.ok or c.fix for c in checks.values())
    assert all(not (c.ok and c.fix) for c in checks.values())

    monkeypatch.setattr(doctor, "backend", lambda: doctor_info("reference", "jit: no C++ compiler"))
    monkeypatch.setattr(doctor.recipe, "compiler", lambda: None)
    checks = {c.name: c for c in doctor.checks()}
    assert not checks["C++ compiler"].ok and "install" in checks["C++ compiler"].fix
    assert not checks["ops backend"].ok and "no C++ compiler" in checks["ops backend"].detail
    assert "above" in checks["ops backend"].fix


def test_doctor_tells_a_failed_build_from_a_missing_tool(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "backend", lambda: doctor_info("reference", "jit: the build failed; the log is in x"))
    monkeypatch.setattr(doctor, "_version", lambda *arguments, **options: "1.0")
    monkeypatch.setattr(doctor.recipe, "compiler", lambda: "/usr/bin/c++")
    monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    checks = {c.name: c for c in doctor.checks()}
    assert not checks["Python headers"].ok and "python3-dev" in checks["Python headers"].fix
    assert "above" in checks["ops backend"].fix
    (tmp_path / "Python.h").write_text("")
    checks = {c.name: c for c in doctor.checks()}
    assert checks["Python headers"].ok and "MEDRECON_OPS=jit" in checks["ops backend"].fix

    def refused():
        raise ConfigError("MEDRECON_OPS=gpu is no ops backend", "use another")

    monkeypatch.setattr(doctor, "backend", refused)
    assert {c.name: c for c in doctor.checks()}["ops backend"].fix == "use another"


def doctor_info(name, reason):
    from medrecon.ops import BackendInfo

    return BackendInfo(name, reason)
