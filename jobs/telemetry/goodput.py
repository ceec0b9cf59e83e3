"""Where the time of a run went, over all its starts: goodput is the share that became steps which were kept.

Read from what every run writes: `attempts.jsonl` (a line for each start, with its phases), `metrics.jsonl` (the
steps that count), `discarded.jsonl` (those computed after the last checkpoint before an interruption, and computed
again) and `ends.jsonl` (a line for each start that came to an orderly end).

    goodput = seconds of the kept steps / seconds from the submission (else: the first start) to the end, without those
              between a completed run and its next start, for which somebody asked for more steps

A step's seconds hold its wait for data and for other ranks; those of a checkpoint that kept the training waiting
are not a step's. After Google's "ML productivity goodput", without its third factor: that is MFU (flops.py).
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.telemetry import metrics
from jobs.telemetry.energy import joined

WAITING = ("queue", "reschedule")  # phases without nodes
QUIET_S = 120.0  # a run without an end whose last step is older is not taken for a running one


@dataclass
class Attempt:
    """One start of a run. Times are Unix times, durations seconds."""

    number: int
    began: float  # submitted, queued again, or started: where its phases begin
    first_step: float
    ended: float  # its orderly end, else the last thing known of it
    resumed_from: int
    world_size: int
    phases: dict[str, float] = field(default_factory=dict)  # up to its first step, in order
    waterfall: dict[str, float] = field(default_factory=dict)  # of a restart: jobs/telemetry/restart.py
    kept: int = 0  # steps
    kept_s: float = 0.0
    lost: int = 0
    lost_s: float = 0.0
    checkpoint_s: float = 0.0
    joules: float | None = None
    energy: str | None = None  # what the joules are from: jobs/telemetry/energy.py
    cpus: int = 0  # of all nodes
    gpus: int = 0
    usd_per_hour: float | None = None  # of all nodes, the job's part of each
    state: str | None = None  # "completed", "interrupted"; None when it came to no orderly end

    @property
    def held_s(self) -> float:
        """How long it held its nodes: not while it waited for them."""
        return max(0.0, self.ended - self.began - sum(self.phases.get(name, 0.0) for name in WAITING))

    @property
    def usd(self) -> float | None:
        return None if self.usd_per_hour is None else self.usd_per_hour * self.held_s / 3600


@dataclass
class Account:
    """A run's attempts in order."""

    attempts: list[Attempt]
    state: str  # completed, interrupted, running, died

    @property
    def idle_s(self) -> float:
        """While it was completed, until somebody went on with more steps."""
        pairs = itertools.pairwise(self.attempts)
        return sum(after.began - before.ended for before, after in pairs if before.state == "completed")

    @property
    def restarts(self) -> int:
        """Starts after an interruption."""
        return sum(before.state != "completed" for before in self.attempts[:-1])

    @property
    def wall_s(self) -> float:
        """From the first start to the end, without `idle_s`."""
        return self.attempts[-1].ended - self.attempts[0].began - self.idle_s if self.attempts else 0.0

    @property
    def kept_s(self) -> float:
        return sum(attempt.kept_s for attempt in self.attempts)

    @property
    def goodput(self) -> float | None:
        return min(1.0, self.kept_s / self.wall_s) if self.wall_s > 0 else None

    @property
    def joules(self) -> float | None:
        """Of all attempts; None when one did not know its own."""
        return _sum([attempt.joules for attempt in self.attempts])

    @property
    def energy(self) -> str | None:
        """What the joules are from; estimated as soon as a part of them is."""
        return joined([attempt.energy for attempt in self.attempts])

    @property
    def usd(self) -> float | None:
        """Price of the nodes while they were held; None when nobody stated it."""
        return _sum([attempt.usd for attempt in self.attempts])

    @property
    def cpu_hours(self) -> float:
        return sum(attempt.cpus * attempt.held_s for attempt in self.attempts) / 3600

    @property
    def gpu_hours(self) -> float:
        return sum(attempt.gpus * attempt.held_s for attempt in self.attempts) / 3600


