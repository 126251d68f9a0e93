# SPDX-License-Identifier: Apache-2.0
"""`medrecon bench speed`: rows, limits, resuming, reports; figures of time are not judged."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.bench.speed import __main__ as command
from medrecon.bench.speed import alternating, field_rows, report
from medrecon.bench.speed import measure as measuring
from medrecon.bench.speed.measure import measure, run
from medrecon.bench.speed.ops_rows import flops, op_workloads
from medrecon.bench.speed.workload import FUNCTION, Workload
from medrecon.cli import main
from medrecon.errors import ConfigError
from medrecon.ops import selftest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two runs into one folder: the second adds to the first."""
    out = tmp_path_factory.mktemp("speed")
    arguments = ["--quick", "--no-compile", "--threads", "1", "--out", str(out)]
    assert command.main([*arguments, "--only", "resample"]) == 0
    first = json.loads((out / "results.json").read_text())
    assert command.main([*arguments, "--only", "composite forward", "--json", str(out / "copy.json")]) == 0
    return out, first, json.loads((out / "results.json").read_text())


def test_rows_are_kept_added_and_replaced(measured):
    out, first, results = measured
    assert [(row["op"], row["what"]) for row in first["ops"]] == [("resample", "forward")]
    assert [(row["op"], row["what"]) for row in results["ops"]] == [
        ("resample", "forward"),
        ("composite", "forward"),
        ("composite", "forward + backward"),
    ]
    assert results["ops"][0] == first["ops"][0]
    assert json.loads((out / "copy.json").read_text()) == results
    again = run(out, quick=True, only="resample", threads=1, compile=False, say=lambda text: None)
    assert len(again["ops"]) == 3 and again["ops"][-1]["op"] == "resample"


def test_a_row_says_times_limits_and_who_is_missing(measured):
    for row in measured[2]["ops"]:
        assert row["ms"] > 0 and row["others"]["eager"]["ms"] > 0 and row["difference"] < 1e-4
        top = row["ceilings"]
        assert min(top.values()) > 0
        fastest = max(top["sgemm"], top["onednn"])
        seconds = {"arithmetic": row["flops"] / fastest, "copy": row["bytes"] / top["copy"]}
        assert row["of_sgemm"] == pytest.approx(1e3 * row["flops"] / top["sgemm"] / row["ms"])
        assert row["limit"] == max(seconds, key=seconds.get)
        assert row["fraction"] == pytest.approx(1e3 * seconds[row["limit"]] / row["ms"])
    composite = measured[2]["ops"][1]
    for library in ("jax", "nerfacc"):
        if importlib.util.find_spec(library) is None:
            assert composite["left_out"][library] == f"{library} is not installed"


def test_results_of_another_setting_are_not_mixed(measured):
    with pytest.raises(ConfigError, match="another machine, version or setting"):
        run(measured[0], quick=False, only="resample", threads=1, compile=False)
    with pytest.raises(ConfigError, match="no row is called"):
        run(None, quick=True, only="no such op", threads=1, compile=False)


def test_reports(measured):
    out, _, results = measured
    table = (out / "results.md").read_text()
    assert table.count("\n| composite |") == 2 and f"{results['threads']} threads" in table
    assert report.headline(results).count("\n") == 2 + 2 and "composite, forward + backward" in report.headline(results)
    if importlib.util.find_spec("matplotlib"):
        assert (out / "speed.png").stat().st_size > 1e4
        assert "<svg" in (out / "speed.svg").read_text()


def test_the_readme_shows_the_committed_results():
    """Made by `python -m medrecon.bench.speed --headline benchmarks/results/speed-2-cpu-cores.json`."""
    results = json.loads((ROOT / "benchmarks/results/speed-2-cpu-cores.json").read_text())
    assert report.headline(results) in (ROOT / "README.md").read_text()
    assert report.markdown(results) == (ROOT / "benchmarks/results/speed-2-cpu-cores.md").read_text()


def test_rows_are_told_from_the_smallest_to_the_largest():
    rows = [
        {"op": op, "what": "forward", "size": size} for op, size in (("b", "20 x 3"), ("b", "4 x 3"), ("mipnerf", "9"))
    ]
    assert [row["size"] for row in report.ordered({"ops": rows})] == ["9", "4 x 3", "20 x 3"]


