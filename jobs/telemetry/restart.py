"""What an interruption cost: the waterfall from the last sign of life to the point where the run was before.

    detect        until somebody knew: the launcher's warning or a heartbeat, else Slurm, else nobody (null)
    reschedule    until the job or its agent was started again
    start         until the worker's Python ran: the launcher, torchrun's import, its rendezvous
    import        torch
    rendezvous    the ranks meet
    prepare       data and model
    load          the checkpoint
    first_step    compilation, where there is any
    catch_up      the steps that were done before and had to be done again

A line of `attempts.jsonl` holds them as `waterfall`, in seconds, beside the phases of the start itself. All on the
clock of rank 0's host, and Slurm keeps whole seconds: a difference below zero is shown as zero.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli import files
from jobs.telemetry import metrics

ORDER = (
    "detect",
    "reschedule",
    "start",
    "import",
    "rendezvous",
    "prepare",
    "load",
    "first_step",
    "catch_up",
)


@dataclass(frozen=True)
class Left:
    """What the start before this one left behind."""

    step: int  # the last one in its record
    unix: float  # when that was done
    detected_unix: float | None  # when somebody knew that it ended
    why: str


def left(folder: Path) -> Left | None:
    """Of the newest start before this one; None for a run's first, and where the one before was at its end: to go on
    with more steps is no restart. To be read before the record is cut."""
    lines = metrics.read(folder / "metrics.jsonl")
    if not lines:
        return None
    step, unix = int(lines[-1]["step"]), float(lines[-1]["time"])
    ends = metrics.read(folder / "ends.jsonl")
    if ends and ends[-1]["state"] == "completed" and float(ends[-1]["time"]) >= unix:
        return None
    known: list[tuple[float, str]] = []
    try:
        ended = json.loads((folder / "ended.json").read_text())
        known.append((float(ended["unix"]), str(ended["why"])))
    except (OSError, ValueError, KeyError):
        pass  # nobody was left to write it
    if "SLIPWAY_FAILED_UNIX" in os.environ:
        known.append((float(os.environ["SLIPWAY_FAILED_UNIX"]), "a worker ended"))
    known = sorted(each for each in known if each[0] >= unix)  # an older one is of an earlier start
    return Left(step, unix, known[0][0] if known else None, known[0][1] if known else "nobody saw it")


def waterfall(
    before: Left, phases: dict[str, float], worker_unix: float, resumed: int, requeued_unix: float | None
) -> dict[str, Any]:
    """The seconds by name, with `again`: how many steps have to be done again.

    `phases`: of this start, as jobs/telemetry/phases.py has them; `requeued_unix`: when Slurm put the job back.
    """
    began = worker_unix - phases.get("start", 0.0) - phases.get("agent", 0.0)
    detected = before.detected_unix
    if detected is None and requeued_unix is not None and requeued_unix >= int(before.unix):
        detected = requeued_unix
    again = max(0, before.step - resumed)
    seconds: dict[str, float | None] = {
        "detect": None if detected is None else detected - before.unix,
        "reschedule": began - (before.unix if detected is None else detected),
        "start": worker_unix - began,
        "import": phases.get("import", 0.0),
        "rendezvous": phases.get("rendezvous", 0.0),
        "prepare": phases.get("data", 0.0) + phases.get("model", 0.0),
        "load": phases.get("load", 0.0),
        "first_step": phases.get("first_step", 0.0),
        "catch_up": None if again > 1 else 0.0,  # the first one is `first_step`
    }
    rounded = {name: None if each is None else round(max(0.0, each), 3) for name, each in seconds.items()}
    return {**rounded, "again": again, "why": before.why}


def caught_up(path: Path, seconds: float) -> str:
    """Note in the last line of attempts.jsonl that the run is where it was; the line for people."""
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    last["waterfall"]["catch_up"] = round(seconds, 3)
    files.put(path, "\n".join([*lines[:-1], json.dumps(last)]) + "\n")
    return f"caught up: {last['waterfall']['again']} steps done again; {total(last['waterfall']):.1f} s lost in all"


def total(found: dict[str, Any]) -> float:
    """Seconds from the last sign of life to where the run was."""
    return sum(found[name] or 0.0 for name in ORDER)


def line(number: int, found: dict[str, Any]) -> str:
    """`restart 1: detect 4.2 s · start 0.8 s · ...`, without what is not known yet or took no time."""
    parts = [f"{name.replace('_', ' ')} {found[name]:.1f} s" for name in ORDER if found[name] is not None]
    again = f" · {found['again']} steps to do again" if found["again"] else ""
    return f"restart {number}: {' · '.join(parts)}{again}"
