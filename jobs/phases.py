"""Where the time of a run went, from its submission on."""

import os
import subprocess
import time
from datetime import datetime


class Phases:
    """Seconds by phase, in order. `mark` ends the phase that it names. Wall clock: it spans programs."""

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = began

    def mark(self, name: str) -> None:
        now = time.time()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def rounded(self) -> dict[str, float]:
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}

    def line(self, names: list[str] | None = None) -> str:
        return " · ".join(
            f"{name.replace('_', ' ')} {seconds:.1f} s"
            for name, seconds in self.seconds.items()
            if names is None or name in names
        )


def before_worker(worker_unix: float) -> dict[str, float]:
    """Phases that ended when this worker's Python started, as far as the launcher left traces of them.

    queue: from submission to the job's start (Slurm keeps whole seconds); start: to torchrun's first line;
    agent: torchrun's own import and its rendezvous.
    """
    found: dict[str, float] = {}
    agent = os.environ.get("SLIPWAY_AGENT_UNIX")
    slurm = slurm_times()
    if "SubmitTime" in slurm and "StartTime" in slurm:
        found["queue"] = slurm["StartTime"] - slurm["SubmitTime"]
        if agent:
            found["start"] = max(0.0, float(agent) - slurm["StartTime"])
    if agent:
        found["agent"] = worker_unix - float(agent)
    return found


def slurm_times() -> dict[str, float]:
    """SubmitTime and StartTime of this job as Unix times; empty outside Slurm."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return {}
    try:
        shown = subprocess.run(
            ["scontrol", "show", "job", "--oneliner", job],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    words = dict(word.partition("=")[::2] for word in shown.split())
    times = {}
    for name in ("SubmitTime", "StartTime"):
        try:
            times[name] = datetime.fromisoformat(words[name]).timestamp()
        except (KeyError, ValueError):
            continue
    return times
