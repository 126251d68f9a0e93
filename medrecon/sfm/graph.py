# SPDX-License-Identifier: Apache-2.0
"""The view graph: which frames hang together through verified pairs, and why a frame was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from medrecon.types import Features, MatchGraph, SparseModel, TwoView


def usable_pairs(graph: MatchGraph, min_num_matches: int) -> list[TwoView]:
    """Verified pairs with enough inliers for the mapper."""
    return [p for p in graph.pairs if p.kind != "none" and p.n_inliers >= min_num_matches]


def components(frame_ids: Iterable[int], pairs: Iterable[TwoView]) -> list[list[int]]:
    """Connected components of the view graph, largest first (ties: smallest frame id first), ids sorted inside."""
    parent = {i: i for i in frame_ids}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        if pair.frame_id_a in parent and pair.frame_id_b in parent:
            a, b = root(pair.frame_id_a), root(pair.frame_id_b)
            parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for i in sorted(parent):
        groups.setdefault(root(i), []).append(i)
    return sorted(groups.values(), key=lambda g: (-len(g), g[0]))


def unregistered_reasons(
    frame_ids: Iterable[int],
    features: Mapping[int, Features],
    graph: MatchGraph,
    model: SparseModel,
    min_num_matches: int,
    min_pose_inliers: int,
) -> dict[int, str]:
    """Why each frame outside the model is outside, most basic reason first."""
    missing = [i for i in frame_ids if i not in model.cam_from_world]
    if not missing:
        return {}
    best: dict[int, int] = {}
    putative: dict[int, int] = {}
    for p in graph.pairs:
        for i in (p.frame_id_a, p.frame_id_b):
            putative[i] = max(putative.get(i, 0), len(p.putative))
            if p.kind != "none":
                best[i] = max(best.get(i, 0), p.n_inliers)
    groups = components(frame_ids, usable_pairs(graph, min_num_matches))
    inside = {i for g in groups if set(g) & set(model.cam_from_world) for i in g}
    has_point: dict[int, set[int]] = {}
    for i, k in zip(model.track_frame_ids.tolist(), model.track_keypoint_idx.tolist()):
        has_point.setdefault(i, set()).add(k)
    seen: dict[int, set[int]] = {i: set() for i in missing}
    for p in usable_pairs(graph, min_num_matches):
        for mine, other, m, o in ((p.frame_id_a, p.frame_id_b, 0, 1), (p.frame_id_b, p.frame_id_a, 1, 0)):
            if mine in seen and other in has_point:
                idx = p.inlier_idx
                hit = np.isin(idx[:, o], np.fromiter(has_point[other], np.int64))
                seen[mine].update(idx[hit, m].tolist())
    reasons = {}
    for i in missing:
        n_keypoints = len(features[i]) if i in features else 0
        if n_keypoints < min_num_matches:
            reasons[i] = f"too few keypoints: {n_keypoints} < {min_num_matches}"
        elif i not in putative:
            reasons[i] = "was in no pair that was matched"
        elif i not in best:
            reasons[i] = f"no verified pair (at most {putative[i]} putative matches)"
        elif best[i] < min_num_matches:
            reasons[i] = f"too few verified matches: at most {best[i]} < {min_num_matches}"
        elif i not in inside:
            size = next(len(g) for g in groups if i in g)
            reasons[i] = f"in another component of the view graph ({size} frames)"
        elif len(seen[i]) < min_pose_inliers:
            reasons[i] = f"too few matches to the model: {len(seen[i])} < {min_pose_inliers}"
        else:
            reasons[i] = f"registration failed ({len(seen[i])} matches to the model, no consistent pose)"
    return reasons