def read(folder: Path, now: float | None = None) -> Account:
    """The account of a run folder; without attempts when it came to no training step."""
    now = time.time() if now is None else now
    attempts = [_attempt(line) for line in metrics.read(folder / "attempts.jsonl")]
    for name, kept in (("metrics.jsonl", True), ("discarded.jsonl", False)):
        seen: set[tuple[int, int]] = set()  # a crash while lines were moved leaves some twice
        for line in metrics.read(folder / name):
            attempt = _of(attempts, float(line["time"]))
            if attempt is None or (id(attempt), line["step"]) in seen:
                continue
            seen.add((id(attempt), line["step"]))
            _add(attempt, line, kept)
    for line in metrics.read(folder / "ends.jsonl"):
        attempt = _of(attempts, float(line["time"]))
        if attempt:
            attempt.ended, attempt.state = float(line["time"]), line["state"]
            attempt.joules = line.get("joules", attempt.joules)
    _clamp(attempts)
    return Account(attempts, _state(attempts, now, folder / "summary.json"))


def start_of(line: Mapping[str, Any]) -> float:
    """When a start of `attempts.jsonl` began: its phases up to the first step are one after the other."""
    return float(line["first_step_unix"]) - sum(line["phases"].values())


def _attempt(line: dict[str, Any]) -> Attempt:
    return Attempt(
        number=int(line["attempt"]),
        began=start_of(line),
        first_step=float(line["first_step_unix"]),
        ended=float(line["first_step_unix"]),
        resumed_from=int(line["resumed_from"]),
        world_size=int(line["world_size"]),
        phases=dict(line["phases"]),
        waterfall={
            name: float(seconds)
            for name, seconds in (line.get("waterfall") or {}).items()
            if name not in ("again", "catch_up") and isinstance(seconds, int | float)
        },
        energy=line.get("energy"),
        cpus=int(line.get("cpus") or 0),
        gpus=int(line.get("gpus") or 0),
        usd_per_hour=line.get("usd_per_hour"),
    )


def _sum(each: Sequence[float | None]) -> float | None:
    known = [value for value in each if value is not None]
    return sum(known) if known and len(known) == len(each) else None


def _of(attempts: list[Attempt], unix: float) -> Attempt | None:
    """The attempt that was at work at a time: the last whose first step was not later."""
    return next((attempt for attempt in reversed(attempts) if attempt.first_step <= unix), None)


def _add(attempt: Attempt, line: dict[str, Any], kept: bool) -> None:
    seconds = float(line["step_s"])
    if kept:
        attempt.kept += 1
        attempt.kept_s += seconds
    else:
        attempt.lost += 1
        attempt.lost_s += seconds
    attempt.checkpoint_s += float(line.get("checkpoint_s") or 0.0)
    if line.get("joules") is not None:
        attempt.joules = max(attempt.joules or 0.0, float(line["joules"]))
    attempt.ended = max(attempt.ended, float(line["time"]))


def _clamp(attempts: list[Attempt]) -> None:
    """A launcher that starts workers again was there before: its phases must not reach into the start before."""
    for before, attempt in itertools.pairwise(attempts):
        attempt.began = min(max(attempt.began, before.ended), attempt.first_step)


def _state(attempts: list[Attempt], now: float, summary: Path) -> str:
    if not attempts:
        return "died"
    last = attempts[-1]
    if last.state:
        return last.state
    try:  # of a run from before there was ends.jsonl
        found = json.loads(summary.read_text())
        if found["step"] == last.resumed_from + last.kept:
            return str(found["state"])
    except (OSError, ValueError, KeyError):
        pass
    return "running" if now - last.ended < QUIET_S else "died"


class Live:
    """Goodput while the run goes on, for each step's line."""

    def __init__(self, folder: Path, began: float) -> None:
        """began: of this start, when no earlier one of the run is in the record. After the lost steps were moved."""
        before = read(folder)
        self.first = not before.attempts
        self.began = began
        if before.attempts:
            last = before.attempts[-1]
            idle_s = max(0.0, began - last.ended) if last.state == "completed" else 0.0
            self.began = before.attempts[0].began + before.idle_s + idle_s
        self.kept_s = sum(float(line["step_s"]) for line in metrics.read(folder / "metrics.jsonl"))

    def step(self, step_s: float, now: float) -> float:
        """The share of the time from the beginning to `now` that is in kept steps, with this one of `step_s`."""
        self.kept_s += step_s
        return min(1.0, self.kept_s / max(now - self.began, 1e-9))

    def submitted(self, line: Mapping[str, Any]) -> None:
        """What `attempts.jsonl` got: the first start of a run may have waited in a queue before it began."""
        if self.first:
            self.began = start_of(line)


def end(folder: Path, state: str, joules: float | None) -> None:
    """Note that this start came to its orderly end now."""
    with (folder / "ends.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "state": state, "joules": joules}) + "\n")
