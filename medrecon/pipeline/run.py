# SPDX-License-Identifier: Apache-2.0
"""Runs the street: plans, reuses what is fresh, does the rest, and leaves result.json, manifest.json and the report."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medrecon import assets
from medrecon.config.run_config import RunConfig, load_config
from medrecon.errors import ConfigError, InputError, MedreconError, StageError, TeamError
from medrecon.pipeline import weights
from medrecon.pipeline.cache import StageStore, stage_keys
from medrecon.pipeline.display import Display, duration
from medrecon.pipeline.processes import Crew, processes, take_gpu
from medrecon.pipeline.stages import STAGE_LIST, STAGES, Stage, Work
from medrecon.plugins.manager import plugins
from medrecon.progress import Quiet
from medrecon.runfolder import RunFolder
from medrecon.types import RunResult
from medrecon.types.storage import write_bytes_atomic, write_json


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One line of the plan: a stage, its cache key and whether its result can be used again."""

    stage: Stage
    key: str
    cached: bool


def _check_stage_name(name: str | None, option: str) -> None:
    if name is not None and name not in STAGES:
        raise ConfigError(f"{option} {name!r} is no stage", f"stages in order: {', '.join(STAGES)}")


def plan(
    config: RunConfig,
    out: Path,
    from_stage: str | None = None,
    until: str | None = None,
    force: Iterable[str] = (),
) -> list[PlannedStage]:
    """What ``run`` would do, without doing it.

    A stage is taken from the cache when its key is unchanged, it is not forced, and nothing it needs is redone.
    """
    force = tuple(force)
    for name, option in ((from_stage, "--from"), (until, "--until"), *((f, "--force") for f in force)):
        _check_stage_name(name, option)
    device, threads = _device(config), _threads(config)
    keys = stage_keys(config, device, threads, processes())
    store = StageStore(Path(out))
    names = [s.name for s in STAGE_LIST]
    last = names.index(until) if until else len(names) - 1
    first_redone = names.index(from_stage) if from_stage else len(names)
    planned, redone = [], set()
    for i, stage in enumerate(STAGE_LIST[: last + 1]):
        must = i >= first_redone or stage.name in force or bool(redone & set(stage.needs))
        cached = not must and store.is_fresh(stage.name, keys[stage.name])
        if not cached:
            redone.add(stage.name)
        planned.append(PlannedStage(stage, keys[stage.name], cached))
    return planned


def _device(config: RunConfig) -> str:
    if config.options.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        take_gpu()
        return "cuda"
    if config.options.device == "cuda":
        raise InputError(
            "device 'cuda' was asked for but torch sees no CUDA device", "set device: cpu, or see `medrecon doctor`"
        )
    return "cpu"


def _threads(config: RunConfig) -> int:
    if config.options.threads:
        return config.options.threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _use_threads(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


@contextmanager
def _locked(out: Path):
    """One run per folder at a time.  Raises InputError when another process holds it."""
    try:
        import fcntl
    except ImportError:  # not POSIX: no lock
        yield
        return
    path = out / ".lock"
    with open(path, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"another run is writing to {out}", "wait for it, or choose another --out") from None
        yield


def _friendly(e: OSError, out: Path) -> MedreconError:
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"the disk that holds {out} is full", "free some space and run the same command again: it resumes"
        )
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError(f"{out} cannot be written to: {e.strerror}", "choose a folder you may write to with --out")
    return InputError(f"{e.strerror or e} ({out})", "see the message; nothing half-written was left")


def _work(stage: Stage, config: RunConfig, out: Path, folder: Path, done: set[str], display, crew: Crew) -> None:
    """What a stage has to do, in every process that shares it."""
    device, threads = _device(config), _threads(config)
    run = RunFolder(out, {stage.name: folder}, done)
    build = lambda section: plugins().build(section.component, section.options)
    work = Work(config, run, folder, device, display, build)
    if not stage.shared:
        stage.call(work)
        return
    with crew.team(device, threads) as team:
        stage.call(replace(work, team=team))


def _run_stage(
    planned: PlannedStage, config: RunConfig, out: Path, display: Display, scratch: bool, done: set[str], crew: Crew
) -> float:
    stage, store = planned.stage, StageStore(out)
    folder = store.begin(stage, planned.key, scratch)
    start = time.monotonic()
    try:
        with assets.recording() as asked:
            if stage.shared:
                crew.call(stage=stage.name, folder=folder.name, done=sorted(done))
            _work(stage, config, out, folder, done, display, crew)
    except (KeyboardInterrupt, OSError, TeamError):
        raise  # what was written so far is where the same command resumes
    except MedreconError:
        store.discard(stage.name, planned.key)
        raise
    except MemoryError as e:
        raise StageError(f"stage {stage.name!r} ran out of memory", "use fewer or smaller pictures") from e
    except Exception as e:
        store.discard(stage.name, planned.key)
        raise StageError(
            f"stage {stage.name!r} failed: {type(e).__name__}: {e}",
            "run again with --debug for the traceback; if the input is sound, please report it",
        ) from e
    seconds = time.monotonic() - start
    store.finish(stage.name, planned.key, seconds, asked)
    return seconds


