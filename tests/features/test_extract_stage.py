# SPDX-License-Identifier: Apache-2.0
"""The features stage: resume, and extractors that break their contract."""

from dataclasses import replace

import numpy as np
import pytest

from medrecon.errors import InputError, PluginError
from medrecon.features import extract_all
from medrecon.features.orb import OrbExtractor, OrbExtractorConfig
from medrecon.images import write_png
from medrecon.progress import Quiet
from medrecon.testing import phantoms
from medrecon.types import Features, Frame, FrameSet


@pytest.fixture
def frames(tmp_path):
    out = []
    for i in (2, 5, 9):
        path = tmp_path / "in" / f"{i}.png"
        write_png(path, phantoms.texture_image(120, 160, seed=i, cell_px=10))
        mask = np.ones((120, 160), bool)
        mask[:, :60] = False
        write_png(tmp_path / "in" / f"m{i}.png", mask)
        out.append(Frame(i, f"{i:06d}", path, 160, 120, mask_path=tmp_path / "in" / f"m{i}.png"))
    return FrameSet(tuple(out), "test")


class Counting(OrbExtractor):
    def __init__(self):
        super().__init__(OrbExtractorConfig())
        self.calls = 0

    def extract(self, image, mask=None):
        self.calls += 1
        return super().extract(image, mask)


def test_one_file_per_frame_and_resume(frames, tmp_path):
    first, out = Counting(), tmp_path / "features"
    extract_all(frames, first, out, Quiet())
    assert first.calls == 3
    assert sorted(p.name for p in out.iterdir()) == ["000002.npz", "000005.npz", "000009.npz"]
    kept = {i: Features.load(out / f"{i:06d}.npz") for i in (2, 5, 9)}
    assert all((f.xy[:, 0] >= 60).all() and len(f) for f in kept.values())
    (out / "000005.npz").write_bytes((out / "000005.npz").read_bytes()[:500])  # killed while writing
    (out / "000009.npz").unlink()
    second = Counting()
    extract_all(frames, second, out, Quiet())
    assert second.calls == 2
    for i, old in kept.items():
        new = Features.load(out / f"{i:06d}.npz")
        assert (new.xy == old.xy).all() and (new.descriptors == old.descriptors).all()


def breaks(make_features):
    class Broken(OrbExtractor):
        def __init__(self):
            super().__init__(OrbExtractorConfig())

        def extract(self, image, mask=None):
            return make_features(super().extract(image, mask), super().extract(image))

    return Broken()


@pytest.mark.parametrize(
    "make_features, says",
    [
        (lambda f, _: None, "NoneType"),
        (lambda f, _: replace(f, xy=f.xy.astype(np.float16)), "float16"),
        (lambda f, _: replace(f, xy=f.xy + 500), "outside"),
        (lambda f, _: replace(f, image_size=(400, 400)), "400"),
        (lambda f, unmasked: unmasked, "mask is 0"),
        (lambda f, _: replace(f, scores=None), "unusable"),
        (lambda f, _: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_rubbish_is_blamed_on_the_extractor(frames, tmp_path, make_features, says):
    with pytest.raises(PluginError) as caught:
        extract_all(frames, breaks(make_features), tmp_path / "features", Quiet())
    assert "Broken" in str(caught.value) and "000002" in str(caught.value) and says in str(caught.value)
    assert not list((tmp_path / "features").iterdir())


def test_lost_picture_is_an_input_error(frames, tmp_path):
    frames.frames[1].image_path.unlink()
    with pytest.raises(InputError, match="5.png"):
        extract_all(frames, Counting(), tmp_path / "features", Quiet())
