"""What a job asks Slurm about itself, and of Slurm for itself. Outside Slurm it learns nothing."""

import os
import re
import subprocess
from collections.abc import Callable
from datetime import datetime

from jobs.cli.errors import Failure

# Of a launcher in this process that queues the job again in its own way, after `main`: see jobs/launch/executor.py
instead: Callable[[], None] | None = None


Fields = dict[str, str]  # of a job, as `scontrol show job` names them


def job() -> Fields:
    """This job's fields as `scontrol show job` has them; empty outside Slurm or without scontrol."""
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return {}
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", number],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(word.partition("=")[::2] for word in shown.stdout.split())


def times() -> dict[str, float]:
    """SubmitTime and StartTime of this job as Unix times (Slurm keeps whole seconds)."""
    found = {}
    fields = job()
    for name in ("SubmitTime", "StartTime"):
        try:
            found[name] = datetime.fromisoformat(fields[name]).timestamp()
        except (KeyError, ValueError):
            continue
    return found


def running(job: Fields) -> bool:
    """Whether Slurm wants this job to run: False once it was cancelled or its time was over."""
    if instead and "SLURM_JOB_ID" not in os.environ:  # the launcher does without Slurm
        return True
    return job.get("JobState") == "RUNNING"


def requeued(job: Fields) -> bool:
    """Whether Slurm has this job in its queue again, so that it ends for that."""
    return int(job.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def preempted(job: Fields) -> bool:
    """Whether Slurm takes this job's nodes for another one, and itself queues the job again when it ends.

    A job that requeued itself then would stay marked as preempted: Slurm 24.11 starts it once more after its end,
    and the next preemption waits for its time limit. Slurm older than 24.11 takes a job that ends by itself
    for one that is done.
    """
    if instead or job.get("PreemptTime", "None") in ("None", "N/A"):
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
    number = os.environ["SLURM_JOB_ID"]
    done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"scontrol requeue {number} failed: {done.stderr.strip()}")
