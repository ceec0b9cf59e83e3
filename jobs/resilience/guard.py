"""What happens when the loss is no number or jumps: the same on all ranks, and written down. No torch.

    --guard.nonfinite=skip      a NaN or infinity in the loss or the gradient: stop (default), skip, off
    --guard.spike=skip          a loss far above the last ones: off (default), skip, stop
    --guard.spike_sigmas=6      how far: standard deviations above the mean of the last `guard.window` losses

The verdict is a function of sums over all ranks, which have the same bits on each of them, and of the verdicts
before: so all ranks come to the same one without asking. The sums ride on the reduction that a step has anyway,
which comes before the update of the weights.

*skip* leaves weights and the optimiser's moments as they are; the step counts, its samples are not seen again, and
its line in metrics.jsonl says why (`skipped`). A run that skips more than `guard.skips` steps in a row stops.

*stop* ends the run before the update: nothing of it is in the weights, and the last checkpoint is from before. Exit
code 2: the next start would compute the same, unless the hardware did it, in which case the rank and host that are
named do it again, or do not.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

WARM = 10  # losses before a spike can be told from the beginning of training


class Act(Enum):
    GO = "go"
    SKIP = "skip"
    STOP = "stop"


@dataclass(frozen=True)
class Verdict:
    act: Act
    why: str = ""


SIGNS = 3  # how many numbers `signs` has


def signs(rank: int, loss: float, norm: float) -> tuple[float, float, float]:
    """What a rank adds to the step's reduction: whether the gradient is bad, whether its loss is, and its number.

    `norm` is that of the whole gradient, which all ranks share, so a bad loss of one makes it bad for all; the
    number, rank + 1, is added only by those whose own loss is bad: where that is one, the sum is its name.
    """
    bad = not math.isfinite(loss)
    return float(not math.isfinite(norm)), float(bad), float((rank + 1) * bad)


class Guard:
    """Judges each step of a run. `policy` is the configuration's section `guard`."""

    def __init__(self, policy: Any, ranks: int) -> None:
        self.policy = policy
        self.ranks = ranks
        self.skipped = 0  # of this start
        self._in_a_row = 0
        self._losses: deque[float] = deque(maxlen=policy.window)

    def remember(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take up where an earlier start was: its lines of metrics.jsonl up to the checkpoint, on every rank."""
        for line in lines:
            self._note(line["loss"], skipped=bool(line.get("skipped")))

    @property
    def reaches_back(self) -> int:
        """How many lines of metrics.jsonl `remember` needs."""
        return int(self.policy.window + self.policy.skips + 1)

    def judge(self, loss: float, sums: Sequence[float]) -> Verdict:
        """What to do with a step whose mean loss over all ranks is `loss` and whose signs add up to `sums`."""
        verdict = self._verdict(loss, sums)
        if verdict.act is Act.SKIP and self._in_a_row >= self.policy.skips:
            verdict = Verdict(
                Act.STOP, f"{verdict.why}; {self._in_a_row} steps before it were skipped already"
            )
        self._note(loss, skipped=verdict.act is not Act.GO)
        self.skipped += verdict.act is Act.SKIP
        return verdict

    def _verdict(self, loss: float, sums: Sequence[float]) -> Verdict:
        gradients, losses, number = (int(each) for each in sums)
        if gradients or losses or not math.isfinite(loss):
            if self.policy.nonfinite == "off":
                return Verdict(Act.GO)
            return Verdict(Act(self.policy.nonfinite), _author(gradients, losses, number, self.ranks))
        if self.policy.spike != "off" and len(self._losses) >= min(WARM, self.policy.window):
            limit = self._limit()
            if loss > limit:
                return Verdict(Act(self.policy.spike), f"loss {loss:.4g} is above {limit:.4g}")
        return Verdict(Act.GO)

    def _limit(self) -> float:
        """Mean and deviation of the last losses; the deviation is at least 1 % of the mean: a plateau is no alarm."""
        count = len(self._losses)
        mean = math.fsum(self._losses) / count
        deviation = math.sqrt(math.fsum((each - mean) ** 2 for each in self._losses) / count)
        return mean + float(self.policy.spike_sigmas) * max(deviation, 0.01 * abs(mean))

    def _note(self, loss: float, *, skipped: bool) -> None:
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if not skipped and math.isfinite(loss):
            self._losses.append(loss)


def _author(gradients: int, losses: int, number: int, ranks: int) -> str:
    """What is not finite, and on which rank where it is one rank's alone."""
    if losses == 1 and ranks > 1:
        return f"the loss is not finite on rank {number - 1} alone"
    if losses:
        return f"the loss is not finite on {losses} of {ranks} ranks"
    return "the gradient is not finite" if gradients else "the loss is not finite"
