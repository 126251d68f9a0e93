# SPDX-License-Identifier: Apache-2.0
"""A real laparoscopy clip, where it is at hand."""

from pathlib import Path

import numpy as np
import pytest

from medrecon.images import cv2, write_png
from medrecon.progress import Quiet
from medrecon.sfm.incremental import IncrementalMapper, IncrementalMapperConfig
from medrecon.sfm.reconstruct import reconstruct
from medrecon.sfm.scale import ScaleConfig
from medrecon.types import Frame, FrameSet

CLIP = Path(__file__).parents[2] / ".." / "shared" / "data" / "endo.mp4"


@pytest.mark.slow
@pytest.mark.skipif(not CLIP.exists(), reason="the clip is not here")
def test_every_fifth_frame_of_a_laparoscopy(tmp_path):
    from medrecon.features.extract import extract_all
    from medrecon.features.sift import SiftExtractor, SiftExtractorConfig
    from medrecon.ingest.masks import MaskConfig, write_masks
    from medrecon.matching.match import match_all
    from medrecon.matching.nearest_neighbour import NearestNeighbourMatcher, NearestNeighbourMatcherConfig
    from medrecon.matching.verification import VerificationConfig
    from medrecon.runfolder import FeatureFolder

    video, frames = cv2.VideoCapture(str(CLIP)), []
    for i in range(250):
        ok, image = video.read()
        assert ok
        if i % 5 == 0:
            path = tmp_path / f"{i:06d}.png"
            write_png(path, np.ascontiguousarray(image[..., ::-1]))
            frames.append(Frame(i, path.stem, path, image.shape[1], image.shape[0], time_s=i / 25))
    frames = write_masks(FrameSet(tuple(frames), "video"), MaskConfig(specular=True), tmp_path, Quiet())
    extract_all(frames, SiftExtractor(SiftExtractorConfig(max_keypoints=4096)), tmp_path / "features", Quiet())
    features = FeatureFolder(tmp_path / "features")
    ids = [f.frame_id for f in frames.frames]
    pairs = [(a, b) for k, a in enumerate(ids) for b in ids[k + 1 : k + 7]]
    matcher = NearestNeighbourMatcher(NearestNeighbourMatcherConfig())
    graph = match_all(frames, features, pairs, matcher, VerificationConfig(), tmp_path / "matching", 0, Quiet())
    mapper = IncrementalMapper(IncrementalMapperConfig())
    model = reconstruct(frames, features, graph, mapper, ScaleConfig(), tmp_path / "sfm", 0, Quiet())
    assert len(model.registered_ids) >= 45
    # 796 px is what COLMAP finds with its own SIFT.
    assert model.cameras[model.registered_ids[0]].focal_px[0] == pytest.approx(796, rel=0.1)
    assert len(model.points) > 2000 and model.mean_reprojection_px < 2
    assert (model.colors.std(0) > 5).all()
