# SPDX-License-Identifier: Apache-2.0
"""A plugin that kills its own process (SIGKILL) in the middle of a stage, once per stage.

Used through MEDRECON_PLUGINS=assassin; KILL_LOG names the file where it notes whom it has already killed.
"""

import os
import signal
import threading
import time

from medrecon.pipeline.cache import StageStore
from medrecon.plugins import hookimpl

# Long enough into the stage that work has been written, short enough that it is not finished.
DELAY_S = {"source": 1.0, "features": 0.2, "matching": 0.3, "sfm": 0.3, "radiance": 2.0, "render": 0.3, "surface": 0.2}


@hookimpl
def medrecon_stage_started(run_dir, stage):
    log = os.environ["KILL_LOG"]
    killed = open(log).read().split() if os.path.exists(log) else []
    if stage in killed:
        return
    with open(log, "a") as f:
        f.write(stage + "\n")

    def kill():
        time.sleep(DELAY_S.get(stage, 0.0))
        os.kill(os.getpid(), signal.SIGKILL)

    # A stage that is quicker than its delay dies when all is written and nothing is stamped yet.
    StageStore.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=kill, daemon=True).start()
    if stage not in DELAY_S:  # over in no time: die before it begins to work
        time.sleep(5)
