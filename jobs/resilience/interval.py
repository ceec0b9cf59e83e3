"""How often to save, when nobody says it: the interval that loses the least time. No torch.

A checkpoint costs the time that it keeps the training waiting; none costs the steps since the last one when
something dies. For a cost of d seconds a save and M seconds between two failures of the job, the sum of both is
least for an interval of about sqrt(2 d M) (J. W. Young, A first order approximation to the optimum checkpoint
interval, CACM 17(9), 1974), more closely for Daly's expansion, which is used here:

    t = sqrt(2 d M) (1 + 1/3 sqrt(d / 2M) + 1/9 (d / 2M)) - d    for d < 2M, else t = M

(J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, Future Generation
Computer Systems 22(3), 2006, equation 37). t counts from the end of a save to the start of the next one.

d is measured: the median stall of this start's saves, not the time that they are written behind the training, which
costs nothing. But a save that starts before the one before is on the disk would wait for it, so the interval is never
shorter than a write.

M is a node's mean time between failures over the number of nodes: with independent failures, rates add up.
"""

import math
import time
from collections.abc import Callable, Sequence

from jobs.config import AUTO

FIRST_STEPS = 10  # until the first save of an automatic interval: it measures what a save costs


def young(save_s: float, between_failures_s: float) -> float:
    """Seconds between two saves, first order: sqrt(2 d M)."""
    return math.sqrt(2 * save_s * between_failures_s)


def daly(save_s: float, between_failures_s: float) -> float:
    """Seconds of training between two saves, see above; both arguments above 0."""
    if save_s >= 2 * between_failures_s:
        return between_failures_s
    ratio = save_s / (2 * between_failures_s)
    return young(save_s, between_failures_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def lost_share(interval_s: float, save_s: float, between_failures_s: float) -> float:
    """Share of the time that saving and computing again cost, first order: d/t + t/2M."""
    return save_s / interval_s + interval_s / (2 * between_failures_s)


class Interval:
    """When the next save is due. Rank 0 decides by its clock; its vote rides on the step's reduction (train.py).

    `every` steps, never (0), or AUTO. The ranks' clocks and stalls differ, so no rank but the first is asked, and
    all save after the same step.
    """

    def __init__(
        self, every: int, node_mtbf_h: float, nodes: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.every = every
        self.between_failures_s = node_mtbf_h * 3600 / nodes
        self.seconds: float | None = (
            None  # the interval in use; None before it is known, and where steps are given
        )
        self._now = now
        self._last: float | None = None
        self._first: int | None = None

    def due(self, step: int) -> bool:
        """Whether to save after `step` steps. To be asked after each step, once."""
        if self.every != AUTO:
            return self.every > 0 and step % self.every == 0
        if self._first is None:
            self._first = step
        if self.seconds is None or self._last is None:
            return step - self._first + 1 == FIRST_STEPS
        return self._now() - self._last >= self.seconds

    def saved(self, stalls_s: Sequence[float], writes_s: Sequence[float]) -> None:
        """Take the cost of the saves so far, oldest first; the training goes on from now.

        The first save of a start allocates its buffers and imports what writes: left out where there are others.
        """
        self._last = self._now()
        if self.every != AUTO or not stalls_s:
            return
        import statistics  # which loads fractions and decimals, not before the first step

        later = list(stalls_s[1:] or stalls_s)
        cost = max(statistics.median(later), 1e-6)
        behind = statistics.median(list(writes_s[1:] or writes_s)) if writes_s else 0.0
        self.seconds = max(daly(cost, self.between_failures_s), behind)

    def line(self) -> str:
        """The interval as a person reads it, with where it comes from."""
        if self.seconds is None:
            return "checkpoint interval not known yet"
        share = self.between_failures_s / 3600
        return f"checkpoints every {self.seconds:.3g} s (Daly; a failure every {share:.3g} h)"
