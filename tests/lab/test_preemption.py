"""The preemption contract through Slurm: however a job is told, all ranks save the same step and it goes on.

One job is disturbed in each way that Slurm has, one after the other, and ends with the losses of a job that nothing
disturbed, to the last bit. One warning, a killed node and restarted daemons are in test_faults.py, for every change.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from infra.proof import run as job
from tests.lab.conftest import Lab, restarts, until
from tests.training import at_step, history, step_of

pytestmark = pytest.mark.more
TESTED = {"real": ["place lab", "training on two nodes", "Slurm with accounting"]}

STEPS = 240
TRAIN = ["jobs/ddp.sbatch", f"--train.steps={STEPS}", "--checkpoint.every=20", "--compute.accumulate=2"]
TOLD = re.compile(r"SIGUSR2: all 2 ranks agreed to stop after step (\d+); saved in")


@pytest.fixture(scope="module")
def uninterrupted(lab: Lab) -> list[tuple[int, float]]:
    return history(lab.finish(lab.submit(*TRAIN)))


@dataclass
class Disturbed:
    """The job that every case disturbs once more, and the steps that it stopped after."""

    run: job.Run
    stopped: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def disturbed(lab: Lab) -> Disturbed:
    return Disturbed(lab.submit(*TRAIN))


@pytest.fixture(autouse=True)
def quiet() -> None:
    """In place of conftest's, which would cancel the job between two cases."""


def once(lab: Lab, run: job.Run) -> None:
    lab.ok(f"scancel --signal=USR2 {run.id}")


def full(lab: Lab, run: job.Run) -> None:
    """Every process of the job, the batch script's too."""
    lab.ok(f"scancel --signal=USR2 --full {run.id}")


def one_step(lab: Lab, run: job.Run) -> None:
    """srun's step 0 only, which is torchrun on each node."""
    lab.ok(f"scancel --signal=USR2 {run.id}.0")


def twice(lab: Lab, run: job.Run) -> None:
    once(lab, run)
    lab.sh(f"scancel --signal=USR2 {run.id}")  # the job may be on its way into the queue already


def one_node(lab: Lab, run: job.Run) -> None:
    """torchrun of one node only; the ranks of the other learn of it from their peers."""
    lab.on("c2", "pkill", "-USR2", "-o", "-f", "jobs.torchrun")


def a_higher_qos(lab: Lab, run: job.Run) -> None:
    """A job that may preempt this one and needs all memory of its nodes: Slurm warns it, and queues it again."""
    lab.finish(
        lab.submit("--qos=high", "--nodes=2", "--mem=0", "--time=1", "--output=/dev/null", "--wrap", "true")
    )


@pytest.mark.parametrize("disturb", [once, full, one_step, twice, one_node, a_higher_qos])
def test_with_a_warning_no_step_is_lost(
    lab: Lab, disturbed: Disturbed, disturb: Callable[[Lab, job.Run], None]
) -> None:
    run = disturbed.run
    before = restarts(lab, run)
    begin = disturbed.stopped[-1] if disturbed.stopped else 0
    until("20 steps more", at_step(run, begin + 20), timeout_s=180)
    disturb(lab, run)
    until("the requeue", lambda: restarts(lab, run) == before + 1, timeout_s=120)
    told = [int(step) for step in TOLD.findall((run.runs / f"{run.id}.out").read_text())]
    assert len(told) == len(disturbed.stopped) + 1  # once, however many signals there were
    disturbed.stopped = told
    assert told[-1] > begin
    attempt = next_attempt(run, told[-1])
    assert attempt["waterfall"]["again"] == 0  # not one step was computed twice


def next_attempt(run: job.Run, stopped: int) -> dict[str, Any]:
    """The line of the start that went on from this step."""
    from jobs.telemetry import metrics

    path = run.folder / "attempts.jsonl"

    def found() -> list[dict[str, Any]]:
        return [line for line in metrics.read(path) if line["resumed_from"] == stopped]

    until(f"a start from step {stopped}", lambda: bool(found()), timeout_s=180)
    return found()[-1]


def test_a_requeue_by_a_person_loses_no_step(lab: Lab, disturbed: Disturbed) -> None:
    """`scontrol requeue` ends a job with SIGTERM, and starts it again by itself.

    What happens with no warning at all, or too little: test_faults.py kills a node, tests/jobs/test_preemption.py
    kills ranks in the middle of a save.
    """
    run = disturbed.run
    before = restarts(lab, run)
    until("20 steps more", at_step(run, disturbed.stopped[-1] + 20), timeout_s=180)
    reached = step_of(run)
    lab.on("slurmctld", "scontrol", "requeue", run.id)
    until("the requeue", lambda: restarts(lab, run) == before + 1, timeout_s=120)
    lab.finish(run)
    assert run.summary["resumed_from"] >= reached


def test_it_ends_as_if_nothing_had_happened(
    lab: Lab, disturbed: Disturbed, uninterrupted: list[tuple[int, float]]
) -> None:
    if not disturbed.run.summary:  # Slurm forgets an ended job after minutes, and the other one takes some
        lab.finish(disturbed.run)
    assert history(disturbed.run) == uninterrupted
    assert disturbed.run.summary["restarts"] == len(disturbed.stopped) + 1
    assert "none lost, none repeated" in lab.ok(
        f"srun --chdir=$PWD /opt/stack/current/bin/python -m jobs samples {disturbed.run.folder}"
    )
