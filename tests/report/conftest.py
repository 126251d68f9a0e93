# SPDX-License-Identifier: Apache-2.0
"""Runs for the report's tests."""

import shutil

import pytest
from synthetic_run import write_run

from medrecon.runfolder import RunFolder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished metric run; treat it as read-only."""
    return write_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return {m: write_run(root / str(m), metric=m, n=4, width_px=160, height_px=120).root for m in (True, False)}


@pytest.fixture
def make_run(small_runs, tmp_path):
    """A small run of four frames (two registered) that the test may spoil."""

    def make(metric=True):
        shutil.copytree(small_runs[metric], tmp_path / "run")
        return RunFolder(tmp_path / "run")

    return make
