# SPDX-License-Identifier: Apache-2.0
"""Videos of the path in the report: embedded where browsers can play them, and otherwise left where they are."""

import base64
from pathlib import Path

import numpy as np
import pytest

from medrecon.progress import Quiet
from medrecon.radiance.renders import DepthVideo, Renders
from medrecon.radiance.video import write_mp4
from medrecon.report import videos
from medrecon.report.document import write
from medrecon.types import Scale, Sim3
from medrecon.types.storage import read_json, write_json


def video(path: Path) -> Path:
    frames = (np.full((32, 48, 3), 20 * k, np.uint8) for k in range(4))
    if write_mp4(path, frames, (48, 32), 8) not in ("avc1", "vp09"):
        pytest.skip("this OpenCV writes no codec that browsers play")
    return path


def renders(tmp_path, depth=True):
    deep = DepthVideo(video(tmp_path / "deep.mp4"), 2.0, 7.5) if depth else None
    return Renders("mine", "none", (), video(tmp_path / "path.mp4"), None, deep)


def test_both_videos_are_in_it_with_their_range(tmp_path):
    made = renders(tmp_path)
    colour, depth = videos.path_videos(made, Scale())
    head = "data:video/mp4;base64,"
    for shown, path in ((colour, made.path_video), (depth, made.depth_video.path)):
        assert shown.uri.startswith(head)
        assert base64.b64decode(shown.uri.removeprefix(head)) == path.read_bytes()
    assert "2 (bright) to 7.5 units" in depth.caption
    scale = Scale("mm", Sim3(10.0, np.eye(3), np.zeros(3)), "known poses")
    assert "20 (bright) to 75 mm" in videos.path_videos(made, scale)[1].caption
    assert len(videos.path_videos(renders(tmp_path, depth=False), Scale())) == 1


def test_what_is_gone_too_large_or_of_another_codec_is_left_out(tmp_path, monkeypatch):
    made = renders(tmp_path)
    made.path_video.unlink()
    assert len(videos.path_videos(made, Scale())) == 1
    made.depth_video.path.write_bytes(b"\0\0\0\x18ftypmp42 mp4v")
    assert videos.path_videos(made, Scale()) == []
    video(made.path_video)
    monkeypatch.setattr(videos, "MOST_BYTES", 100)
    assert videos.path_videos(made, Scale()) == []


def test_the_page_plays_them_and_loads_nothing_else(tmp_path, make_run):
    run = make_run()
    folder = run.stage_dir("render")
    page = write(run, tmp_path / "report.html", Quiet()).read_text()
    assert "<video" not in page and "lies in the run's render folder" in page  # its file is not there
    video(folder / "path.mp4"), video(folder / "path_depth.mp4")
    data = read_json(folder / "renders.json")
    data["depth_video"] = {"file": "path_depth.mp4", "near_sfm": 2.0, "far_sfm": 4.0}
    write_json(folder / "renders.json", data)
    page = write(run, tmp_path / "report.html", Quiet()).read_text()
    assert page.count('<video src="data:video/mp4;base64,') == 2 and "media-src data:" in page
    assert "lies in the run's render folder" not in page
