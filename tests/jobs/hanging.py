"""jobs.train whose rank 1 is slow wherever it may be, and in its first start then hangs in its loop.

Run by test_heartbeat.py in place of jobs.train. Slow is longer than the silence that makes a rank dead.
"""

import os
import sys
import time
from typing import Any

from jobs import train
from jobs.data import shards
from jobs.resilience.checkpoint import Checkpoints

SLOW_S = 6.0  # heartbeat_s is 4
HANGS_AT = 130  # the step

windows, save = shards.Split.windows, Checkpoints.save
done = {"steps": 0, "saves": 0}


def slow_windows(split: shards.Split, indices: Any) -> Any:
    done["steps"] += 1
    if done["steps"] == 1:
        time.sleep(SLOW_S)  # as a first step that compiles
    while done["steps"] == HANGS_AT:
        time.sleep(0.1)  # as a loader that waits for what never comes
    return windows(split, indices)


def slow_save(checkpoints: Checkpoints, *arguments: Any) -> None:
    done["saves"] += 1
    if done["saves"] == 1:
        time.sleep(SLOW_S)
    save(checkpoints, *arguments)


if __name__ == "__main__":
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        vars_of: Any = shards.Split
        vars_of.windows = slow_windows
        vars_of = Checkpoints
        vars_of.save = slow_save
    sys.exit(train.main(sys.argv[1:]))
