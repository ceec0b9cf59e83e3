"""The job that the tests of a cluster disturb, or start in another way, and what it has recorded."""

from collections.abc import Callable

from infra.proof import run as job

STEPS = 45  # enough that something happens in the middle
TRAIN = (f"--train.steps={STEPS}", "--checkpoint.every=10", "--checkpoint.keep=2", "--run.validate=64")

History = list[tuple[int, float]]


def history(run: job.Run) -> History:
    """The loss of every step; equal to another's, they are so bit for bit: JSON keeps every digit of a float."""
    return [(line["step"], line["loss"]) for line in run.metrics()]


def step_of(run: job.Run) -> int:
    """The last step that is recorded, 0 before the first."""
    steps = run.metrics()
    return int(steps[-1]["step"]) if steps else 0


def at_step(run: job.Run, step: int) -> Callable[[], bool]:
    """For `until`: whether a run has come to `step`."""
    return lambda: step_of(run) >= step
