# SPDX-License-Identifier: Apache-2.0
"""The kits pass honest components and catch each kind of broken one with a message that states the contract."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.testing import (
    ExtractorConformance,
    MatcherConformance,
    MesherConformance,
    PairingConformance,
    RendererConformance,
    SourceConformance,
    phantoms,
)
from medrecon.testing.contract import DOCS
from medrecon.types import Features, FrameSet, Matches

_spec = importlib.util.spec_from_file_location("conformance_dummies", Path(__file__).with_name("dummies.py"))
d = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(d)

KITS = {
    "extractor": ExtractorConformance,
    "matcher": MatcherConformance,
    "mesher": MesherConformance,
    "pairing": PairingConformance,
    "renderer": RendererConformance,
    "source": SourceConformance,
}


def kit(kind, component):
    """The kit of a kind whose make returns the component (a class)."""
    if kind == "source":

        def make(self, input_dir):
            for i in range(3):
                d.write_png(input_dir / f"{i}.png", phantoms.texture_image(20, 24 + i, seed=i))
            return component(input_dir)

        def make_broken(self, input_dir):
            (input_dir / "0.png").write_text("this is not a picture")
            return component(input_dir)

        return type("Tried", (SourceConformance,), {"make": make, "make_broken": make_broken})()
    return type("Tried", (KITS[kind],), {"make": lambda self: component()})()


def checks(kind):
    return [name for name in dir(KITS[kind]) if name.startswith("test_")]


GOOD = {
    "extractor": d.CornerExtractor,
    "matcher": d.MutualMatcher,
    "mesher": d.SeenBall,
    "pairing": d.EveryPair,
    "renderer": d.Ball,
    "source": d.FolderSource,
}


@pytest.mark.parametrize("kind, check", [(k, c) for k in GOOD for c in checks(k)])
def test_honest_components_pass(kind, check):
    assert getattr(kit(kind, GOOD[kind]), check)() is None


def altered(base, method, change):
    """A class like ``base`` whose method's result goes through ``change(result, self, *arguments)``."""

    def wrapped(self, *args, **kwargs):
        return change(getattr(base, method)(self, *args, **kwargs), self, *args)

    return type("Broken", (base,), {method: wrapped})


_calls = iter(range(10**6))


def _spoil(array):
    array[..., 0] = 0


def _stray(out, self, *_):
    (self.folder / "notes.txt").write_text("x")
    return out


def _tall(out, *_):
    return FrameSet((d.changed(out.frames[0], height_px=7), *out.frames[1:]), out.source)


def _renamed(out, self, out_dir, _):
    return FrameSet(tuple(d.changed(f, name=f"{f.name}-{next(_calls)}") for f in out.frames), out.source)


def _outside(out, self, *_):
    return FrameSet((d.changed(out.frames[0], image_path=self.folder / "0.png"), *out.frames[1:]), out.source)


def _ignores_generator(self, rays, rgb, weight, step, generator):
    return d.Ball.loss(self, rays, rgb, weight, step, None)


