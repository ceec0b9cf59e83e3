"""torchrun's agent with four habits more; jobs/torchrun.py puts it in place of torch's own.

- A worker that ends with exit code 2, a mistake that the next start would meet again, is not started again.
- What is started again is told since when (`SLIPWAY_FAILED_UNIX`, `SLIPWAY_AGENT_UNIX`), for its waterfall, and
  the how-manieth start it is (`SLIPWAY_ROUND`): torch's own count leaves out changes of the number of nodes.
- Each round of workers meets in a store of its own. torch 2.14 keeps the first one's for all, and its place as well:
  started again, workers may read where a dead one listened ("Gloo connectFullMesh failed"), and when another node
  becomes the first, the others look for it at the old one.
- A worker that was stopped (SIGSTOP) and stays so is killed: torchrun's SIGTERM would wait 30 s for it.

Bound to the private names of torch in the stack's lock; tests/jobs/test_heartbeat.py fails when they change.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from torch.distributed.launcher import api

STOPPED_S = 6.0  # after the heartbeat, which can say more, had its time


class Agent(api.LocalElasticAgent):
    """One node's agent: starts its workers, watches them, meets the other nodes' agents."""

    def _start_workers(self, worker_group: Any) -> Any:
        started = super()._start_workers(worker_group)
        self._pids = list(started.values())
        if not hasattr(self, "_watch"):
            self._watch = threading.Thread(target=self._end_stopped, name="stopped-workers", daemon=True)
            self._watch.start()
        return started

    def _rendezvous(self, worker_group: Any) -> None:
        handler = worker_group.spec.rdzv_handler
        for kept in ("_bootstrap_store_info", "_shared_tcp_store_server"):
            if hasattr(handler, kept):
                setattr(handler, kept, None)
        super()._rendezvous(worker_group)

    def _monitor_workers(self, worker_group: Any) -> Any:
        result = super()._monitor_workers(worker_group)
        if result.is_failed():
            os.environ["SLIPWAY_FAILED_UNIX"] = repr(time.time())
            if any(failure.exitcode == 2 for failure in result.failures.values()):
                self._remaining_restarts = 0
        return result

    def _restart_workers(self, worker_group: Any) -> None:
        os.environ["SLIPWAY_AGENT_UNIX"] = repr(time.time())
        os.environ["SLIPWAY_ROUND"] = str(int(os.environ.get("SLIPWAY_ROUND", "0")) + 1)
        super()._restart_workers(worker_group)

    def _end_stopped(self) -> None:
        """Judges by its own clock, and not the time in which this process was stopped as well."""
        since: dict[int, float] = {}
        before = time.monotonic()
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            asleep, before = now - before > STOPPED_S / 2, now
            for pid in self._pids:
                if asleep or not stopped(pid):
                    since.pop(pid, None)
                elif now - since.setdefault(pid, now) > STOPPED_S:
                    print(f"worker {pid} on {os.uname().nodename} was stopped and is killed", flush=True)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal; one that a debugger holds (t) is not."""
    try:
        state: str = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state == "T"


def install() -> None:
    """Let torch.distributed.run use this agent."""
    api.LocalElasticAgent = Agent
