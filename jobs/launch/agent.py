"""torchrun's agent with eight habits more; jobs/torchrun.py puts it in place of torch's own.

- A worker that ends with exit code 2, a mistake that the next start would meet again, is not started again.
- What is started again is told since when (`SLIPWAY_FAILED_UNIX`, `SLIPWAY_AGENT_UNIX`), for its waterfall, and
  the how-manieth start it is (`SLIPWAY_ROUND`): torch's own count leaves out changes of the number of nodes.
- Each round of workers meets in a store of its own. torch 2.14 keeps the first one's for all, and its place as well:
  started again, workers may read where a dead one listened ("Gloo connectFullMesh failed"), and when another node
  becomes the first, the others look for it at the old one.
- Nodes that wait for others ask every second, and torch takes an answer of less than a second ago for a new one: up
  to two seconds after the last one came. Few nodes ask more often.
- A worker that was stopped (SIGSTOP) and stays so is killed: torchrun's SIGTERM would wait 30 s for it.
- Workers are forked from a process that has imported torch, instead of importing it each (jobs/launch/fork.py).
- A signal that ends it while it starts its workers is acted upon when it knows them all; torch would leave some behind.
- Workers that are to end have the time that the job was promised, not torch's 30 s (TORCH_ELASTIC_SHUTDOWN_TIMEOUT),
  also when the number of nodes changes.

Bound to the private names of torch in the stack's lock; tests/jobs/test_heartbeat.py fails when they change.
"""

import contextlib
import functools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import api as multiprocessing
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import dynamic_rendezvous, utils
from torch.distributed.launcher import api

from jobs.launch import fork

# From the signal to the end: save, and stop. As long as the job is promised; its launchers' files say so.
PATIENCE_S = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "60"))
QUESTIONS = 20  # a second, of all nodes together, while they wait for the last of them
STOPPED_S = 6.0  # after the heartbeat, which can say more, had its time


class Agent(api.LocalElasticAgent):
    """One node's agent: starts its workers, watches them, meets the other nodes' agents."""

    def _start_workers(self, worker_group: Any) -> Any:
        with ENDS.after():
            started = super()._start_workers(worker_group)
        self._pids = list(started.values())
        if not hasattr(self, "_watch"):
            self._watch = threading.Thread(target=self._end_stopped, name="stopped-workers", daemon=True)
            self._watch.start()
        return started

    def _rendezvous(self, worker_group: Any) -> None:
        handler = worker_group.spec.rdzv_handler
        if hasattr(handler, "_state_holder"):
            pace = min(1.0, handler.settings.max_nodes / QUESTIONS)
            handler._state_holder._cache_duration = pace
            dynamic_rendezvous._delay = functools.partial(_wait, pace)
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

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, *rest: Any, **named: Any) -> None:
        if self._pcontext:
            self._pcontext.close(death_sig, PATIENCE_S)
        super()._shutdown(death_sig, *rest, **named)

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


class Ends:
    """The signals that end an agent: at once, as torch has it, or when it has started the workers that it is at.

    A worker that it does not know yet would be left behind.
    """

    def __init__(self) -> None:
        self._terminate = multiprocessing._terminate_process_handler
        self._busy = False
        self._came: list[int] = []

    def handler(self, number: int, frame: FrameType | None) -> None:
        if self._busy:
            self._came.append(number)
        else:
            self._terminate(number, frame)

    @contextlib.contextmanager
    def after(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._came:
                self._terminate(self._came[0], None)


ENDS = Ends()


def stopped(pid: int) -> bool:
    """Whether a process is stopped by a signal; one that a debugger holds (t) is not."""
    try:
        state: str = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state == "T"


def _wait(pace: float, seconds: float | tuple[float, float]) -> None:
    """torch's wait between two questions, shorter by `pace`; of two numbers it takes one between them."""
    utils._delay(tuple(each * pace for each in seconds) if isinstance(seconds, tuple) else seconds * pace)


class Handler(SubprocessHandler):
    """One worker: forked where it can be (jobs/launch/fork.py), else started afresh, as torch does."""

    server: fork.ForkServer | None = None

    def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> "subprocess.Popen[Any]":
        if self.server and fork.can_run(args):
            try:
                return self.server.popen(
                    args, env=env, stdout=self._stdout, stderr=self._stderr, start_new_session=True
                )
            except fork.Gone as error:
                print(f"{error}; workers on {os.uname().nodename} are started afresh", flush=True)
                type(self).server = None
        started: subprocess.Popen[Any] = super()._popen(args, env)
        return started


def install(server: fork.ForkServer | None) -> None:
    """Let torch.distributed.run use this agent, and it the server."""
    api.LocalElasticAgent = Agent
    Handler.server = server
    multiprocessing.get_subprocess_handler = Handler
    multiprocessing._terminate_process_handler = ENDS.handler
