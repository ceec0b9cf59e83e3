"""What Pulumi runs for our dynamic providers: its own server, with as many threads as the place asks for.

Pulumi's has four. Servers' controllers are slow and some never answer: sixty-four are waited for side by side.
"""

import ctypes
import os
import runpy
import signal
from concurrent import futures
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)
THREADS = "SLIPWAY_PROVIDER_THREADS"  # of Pulumi's four when it is not set


class Pool(futures.ThreadPoolExecutor):
    """A pool whose size is the environment's, not the caller's."""

    def __init__(self, max_workers: int | None = None, *args: Any, **options: Any) -> None:
        super().__init__(int(os.environ.get(THREADS) or 0) or max_workers, *args, **options)


def end_with_parent() -> None:
    """Have the kernel end this process when its engine was killed, which could not tell it to."""
    if hasattr(ctypes.CDLL(None), "prctl"):  # Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent()
    futures.ThreadPoolExecutor = Pool  # type: ignore[misc]
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)
