"""What runs cost: time, energy and money over all their starts, and how much of it became training.

Read from the run folders, and from Slurm's accounting where there is some: that knows what a job held before its
first and after its last step, and how it ended. A figure that nobody measured or stated is `-`, in JSON null.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.cli.errors import Failure, Mistake, told
from jobs.cluster import accounting
from jobs.telemetry import metrics
from jobs.tools import record, report
from jobs.tools.record import Record

EXAMPLES = """examples:
  python -m jobs ledger                     every run in runs/
  python -m jobs ledger 17 latest
  python -m jobs ledger --since yesterday   also: today, 12h, 7d, 2026-01-31, 2026-01-31T12:00
  python -m jobs ledger --json | jq '.runs[] | {run, usd}'"""


@dataclass(frozen=True)
class Row:
    """A run. Hours are those that the nodes were held for; of GPUs, real ones."""

    run: str
    job: str | None  # Slurm's number
    name: str | None
    user: str | None
    account: str | None
    state: str  # Slurm's where it knows the job, else the run's own
    began: float
    wall_s: float
    nodes: int
    ranks: int
    steps: int
    planned_steps: int
    lost_steps: int
    restarts: int
    goodput: float | None
    cpu_hours: float
    gpu_hours: float
    joules: float | None
    energy: str | None  # rapl, nvml, slurm or estimated
    usd: float | None
    tokens: int
    usd_per_million_tokens: float | None


def row(run: Record, starts: Sequence[accounting.Start]) -> Row:
    """A run's line; `starts` are those of its Slurm job, of any cluster that had such a number."""
    account, hosts = run.account, run.environment.get("hosts", [])
    first, ended = account.attempts[0].began, account.attempts[-1].ended
    mine = [start for start in starts if start.overlaps(first, ended)]
    usd, cpu_hours, gpu_hours = account.usd, account.cpu_hours, account.gpu_hours
    joules, energy = account.joules, account.energy
    if mine:
        held = sum(attempt.held_s for attempt in account.attempts)
        if usd is not None and held > 0:
            usd *= sum(start.elapsed_s for start in mine) / held
        cpu_hours = sum(start.cpus * start.elapsed_s for start in mine) / 3600
        if not run.simulated:
            gpu_hours = sum(start.gpus * start.elapsed_s for start in mine) / 3600
        measured = [start.joules for start in mine if start.joules is not None]
        if energy in (None, "estimated") and len(measured) == len(mine):
            joules, energy = sum(measured), "slurm"
    last = mine[-1] if mine else None
    return Row(
        run=run.name,
        job=run.job,
        name=last.name if last else run.environment.get("launcher", {}).get("SLURM_JOB_NAME"),
        user=last.user if last else None,
        account=last.account if last else None,
        state=last.state if last else account.state,
        began=first,
        wall_s=round(account.wall_s, 3),
        nodes=last.nodes if last else len(hosts),
        ranks=account.attempts[-1].world_size,
        steps=len(run.lines),
        planned_steps=run.number("train.steps"),
        lost_steps=sum(attempt.lost for attempt in account.attempts),
        restarts=account.restarts,
        goodput=account.goodput,
        cpu_hours=cpu_hours,
        gpu_hours=gpu_hours,
        joules=joules,
        energy=energy,
        usd=usd,
        tokens=run.tokens,
        usd_per_million_tokens=usd / run.tokens * 1e6 if usd is not None and run.tokens else None,
    )


def rows(runs: Sequence[Record]) -> tuple[list[Row], str | None]:
    """Every run that came to a step, and what Slurm's accounting had against being read."""
    runs = [run for run in runs if run.account.attempts]
    trouble = None
    starts: list[accounting.Start] = []
    try:
        starts = accounting.starts(sorted({run.job for run in runs if run.job}))
    except Failure as failure:
        trouble = str(failure)
    by_job: dict[str, list[accounting.Start]] = {}
    for start in sorted(starts, key=lambda start: start.start):
        by_job.setdefault(start.job, []).append(start)
    return [row(run, by_job.get(run.job or "", [])) for run in runs], trouble