E, M, P, R, S = d.CornerExtractor, d.MutualMatcher, d.EveryPair, d.Ball, d.FolderSource
B = d.SeenBall
BROKEN = [
    # kind, component, the check that must catch it, words of the message
    ("extractor", altered(E, "extract", lambda f, *_: None), "test_survives_any_size", "medrecon.types.Features"),
    ("extractor", altered(E, "extract", lambda f, *_: d.changed(f, xy=f.xy.astype(np.float64))),
     "test_survives_any_size", "finite float32"),
    ("extractor", altered(E, "extract", lambda f, *_: d.changed(f, image_size=f.image_size[::-1])),
     "test_survives_any_size", "width, height"),
    ("extractor", altered(E, "extract", lambda f, *_: d.changed(f, extractor="")), "test_names_itself", "name"),
    ("extractor", altered(E, "extract", lambda f, *_: phantoms.take(f, np.arange(min(len(f), 3)))),
     "test_finds_keypoints_in_colour_and_grey", "at least 20"),
    ("extractor", altered(E, "extract", lambda f, *_: d.changed(f, scores=f.scores + np.float32(next(_calls)))),
     "test_is_deterministic", "bit for bit"),
    ("extractor", altered(E, "extract", lambda f, self, image, mask: (_spoil(image), f)[1]),
     "test_leaves_its_input_alone", "changes neither"),
    ("extractor", altered(E, "extract", lambda f, self, image, mask: E.extract(self, image)),
     "test_honours_the_mask_strictly", "mask is False"),
    ("extractor", altered(E, "extract", lambda f, self, image, mask: E.extract(self, image)),
     "test_full_and_empty_masks", "False everywhere"),
    ("extractor", altered(E, "extract", lambda f, *_: d.changed(f, xy=f.xy - np.float32(0.5))),
     "test_pixel_centres_lie_at_one_half", "centre was taken as 0"),
    ("matcher", altered(M, "match", lambda m, *_: m.idx), "test_finds_known_matches", "medrecon.types.Matches"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, idx=m.idx.astype(np.int64))),
     "test_finds_known_matches", "int32"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, idx=m.idx + np.int32(200))),
     "test_finds_known_matches", "outside"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, idx=m.idx * np.int32([1, 0]))),
     "test_finds_known_matches", "matched twice"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, scores=m.scores * np.float32("nan"))),
     "test_finds_known_matches", "finite"),
    ("matcher", altered(M, "match", lambda m, *_: Matches.empty()), "test_finds_known_matches", "known matches"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, idx=m.idx[::-1] * [1, 0] + m.idx * [0, 1])),
     "test_finds_known_matches", "int32"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, idx=np.c_[m.idx[::-1, 0], m.idx[:, 1]])),
     "test_finds_known_matches", "known matches"),
    ("matcher", altered(M, "match", lambda m, self, a, b: m if len(b) else Matches(np.zeros((1, 2), np.int32),
                                                                                  np.zeros(1, np.float32))),
     "test_empty_sides", "outside"),
    ("matcher", altered(M, "match", lambda m, *_: d.changed(m, scores=m.scores + np.float32(next(_calls)))),
     "test_is_deterministic", "bit for bit"),
    ("matcher", altered(M, "match", lambda m, self, a, b: (_spoil(a.descriptors), m)[1]),
     "test_leaves_its_input_alone", "does not change"),
    ("matcher", altered(M, "match", lambda m, self, a, b: d.changed(m, idx=m.idx[m.idx[:, 1] < 100],
                                                                    scores=m.scores[m.idx[:, 1] < 100])),
     "test_order_of_keypoints_does_not_matter", "another order"),
    ("matcher", type("Broken", (M,), {"match": lambda self, a, b: Matches.empty()}),
     "test_refuses_mixed_descriptors", "refused"),
    ("matcher", type("Broken", (M,), {"match": lambda self, a, b: 1 / 0}),
     "test_refuses_mixed_descriptors", "ZeroDivisionError"),
    ("matcher", altered(M, "match_pairs", lambda found, *_: found[:-1]),
     "test_batches_agree_with_single_pairs", "one for each pair"),
    ("matcher", altered(M, "match_pairs", lambda found, *_: [d.changed(m, idx=m.idx + np.int32(999)) for m in found]),
     "test_batches_agree_with_single_pairs", "valid Matches"),
    ("matcher", altered(M, "match_pairs", lambda found, *_: found[::-1]),
     "test_batches_agree_with_single_pairs", "alone and beside others"),
    ("matcher", type("Broken", (M,), {"batch_size": 0}), "test_batches_agree_with_single_pairs", "from 1"),
    ("pairing", altered(P, "pairs", lambda p, *_: p + [(b, a) for a, b in p]), "test_pairs_are_valid", "once"),
    ("pairing", altered(P, "pairs", lambda p, *_: p + [(3, 3)]), "test_pairs_are_valid", "with itself"),
    ("pairing", altered(P, "pairs", lambda p, *_: [(a + 1, b) for a, b in p]), "test_pairs_are_valid", "frame_id"),
    ("pairing", altered(P, "pairs", lambda p, *_: [list(q) for q in p]), "test_pairs_are_valid", "Python ints"),
    ("pairing", altered(P, "pairs", lambda p, *_: iter(p)), "test_pairs_are_valid", "a list"),
    ("pairing", altered(P, "pairs", lambda p, *_: []), "test_pairs_are_valid", "none"),
    ("pairing", altered(P, "pairs", lambda p, *_: p[:1]), "test_every_frame_is_paired", "2 of 9"),
    ("pairing", altered(P, "pairs", lambda p, *_: p[next(_calls) % 2 :]), "test_is_deterministic", "same order"),
    ("pairing", altered(P, "pairs", lambda p, self, frames, features: (features.clear(), p)[1]),
     "test_leaves_its_input_alone", "does not change"),
    ("pairing", type("Broken", (P,), {"more_pairs": lambda self, graph, *_: [
        (p.frame_id_b, p.frame_id_a) for p in graph.pairs[:1]]}), "test_second_round_asks_for_new_pairs", "first round"),
    ("pairing", type("Broken", (P,), {"more_pairs": lambda *_: [(3, 3)]}),
     "test_second_round_asks_for_new_pairs", "with itself"),
    ("pairing", type("Broken", (P,), {"pairs": lambda *_: [(3, 10)], "more_pairs": lambda *_: [
        (10, 17), (10, 24)][: 1 + next(_calls) % 2]}), "test_second_round_asks_for_new_pairs", "same second one"),
    ("source", altered(S, "read", lambda f, *_: list(f.frames)), "test_frames_are_what_they_say", "FrameSet"),
    ("source", altered(S, "read", lambda f, *_: FrameSet((), "x")), "test_frames_are_what_they_say", "at least one"),
    ("source", altered(S, "read", lambda f, *_: FrameSet(f.frames[::-1], "x")),
     "test_frames_are_what_they_say", "natural order"),
    ("source", altered(S, "read", _tall), "test_frames_are_what_they_say", "height_px"),
    ("source", altered(S, "read", _outside), "test_frames_are_what_they_say", "below out_dir"),
    ("source", altered(S, "read", _stray), "test_writes_nothing_outside_out_dir", "in/notes.txt"),
    ("source", altered(S, "read", _renamed), "test_second_read_is_identical", "pixel for pixel"),
    ("source", type("Broken", (S,), {"read": lambda self, out, progress: 1 / 0}),
     "test_refuses_broken_input", "ZeroDivisionError"),
    ("renderer", altered(R, "render", lambda o, *_: (o.rgb, o.depth)), "test_outputs_are_what_they_say", "RenderOut"),
    ("renderer", altered(R, "render", lambda o, *_: d.changed(o, depth=o.depth[:, None])),
     "test_outputs_are_what_they_say", r"\[N\]"),
    ("renderer", altered(R, "render", lambda o, *_: d.changed(o, rgb=o.rgb * float("nan"))),
     "test_outputs_are_what_they_say", "rgb is finite"),
    ("renderer", altered(R, "render", lambda o, *_: d.changed(o, opacity=o.opacity + 1)),
     "test_outputs_are_what_they_say", r"opacity lies in 0\.\.1"),
    ("renderer", altered(R, "render", lambda o, *_: d.changed(o, depth=o.depth * 3)),
     "test_outputs_are_what_they_say", "near and far"),
    ("renderer", altered(R, "density", lambda s, *_: s - 0.5), "test_density_is_a_density", "not negative"),
    ("renderer", altered(R, "render", lambda o, self, rays, *_: d.changed(
        o, depth=o.depth + 1e-6 * rays.frame_ids)), "test_appearance_touches_colour_only", "depth is bitwise"),
    ("renderer", altered(R, "render", lambda o, *_: d.changed(o, rgb=o.rgb * (1 / (1 + next(_calls))))),
     "test_rendering_is_deterministic", "bit for bit"),
    ("renderer", altered(R, "render", lambda o, *_: d.changed(o, rgb=o.rgb - o.rgb.mean())),
     "test_chunks_do_not_matter", "chunks"),
    ("renderer", type("Broken", (R,), {"setup": lambda self, s, f, seed: R.setup(self, s, f, 0)}),
     "test_seed_decides_the_start", "another seed"),
    ("renderer", type("Broken", (R,), {"setup": lambda self, s, f, seed: (R.setup(self, s, f, seed), setattr(
        self, "gain", 0.5 + 0.1 * seed)), "render": lambda self, rays, appearance=None, jitter=0.5: (
        lambda o: d.changed(o, rgb=o.rgb * self.gain))(R.render(self, rays, None, jitter))}),
     "test_state_dict_round_trip", "restored"),
    ("renderer", altered(R, "loss", lambda r, *_: (r[0].detach() * 0 + next(_calls), r[1])),
     "test_loss_obeys_its_generator", "generator"),
    ("renderer", type("Broken", (R,), {"loss": _ignores_generator}), "test_loss_obeys_its_generator", "generator"),
    ("renderer", type("Broken", (R,), {"setup": lambda self, s, f, seed: (R.setup(self, s, f, seed), setattr(
        self, "spare", torch.nn.Parameter(torch.zeros(3))))}), "test_gradient_flows", "spare"),
    ("renderer", type("Broken", (R,), {"render_depth": lambda self, rays: R.render(self, rays, None, 0.4)}),
     "test_depth_without_colour", "render_depth gives"),
    ("mesher", altered(B, "mesh", lambda m, *_: None), "test_values_of_vertices", "Mesh"),
    ("mesher", altered(B, "mesh", lambda m, *_: d.changed(m, vertices=m.vertices * 1.2)),
     "test_surface_is_in_its_place_in_mm", "where the field's is"),
    ("mesher", altered(B, "mesh", lambda m, *_: d.changed(m, unit="mm")), "test_without_a_scale_nothing_is_mm", "unknown"),
    ("mesher", altered(B, "mesh", lambda m, *_: d.changed(m, faces=m.faces[:, ::-1])),
     "test_triangles_turn_outwards", "outside"),
    ("mesher", altered(B, "mesh", lambda m, *_: d.changed(m, vertices=m.vertices * [1, 1, -1])),
     "test_the_unseen_is_left_out", "behind"),
    ("mesher", altered(B, "mesh", lambda m, *_: d.changed(m, confidence=np.full(len(m.vertices), 2.0))),
     "test_values_of_vertices", r"0\.\.1"),
    ("mesher", altered(B, "mesh", lambda m, *_: d.changed(m, vertices=m.vertices + 1e-9 * next(_calls))),
     "test_is_deterministic", "bit for bit"),
]  # fmt: skip


