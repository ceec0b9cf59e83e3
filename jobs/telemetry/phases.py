"""Where the time of a run went, from its submission on."""

import os
import time

from jobs.cluster import slurm


class Phases:
    """Seconds by phase, in order. `mark` ends the phase that it names. Wall clock: it spans programs."""

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self.began = self._last = began

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
    times = slurm.times()
    if "SubmitTime" in times and "StartTime" in times:
        found["queue"] = times["StartTime"] - times["SubmitTime"]
        if agent:
            found["start"] = max(0.0, float(agent) - times["StartTime"])
    if agent:
        found["agent"] = worker_unix - float(agent)
    return found