COLUMNS = (
    "run",
    "name",
    "nodes",
    "state",
    "steps",
    "restarts",
    "wall",
    "kept",
    "CPU h",
    "GPU h",
    "energy",
    "cost",
)


def table(found: Sequence[Row]) -> str:
    """The rows as a person reads them, and what they sum up to."""
    cells = [(*COLUMNS, "per 1M tokens"), *(_cells(each) for each in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    left = {"run", "name", "state", "energy"}
    lines = []
    for line in cells:
        each = [
            text.ljust(width) if name in left else text.rjust(width)
            for text, width, name in zip(line, widths, cells[0], strict=True)
        ]
        lines.append("  ".join(each).rstrip())
    return "\n".join([*lines, *_notes(found)])


def _cells(each: Row) -> tuple[str, ...]:
    energy = "-" if each.joules is None else f"{report.watt_hours(each.joules)} {each.energy}"
    per_million = each.usd_per_million_tokens
    return (
        _in_a_row(each.run),
        _in_a_row(each.name or "-"),
        str(each.nodes),
        each.state,
        f"{each.steps}/{each.planned_steps}",
        str(each.restarts),
        report.duration(each.wall_s),
        report.share(each.goodput),
        f"{each.cpu_hours:.2f}" if each.cpu_hours else "-",
        f"{each.gpu_hours:.2f}" if each.gpu_hours else "-",
        energy,
        "-" if each.usd is None else report.dollars(each.usd),
        "-" if per_million is None else report.dollars(per_million),
    )


def _in_a_row(text: str) -> str:
    """What a person calls something, on one line: with what cannot be printed as it is written in Python."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _notes(found: Sequence[Row]) -> list[str]:
    lines = []
    if len(found) > 1:
        tokens = metrics.short(sum(each.tokens for each in found))
        parts = [f"{len(found)} runs", f"{tokens} tokens"]
        joules = [each.joules for each in found if each.joules is not None]
        money = [each.usd for each in found if each.usd is not None]
        parts += [report.watt_hours(sum(joules))] if joules else []
        parts += [report.dollars(sum(money))] if money else []
        lines.append(f"in all: {', '.join(parts)}")
    if any(each.energy == "estimated" for each in found):
        lines.append(
            "estimated: no power counter can be read there; the most that its hardware profile states"
        )
    if any(each.usd is None for each in found):
        lines.append("-: no price or power is known of those nodes (docs/what-a-run-costs.md)")
    return lines


def since(text: str, now: float) -> float:
    """The Unix time that a person means. Raises Mistake."""
    today = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return (today - timedelta(days=text == "yesterday")).timestamp()
    try:
        if text[-1:] in ("h", "d"):
            return now - float(text[:-1]) * (3600 if text[-1] == "h" else 86400)
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise Mistake(
            f"--since: '{text}' is no time; write today, yesterday, 12h, 7d or 2026-01-31"
        ) from None


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs ledger",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="folders, or names in runs/ (all)")
    parser.add_argument("--since", metavar="WHEN", help="only runs that began since then")
    parser.add_argument(
        "--json", action="store_true", help="one object: runs, and trouble with the accounting"
    )
    chosen = parser.parse_args(arguments)
    try:
        least = since(chosen.since, time.time()) if chosen.since else 0.0
        runs = [record.find(name) for name in chosen.runs or record.names()]
        found, trouble = rows(runs)
    except Mistake as mistake:
        return told(mistake)
    found = sorted((each for each in found if each.began >= least), key=lambda each: each.began)
    if chosen.json:
        answer: dict[str, Any] = {"runs": [asdict(each) for each in found], "accounting": trouble}
        print(json.dumps(answer, indent=1))
        return 0
    if trouble:
        print(f"without Slurm's accounting: {trouble}", file=sys.stderr)
    print(table(found) if found else f"no runs in {Path(record.RUNS)} that came to a training step")
    return 0
