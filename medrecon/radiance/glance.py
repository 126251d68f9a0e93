# SPDX-License-Identifier: Apache-2.0
"""Looks at the held-out pictures while a field is trained."""

from __future__ import annotations

import math

import numpy as np
import torch

from medrecon.radiance.pictures import PixelPool
from medrecon.radiance.renderer import Renderer
from medrecon.radiance.scene import Scene
from medrecon.radiance.team import Team
from medrecon.radiance.view_pool import ViewPool
from medrecon.types import FrameSet

GLANCE_PIXELS = 4096  # of the held-out pictures together


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of all randomness of one step: depends on nothing else, so a resumed run draws the same."""
    facts = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(facts).generate_state(1, np.uint64)[0] >> 1)


def psnr_db_of(mse: float) -> float:
    return -10 * math.log10(max(mse, 1e-10))


class Glance:
    """A few fixed random pixels of the held-out pictures, background included, to see where the training stands; all
    pixels for a renderer of whole views.
    """

    def __init__(self, scene: Scene, frames: FrameSet, seed: int, device: str, team: Team, whole: bool):
        self.team = team
        if not team.leads:
            return
        if whole:
            views = ViewPool.build(scene, frames, scene.heldout_ids).to(device).views
            self.parts, self.rgb = [rays for rays, _ in views], torch.cat([rgb for _, rgb in views]).float() / 255
            return
        pool = PixelPool.build(scene, frames, scene.heldout_ids)
        usable = torch.cat([*pool.foreground, *pool.background])
        generator = torch.Generator().manual_seed(step_seed(seed, 2**31))
        chosen = usable[torch.randint(len(usable), (min(GLANCE_PIXELS, len(usable)),), generator=generator)]
        rays, rgb = pool.rays(chosen.sort().values, scene)
        self.parts = [rays[i : i + 2048].to(device) for i in range(0, len(rays), 2048)]
        self.rgb = rgb.to(device)

    def psnr_db(self, renderer: Renderer) -> float:
        """The leader looks, all of a team are told."""
        return self.team.of_leader(self._look(renderer) if self.team.leads else 0.0)[0]

    @torch.no_grad()
    def _look(self, renderer: Renderer) -> float:
        renderer.eval()
        parts = [renderer.render_basic(rays, "mean").rgb for rays in self.parts]
        renderer.train()
        return psnr_db_of(float(((torch.cat(parts) - self.rgb) ** 2).mean()))
