"""Warnings from outside: a handler that only notes them, for a loop that acts on them between two steps.

SIGUSR2 is Slurm's warning (`#SBATCH --signal=USR2@60`, or before a preemption): save, and queue again.
SIGTERM is a request to end (scancel, kubectl delete, a node that shuts down): save, and stop; where Slurm
still wants the job, queue again.

Saving inside a handler would deadlock: it needs all ranks, and they get their signals at different times, or
not at all. So ranks tell each other at the end of a step (see train.py), and all act on the same one.
"""

import os
import signal
from types import FrameType

REQUEUE, STOP = signal.SIGUSR2, signal.SIGTERM


class Warnings:
    """Which signals this process has got since `listen`."""

    def __init__(self) -> None:
        self.got: set[int] = set()

    def listen(self) -> None:
        """Install the handlers, then take what the launcher held back for us (see jobs/torchrun.py).

        Forked helpers, such as a DataLoader's workers, ignore both: their parent tells them when to end.
        """
        for number in (REQUEUE, STOP):
            signal.signal(number, self._note)
        os.register_at_fork(after_in_child=_ignore)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEUE})

    def _note(self, number: int, _: FrameType | None) -> None:
        self.got.add(number)


def _ignore() -> None:
    for number in (REQUEUE, STOP):
        signal.signal(number, signal.SIG_IGN)
