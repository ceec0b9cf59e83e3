"""What Pulumi runs for our dynamic providers: its own server, with as many threads as the place asks for.

Pulumi's has four. Servers' controllers are slow and some never answer: sixty-four are waited for side by side.
"""

import os
import runpy
import threading
import time
from concurrent import futures
from typing import Any

THREADS = "SLIPWAY_PROVIDER_THREADS"  # of Pulumi's four when it is not set


class Pool(futures.ThreadPoolExecutor):
    """A pool whose size is the environment's, not the caller's."""

    def __init__(self, max_workers: int | None = None, *args: Any, **options: Any) -> None:
        super().__init__(int(os.environ.get(THREADS) or 0) or max_workers, *args, **options)


def end_with(engine: int) -> None:
    """End this process when the engine that started it is gone: one that was killed could not tell it to.

    Not by prctl(PR_SET_PDEATHSIG): that is about the thread that started us, and Go's come and go.
    """
    while os.getppid() == engine:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
    futures.ThreadPoolExecutor = Pool  # type: ignore[misc]
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