def run(
    config: RunConfig | str | Path,
    out: str | Path = "runs/run",
    *,
    from_stage: str | None = None,
    until: str | None = None,
    force: Iterable[str] = (),
    display: Display | None = None,
) -> RunResult | None:
    """Reconstruct and measure.

    In the processes beside the first that torchrun started it helps with the shared stages and returns None.

    Args:
        config: what ``load_config`` gave, or the path of a YAML file.
        out: folder of the run; the same folder again resumes or reuses what is there.
        from_stage: redo this stage and all after it.
        until: stop after this stage.
        force: stages to redo together with what depends on them.
        display: where progress goes; default: the terminal.
    Raises:
        MedreconError: with cause, remedy and ``exit_code``; finished stages stay usable.
        KeyboardInterrupt: after the current stage has saved what it can.
    """
    if not isinstance(config, RunConfig):
        config = load_config(config)
    out, display, crew = Path(out), display or Display(), Crew.present()
    if crew.rank:
        _help(config, out, crew)
        return None
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out), assets.accepting(config.options.accept_licenses):
            return _run_locked(config, out, from_stage, until, tuple(force), display, crew)
    except OSError as e:
        raise _friendly(e, out) from e
    finally:
        crew.dismiss()


def _help(config: RunConfig, out: Path, crew: Crew) -> None:
    """Does its share of what process 0 calls for."""
    for call in crew.calls():
        _use_threads(_threads(config))
        folder = out / "stages" / call["folder"]
        with assets.accepting(config.options.accept_licenses):
            _work(STAGES[call["stage"]], config, out, folder, set(call["done"]), Quiet(), crew)


def _run_locked(config, out: Path, from_stage, until, force, display: Display, crew: Crew) -> RunResult:
    device, threads = _device(config), _threads(config)
    _use_threads(threads)
    registry = plugins()
    for line in _preflight(config):
        display.say(line)
    planned = plan(config, out, from_stage, until, force)
    plain = _write_run_yaml(config, out)

    def notify(hook: str, **facts: Any) -> None:
        for problem in registry.notify(hook, **facts):
            display.say(f"plugin {problem.plugin}: {problem.cause}")

    for problem in registry.problems:
        display.say(f"plugin {problem.plugin} {problem.cause}")
    notify("medrecon_run_started", run_dir=out, config=plain)
    for name in ("result.json", "report.html"):
        if not all(p.cached for p in planned):
            (out / name).unlink(missing_ok=True)  # figures of older settings must not stand beside new ones
    store, records = StageStore(out), []
    scratch_from = set(force) | ({from_stage} if from_stage else set())
    for i, p in enumerate(planned, 1):
        title = f"[{i}/{len(planned)}] {p.stage.name}: {p.stage.summary}"
        if p.cached:
            seconds = float(store.stamp(p.stage.name).get("seconds", 0.0))
            display.headline(f"{title} (unchanged, reused)")
        else:
            notify("medrecon_stage_started", run_dir=out, stage=p.stage.name)
            with display.during(p.stage.name, title):
                done = {r["name"] for r in records}
                seconds = _run_stage(p, config, out, display, p.stage.name in scratch_from, done, crew)
            display.headline(f"  {p.stage.name} done in {duration(seconds)}")
        display.event("stage_finished", finished=p.stage.name, seconds=round(seconds, 3), cached=p.cached)
        notify("medrecon_stage_finished", run_dir=out, stage=p.stage.name, seconds=seconds, cached=p.cached)
        record = {"name": p.stage.name, "key": p.key, "seconds": round(seconds, 3), "cached": p.cached}
        records.append({**record, "assets": list(store.stamp(p.stage.name).get("assets", ()))})
    return _conclude(config, out, device, threads, records, display, notify)


def _preflight(config: RunConfig) -> list[str]:
    """Look for every weight, then make every component once, so that what is missing or bad costs no hours.

    Returns what the user should read about them.
    """
    notes = [*(config.choice.lines() if config.choice else []), *weights.check(config)]
    for section in [*config.sections.values(), *(s for group in config.lists.values() for s in group)]:
        if section.component is not None:
            plugins().build(section.component, section.options)
    return notes


def _write_run_yaml(config: RunConfig, out: Path) -> dict[str, Any]:
    import yaml

    from medrecon.pipeline.manifest import without_paths

    plain = without_paths(config.to_dict(), config)
    write_bytes_atomic(out / "run.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
    return plain


def _conclude(config: RunConfig, out: Path, device: str, threads: int, records, display: Display, notify) -> RunResult:
    from medrecon.pipeline.manifest import manifest
    from medrecon.pipeline.result import summarise

    facts = manifest(config, device, threads, records)
    write_json(out / "manifest.json", facts)
    folder = RunFolder(out)
    result, metrics, scale = summarise(folder, facts)
    write_json(out / "result.json", result)
    report = None
    if any(r["name"] == "keyframes" for r in records):
        from medrecon.report.document import write as write_report

        start = time.monotonic()
        with display.during("report", "report: one self-contained page"):
            report = out / "report.html"
            write_report(folder, report, display)
        display.headline(f"  report done in {duration(time.monotonic() - start)}")
    notify("medrecon_run_finished", run_dir=out, result=result)
    display.event("run_finished", result=json.loads(json.dumps(result)))
    return RunResult(out, metrics, scale, result["seconds"], result, report)