@pytest.mark.parametrize("kind, component, check, words", BROKEN, ids=[f"{b[0]}-{i}" for i, b in enumerate(BROKEN)])
def test_broken_components_are_caught(kind, component, check, words):
    with pytest.raises(AssertionError, match=words) as caught:
        getattr(kit(kind, component), check)()
    message = str(caught.value)
    assert message.startswith(f"contract of every {kind}: ")
    assert f"see {DOCS}#{kind}" in message


def test_make_must_be_overridden():
    for kind, cls in KITS.items():
        arguments = (Path("."),) if kind == "source" else ()
        with pytest.raises(NotImplementedError, match="make"):
            cls().make(*arguments)


def test_every_check_is_documented():
    text = (Path(__file__).parents[2] / DOCS).read_text(encoding="utf-8")
    for kind, cls in KITS.items():
        assert f"## {kind}\n" in text
        for check in checks(kind):
            assert f"`{check}`" in text, f"{cls.__name__}.{check} is missing from {DOCS}"


def test_kit_names_load_without_torch():
    import subprocess
    import sys

    code = "import sys, medrecon.testing as t; t.MatcherConformance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_features_with_nothing_in_them_can_be_taken():
    pair = phantoms.feature_pair()
    assert isinstance(phantoms.take(pair.a, np.zeros(0, int)).validate(), Features)
