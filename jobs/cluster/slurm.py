"""What a job asks Slurm about itself, and of Slurm for itself. Outside Slurm it learns nothing."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs.cli.errors import Failure, Mistake

# Of a launcher in this process that queues the job again in its own way, after `main`: see jobs/launch/executor.py
instead: Callable[[], None] | None = None


@dataclass(frozen=True)
class Job:
    """A job as Slurm has it now. Times are Unix times in whole seconds, 0 where there is none."""

    state: str  # RUNNING, or CANCELLED+COMPLETING
    restarts: int
    submitted: float
    started: float
    preempted: float
    nodes: int
    output: str  # the file


def number() -> str | None:
    """This job as Slurm's commands take it: `17`; `17_3` for a task of an array; None outside Slurm.

    The job number of one of its tasks is the array's, and stands for all of them.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID") or None


def refuse_tasks() -> None:
    """Raises Mistake where srun or mpirun started this process beside others and nobody told it its rank: each would
    take itself for the only one, train alone, and all of them in one folder."""
    if "RANK" in os.environ:
        return
    for launcher, name in (("srun", "SLURM_STEP_NUM_TASKS"), ("mpirun", "OMPI_COMM_WORLD_SIZE")):
        tasks = int(os.environ.get(name, "1"))
        if tasks > 1:
            raise Mistake(
                f"{launcher} started {tasks} tasks, and no torchrun says which rank each is: start one task on each "
                "node, of python -m jobs.torchrun, as jobs/ddp.sbatch does"
            )


def job() -> Job | None:
    """This job; None outside Slurm or where Slurm does not know it."""
    name = number()
    try:
        return show(name) if name else None
    except FileNotFoundError:
        return None


def show(name: str) -> Job | None:
    """The job or the array's task of this name; None where Slurm does not know it, or does not answer.

    Raises FileNotFoundError without scontrol, Failure when its answer is no JSON.
    """
    words = ["scontrol", "show", "job", "--json", name]
    try:
        shown = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return None
    if shown.returncode:
        return None
    try:
        found = json.loads(shown.stdout)["jobs"]
        return next((_job(each) for each in found if _is(each, name)), None)  # an array's tasks come all
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{' '.join(words)}: not what Slurm from 23.02 on answers: {error!r}") from error


def _is(fields: dict[str, Any], name: str) -> bool:
    array, _, task = name.partition("_")
    if not task:
        return str(fields["job_id"]) == name
    return [_number(fields["array_job_id"]), _number(fields["array_task_id"])] == [int(array), int(task)]


def _job(fields: dict[str, Any]) -> Job:
    return Job(
        state="+".join(fields["job_state"]),
        restarts=_number(fields["restart_cnt"]),
        submitted=_number(fields["submit_time"]),
        started=_number(fields["start_time"]),
        preempted=_number(fields["preempt_time"]),
        nodes=_number(fields["node_count"]),
        output=fields["standard_output"],
    )


def _number(value: Any) -> int:
    """A number that Slurm may write as {"set": true, "infinite": false, "number": 7}; 0 where it is not set."""
    if isinstance(value, dict):
        return int(value["number"]) if value["set"] and not value["infinite"] else 0
    return int(value)


def times() -> dict[str, float]:
    """SubmitTime and StartTime of this job as Unix times (Slurm keeps whole seconds)."""
    try:
        mine = job()
    except Failure:
        return {}
    named = {"SubmitTime": mine.submitted, "StartTime": mine.started} if mine else {}
    return {name: float(unix) for name, unix in named.items() if unix}


def running(job: Job | None) -> bool:
    """Whether Slurm wants this job to run: False once it was cancelled or its time was over."""
    if instead and "SLURM_JOB_ID" not in os.environ:  # the launcher does without Slurm
        return True
    return job is not None and job.state == "RUNNING"


def requeued(job: Job | None) -> bool:
    """Whether Slurm has this job in its queue again, so that it ends for that."""
    return job is not None and job.restarts > int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def preempted(job: Job | None) -> bool:
    """Whether Slurm takes this job's nodes for another one, and itself queues the job again when it ends.

    A job that requeued itself then would stay marked as preempted: Slurm 24.11 starts it once more after its end,
    and the next preemption waits for its time limit. Slurm older than 24.11 takes a job that ends by itself
    for one that is done.
    """
    if instead or job is None or not job.preempted:
        return False
    return version() >= (24, 11)


def version() -> tuple[int, ...]:
    """Slurm's, of which the first two numbers are a release; (0,) where it does not say."""
    said = subprocess.run(["scontrol", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    return tuple(int(number) for number in found.groups()) if found else (0,)


def requeue() -> None:
    """Have Slurm start this job again; it ends the job's processes for that, this one too. Raises Failure."""
    if instead:
        instead()
        return
    name = number() or ""
    done = subprocess.run(["scontrol", "requeue", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"scontrol requeue {name} failed: {done.stderr.strip()}")
