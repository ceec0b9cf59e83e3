"""What Slurm's accounting says of jobs: `sacct --json`, read as Slurm 24.11 writes it (data_parser v0.0.42).

A job that was queued again has a record for each of its starts, all with the job's number.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.cli.errors import Failure


@dataclass(frozen=True)
class Start:
    """One start of a Slurm job. Times are Unix times; `end` is 0 while it runs."""

    job: str
    name: str
    user: str
    account: str
    state: str  # COMPLETED, TIMEOUT, NODE_FAIL, PREEMPTED, REQUEUED, ...
    submitted: float
    start: float
    end: float
    elapsed_s: float
    nodes: int
    cpus: int
    gpus: int
    joules: float | None  # Slurm's own counters, where a plugin reads them

    def overlaps(self, began: float, ended: float, slack_s: float = 60.0) -> bool:
        """Whether it ran while a run did: job numbers begin again in a new cluster."""
        if not self.start:
            return False
        return self.start <= ended + slack_s and (not self.end or self.end >= began - slack_s)


def starts(jobs: Sequence[str], timeout_s: float = 20.0) -> list[Start]:
    """Every start of these jobs; none without Slurm. Raises Failure when Slurm is there and does not answer."""
    if not jobs:
        return []
    words = ["sacct", "--json", "--duplicates", f"--jobs={','.join(jobs)}"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        return []
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"sacct: {error}") from error
    if done.returncode:
        raise Failure(f"sacct: {(done.stderr.strip().splitlines() or ['failed'])[0].removeprefix('sacct: ')}")
    try:
        return parse(json.loads(done.stdout))
    except ValueError as error:
        raise Failure(f"sacct: its output is not JSON: {error}") from error


def parse(answer: dict[str, Any]) -> list[Start]:
    """The records of an answer."""
    return [_start(job) for job in answer.get("jobs", [])]


def _start(job: dict[str, Any]) -> Start:
    times, tres = job.get("time", {}), job.get("tres", {}).get("allocated", [])
    consumed = [
        _number(step.get("statistics", {}).get("energy", {}).get("consumed")) for step in job.get("steps", [])
    ]
    state = job.get("state", {}).get("current") or ["UNKNOWN"]
    return Start(
        job=str(job["job_id"]),
        name=str(job.get("name", "")),
        user=str(job.get("user", "")),
        account=str(job.get("account", "")),
        state=state if isinstance(state, str) else str(state[0]),
        submitted=float(times.get("submission") or 0),
        start=float(times.get("start") or 0),
        end=float(times.get("end") or 0),
        elapsed_s=float(times.get("elapsed") or 0),
        nodes=_tres(tres, "node") or int(job.get("allocation_nodes") or 0),
        cpus=_tres(tres, "cpu"),
        gpus=_tres(tres, "gres", "gpu"),
        joules=sum(known) if (known := [each for each in consumed if each]) else None,
    )


def _tres(entries: Sequence[dict[str, Any]], kind: str, name: str = "") -> int:
    """The count of a trackable resource. Of GPUs, `gpu` is the sum of all types."""
    return sum(int(each["count"]) for each in entries if (each["type"], each.get("name", "")) == (kind, name))


def _number(value: Any) -> float | None:
    """A number that Slurm may write as {"set": true, "infinite": false, "number": 7}."""
    if isinstance(value, dict):
        return float(value["number"]) if value.get("set") and not value.get("infinite") else None
    return None if value is None else float(value)
