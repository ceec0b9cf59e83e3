"""The one reduction of a step: what every rank knows alone, and what all then do after the same step.

It comes before the update of the weights: the mean loss, the warnings that any rank has got (signals.py), whether rank
0 finds a save due (interval.py), what is wrong with loss or gradient (guard.py), and the energy so far. Sums have the
same bits on all ranks, so all come to the same answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.cli.errors import Mistake
from jobs.config import Config
from jobs.resilience import signals
from jobs.resilience.guard import Act, Guard, signs
from jobs.resilience.interval import Interval


@dataclass(frozen=True)
class Agreed:
    """What all ranks do after a step."""

    loss: float = 0.0  # the mean over the global batch
    joules: float = 0.0  # of all ranks since their start
    go: bool = True  # the step is taken
    why: str = ""  # it is not
    requeue: bool = False
    stop: bool = False
    save: bool = False

    @property
    def ends(self) -> bool:
        """Whether a warning ends the run here."""
        return self.requeue or self.stop

    @property
    def signal(self) -> str:
        """The name of the warning that ends it."""
        return "SIGUSR2" if self.requeue else "SIGTERM"


class Votes:
    """This rank's vote, and what was agreed on."""

    def __init__(
        self,
        config: Config,
        ranks: Any,
        warnings: signals.Warnings,
        checkpoints: Any,
        nodes: int,
        joules: Callable[[], float],
    ) -> None:
        """joules: what this rank's meter counts. checkpoints: of the run; a save under way is waited for at a stop."""
        self.ranks, self.warnings, self.checkpoints, self._joules = ranks, warnings, checkpoints, joules
        self.guard = Guard(config.guard, ranks.size)
        self.schedule = Interval(config.checkpoint.every, config.checkpoint.node_mtbf_h, nodes)
        self._steps = config.train.steps
        # The scaler of fp16 deals with a gradient that is not finite.
        self._scaled = config.compute.precision == "fp16"

    def remember(self, lines: Sequence[dict[str, Any]]) -> None:
        """Judge by the past of the run: the lines of metrics.jsonl, which rank 0 has."""
        past = lines[-self.guard.reaches_back :]
        kept = [{"loss": line["loss"], "skipped": line.get("skipped", "")} for line in past]
        self.guard.remember(self.ranks.told(kept))

    def saved(self) -> None:
        """A save was begun: what the saves so far cost says when the next one is due."""
        self.schedule.saved(self.checkpoints.stall_s, self.checkpoints.write_s)

    def agree(self, step: int, loss: Any, norm: Any) -> Agreed:
        """Called by all ranks, once a step. Raises Mistake where the guard ends the run: nothing is updated then.

        step: the number of this step, from 1; loss: this rank's; norm: of the whole gradient.
        """
        mine = loss.item()
        total, requeues, stops, dues, joules, *sums = self.ranks.agree(
            [
                mine,
                signals.REQUEUE in self.warnings.got,
                signals.STOP in self.warnings.got,
                self.ranks.first and self.schedule.due(step),
                self._joules(),
                *signs(self.ranks.rank, mine, 0.0 if self._scaled else norm.item()),
            ]
        )
        mean = total / self.ranks.size
        verdict = self.guard.judge(mean, sums)
        if verdict.act is Act.STOP:
            self.checkpoints.finish()
            raise Mistake(
                f"step {step}: {verdict.why}; nothing of it is in the weights, the last checkpoint in "
                f"{self.checkpoints.folder.parent} is from before. Lower train.learning_rate, or leave such steps "
                "out by --guard.nonfinite=skip or --guard.spike=skip"
            )
        if requeues:
            self.warnings.got.add(signals.REQUEUE)  # for the exit code of ranks that hear it from others
        return Agreed(
            loss=mean,
            joules=joules,
            go=verdict.act is Act.GO,
            why=verdict.why,
            requeue=requeues > 0,
            stop=stops > 0,
            save=dues > 0 or requeues > 0 or stops > 0 or step == self._steps,
        )
