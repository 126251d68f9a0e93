# SPDX-License-Identifier: Apache-2.0
"""A plugin with a renderer that fails in process 1, from its SABOTAGE_FROM-th step of a sitting on.

Used through MEDRECON_PLUGINS=saboteur.
"""

import os

from medrecon.errors import InputError
from medrecon.plugins import Component, hookimpl
from medrecon.radiance.xray import XrayRenderer


class Brittle(XrayRenderer):
    name = "brittle"
    steps = 0

    def batch_size(self, asked):
        self.steps += 1
        if os.environ["RANK"] == "1" and self.steps >= int(os.environ["SABOTAGE_FROM"]):
            raise InputError("the cat is on the keyboard", "take it off")
        return super().batch_size(asked)


@hookimpl
def medrecon_components():
    return [Component("renderer", "brittle", "saboteur:Brittle", "medrecon.radiance.xray:XrayRendererConfig", "fails")]