def test_flops_of_a_step_are_those_of_its_matrices():
    """Counted by torch itself on the plain network; what enters once per ray and what is elementwise is left out."""
    from torch.utils.flop_counter import FlopCounterMode

    n, s, width, layers = 5, 7, 64, 2
    rendering, training = field_rows._rows(layers, width, n, s, "cpu", compile=False)
    plain = field_rows.Plain(width, layers)
    rays = (torch.linspace(1, 2, s + 1).repeat(n, 1), torch.randn(n, 3), torch.randn(n, 3), torch.ones(n, 1))
    with FlopCounterMode(display=False) as counter:
        plain(rays, torch.zeros(n, field_rows.N_VIEW))
    per_ray = 2 * n * s * field_rows.N_VIEW * (width // 2)  # the plain network multiplies it for every sample
    assert rendering.flops == counter.get_total_flops() - per_ray
    assert training.flops == 3 * rendering.flops


def test_flops_and_bytes_of_an_op_follow_its_sizes():
    inputs = (torch.zeros(10, 3), torch.zeros(10, 3))
    assert flops("integrated_positional_encoding", inputs, (torch.zeros(10, 96),)) == 960 * (2 + 1.5 * FUNCTION)
    rows = {row.name: row for row in op_workloads("cpu", quick=True, compile=False)}
    rays, samples = 257, 33
    forward = rows[f"composite forward {rays} x {samples}"]
    given = rays * (4 * samples + samples + 1 + 3)  # colours, densities, fence posts, directions
    made = rays * (3 + 1 + 1 + samples)
    assert forward.bytes == 4 * (given + made)
    assert rows[f"composite forward + backward {rays} x {samples}"].bytes == 4 * (3 * given + 2 * made)
    assert {case.name for case in selftest.cases(torch.Generator())} == {row.op for row in rows.values()}


def test_a_peer_that_fails_is_left_out_with_its_reason_and_ours_is_not():
    def broken():
        raise RuntimeError("no such\ninstruction")

    ceilings = {"sgemm": lambda: None, "copy": lambda: None}
    for ceiling in ceilings.values():
        ceiling.__dict__["amount"] = 1.0
    work = {"medrecon": lambda: lambda: None, "eager": lambda: lambda: None}
    row = measure(Workload("x", "y", "z", 1, 1, work | {"jax": broken}, lambda: 0.0), ceilings, 2, "cpu")
    assert row["left_out"] == {"jax": "RuntimeError: no such"} and list(row["others"]) == ["eager"]
    with pytest.raises(RuntimeError):
        measure(Workload("x", "y", "z", 1, 1, work | {"medrecon": broken}, lambda: 0.0), ceilings, 2, "cpu")


def test_it_needs_only_torch_and_numpy():
    code = """
import sys
import medrecon.bench.speed.__main__
print([m for m in ("cv2", "pydantic", "typer", "scipy", "yaml", "matplotlib", "pluggy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_command(tmp_path, capsys):

    arguments = ["bench", "speed", "--quick", "--no-compile", "--threads", "1", "--out", str(tmp_path)]
    assert main([*arguments, "--only", "mipnerf rendering"]) == 0
    assert "| mipnerf | rendering | 128 x 32, 2 x 64 |" in capsys.readouterr().out


def test_what_prepares_a_call_is_not_timed(monkeypatch):
    """Threads asleep and a cold cache are no part of the time of an op; it is so for every implementation."""
    seen = []
    monkeypatch.setattr(alternating.time, "perf_counter", lambda: seen.append("clock") or 0.0)

    def call(_):
        seen.append("call")

    call.prepare = lambda: seen.append("prepare")
    with np.errstate(invalid="ignore"):
        alternating.alternate({"with": call}, [None], 1)
    assert seen == ["prepare", "clock", "call", "clock"] * 2


@pytest.mark.parametrize(("seconds", "many"), [(0.0, False), (1e9, True)])
def test_a_turn_of_short_calls_is_prepared_by_another_and_one_of_long_calls_is_not(monkeypatch, seconds, many):
    monkeypatch.setattr(measuring, "TURN_SECONDS", seconds)
    called = []
    turn, count = measuring._turn(lambda: called.append(1), "cpu")
    assert count == (measuring.MOST_CALLS if many else 1)
    called.clear()
    turn.prepare()
    assert len(called) == (count if many else 0)
