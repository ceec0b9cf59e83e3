"""Submit a job to a running cluster as its user would, and follow it to its end."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.progress import Step

# States in which a job still has something to do (squeue(1), JOB STATE CODES).
UNFINISHED = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED"}


class Nodes(Protocol):
    """The machines that jobs run on: the lab's containers, or a site's."""

    @property
    def login(self) -> str:
        """The machine to submit from."""

    @property
    def workdir(self) -> Path:
        """Where the checkout is, on the machines."""

    def run(self, node: str, *words: str, user: str = "root", cwd: Path | None = None) -> str:
        """What `words` print on `node`. Raises Failure with the last line of error."""

    def fetch(self, id: str) -> Path:
        """The run folder of job `id` on this machine, with what the job has written by now."""


@dataclass
class Run:
    """One job: its id, its last state, what it wrote into its run folder."""

    id: str
    state: str = "PENDING"
    reason: str = ""
    output: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    runs: Path = CHECKOUT / "runs"  # of the checkout that it was submitted from
    since: float = 0  # Unix time; steps before it are an earlier run's, whose folder has the same name
    called: str = ""  # its run folder, where that is not named after the job

    @property
    def folder(self) -> Path:
        return self.runs / (self.called or self.id)

    def metrics(self) -> list[dict[str, Any]]:
        """Every training step so far; a line that is being written is left for the next look."""
        return self._lines("metrics.jsonl")

    def attempts(self) -> list[dict[str, Any]]:
        """Every start of the job that reached a training step, the first one first."""
        return self._lines("attempts.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = (self.folder / name).read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [found for line in lines if line.endswith("\n") and (found := _object(line))]


def submit(nodes: Nodes, user: str, script: Path, *words: str) -> Run:
    """`sbatch SCRIPT WORDS` on the login node, from the checkout. Raises Failure with Slurm's reason."""
    answer = nodes.run(nodes.login, "sbatch", "--parsable", str(script), *words, user=user, cwd=nodes.workdir)
    return _run(nodes, answer.split(";")[0])


def _run(nodes: Nodes, id: str) -> Run:
    return Run(id, runs=nodes.fetch(id).parent)


def find(nodes: Nodes, id: str) -> Run | None:
    """The job `id` when Slurm still knows it and it may yet complete, or has."""
    run = _run(nodes, id)
    try:
        refresh(nodes, run)
    except Failure:  # none, or forgotten since
        return None
    return run if run.state in UNFINISHED | {"COMPLETED"} else None


def follow(nodes: Nodes, run: Run, step: Step | None = None, *, timeout_s: float = 1800) -> Run:
    """Wait for the end of a job of Slurm, as `watch` does."""
    return watch(lambda: refresh(nodes, run), run, step, timeout_s=timeout_s)


def watch(
    look: Callable[[], None],
    run: Run,
    step: Step | None = None,
    *,
    timeout_s: float = 1800,
    every_s: float = 3,
    nearly_s: float = 0.5,
) -> Run:
    """Wait for the end of a job and show its steps meanwhile. Raises Failure when it did not complete.

    `look` asks the scheduler for the job's state, which is done every few seconds, and more often once the job has
    written its summary; the run folder is read often, because that costs nothing.
    """
    deadline = time.monotonic() + timeout_s
    asked = 0.0
    while True:
        written = (run.folder / "summary.json").exists()
        if time.monotonic() - asked > (nearly_s if written else every_s):
            asked = time.monotonic()
            look()
            if run.state not in UNFINISHED:
                break
        if step:
            step.doing(f"job {run.id}  {_live(run)}")
        if time.monotonic() > deadline:
            raise Failure(f"job {run.id} is still {run.state} ({run.reason}) after {timeout_s:.0f} s")
        time.sleep(0.25)
    if run.state != "COMPLETED":
        raise Failure(f"job {run.id} ended as {run.state} ({run.reason})\n  log: {run.output}")
    summary = run.folder / "summary.json"
    run.summary = _object(summary.read_text()) if summary.exists() else {}
    return run


def refresh(nodes: Nodes, run: Run) -> None:
    """Ask the scheduler for the job's state, reason and output file."""
    text = nodes.run(nodes.login, "scontrol", "show", "job", run.id)
    run.called = nodes.fetch(run.id).name
    run.state, run.reason, run.output = told(text)


def told(text: str) -> tuple[str, str, str]:
    """State, reason and output file from `scontrol show job`. Raises Failure where it says no state.

    By lines, not by words: the job's name, which may be anything, stands before them, on a line with others.
    """
    state = re.search(r"^\s+JobState=(\S+) Reason=(\S+)", text, re.MULTILINE)
    output = re.search(r"^\s+StdOut=(.*?)\s*$", text, re.MULTILINE)
    if not state:
        raise Failure(f"scontrol show job: no state in '{text.strip()[:80]}'")
    return state[1], state[2], output[1] if output else ""


def _object(text: str) -> dict[str, Any]:
    """What a job has written as JSON; empty when it is none, since jobs that are not ours write there, too."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def since_start(run: Run) -> float | None:
    """Seconds from the command's start (SLIPWAY_STARTED, set by the Makefile) to the first training step.

    None when nobody has set it, and for a job that an earlier command has started.
    """
    started, attempts = os.environ.get("SLIPWAY_STARTED"), run.attempts()
    if not started or not attempts:
        return None
    seconds = float(attempts[0]["first_step_unix"]) - float(started)
    return seconds if seconds > 0 else None


def _live(run: Run) -> str:
    steps = [line for line in run.metrics() if line.get("time", 0) >= run.since]
    waits = "" if run.reason == "None" else run.reason  # Slurm's word for a job that waits for nothing
    return f"{progress(steps[-1]) if steps else run.state.lower()}  {waits}".rstrip()


def progress(line: dict[str, Any]) -> str:
    """A training step as people follow it, from its line of metrics.jsonl."""
    try:
        return f"step {line['step']}  loss {line['loss']:.3f}  {line['tokens_per_s']:.0f} tok/s"
    except (KeyError, TypeError, ValueError):
        return ""  # another program's record
