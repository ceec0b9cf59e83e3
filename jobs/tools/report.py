"""The report of a run: one HTML page with its pictures inside, which needs no other file, light or dark.

Written at the end of a run, and at any time, also of a run that goes on or died: python -m jobs report RUN
"""

import argparse
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jobs.cli.errors import Mistake, told
from jobs.telemetry import metrics
from jobs.telemetry.goodput import Account
from jobs.tools import svg
from jobs.tools.record import Record, find

STYLE = (
    """:root{color-scheme:light dark;--text:#1d1d1f;--dim:#626268;--line:#dcdce0;--back:#fff}
@media(prefers-color-scheme:dark){:root{--text:#e8e8ea;--dim:#a0a0a8;--line:#3a3a40;--back:#18181b}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:var(--text);background:var(--back)}
h1{font-size:1.4rem;margin-bottom:.2rem}h2{font-size:1.05rem;margin:2rem 0 .3rem}
table{border-collapse:collapse;margin:.6rem 0;font-size:.92rem}
td,th{text-align:left;padding:.2rem 1.5rem .2rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}.note{color:var(--dim);font-size:.9rem}
.figures{display:flex;flex-wrap:wrap;gap:.4rem 2.4rem;margin:1rem 0}
.figures b{display:block;font-size:1.3rem;font-weight:600}.figures span{color:var(--dim);font-size:.85rem}
.legend{margin:.1rem 0 0;font-size:.85rem;color:var(--dim)}.legend span{margin-right:1.2rem;white-space:nowrap}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}
"""
    + svg.STYLE
)


def write(folder: Path) -> Path:
    """Write `report.html` into a run folder."""
    path = folder / "report.html"
    beside = folder / ".report.html"
    beside.write_text(page(Record(folder)))
    beside.replace(path)
    return path


def page(record: Record) -> str:
    """The whole report."""
    summary, account, lines = record.summary, record.account, record.lines
    parts = [f"<p>{html.escape(verdict(record))}</p>"]
    if summary.get("gpus_simulated"):
        parts.append('<p class="note">GPUs are simulated: the training ran on CPU.</p>')
    parts.append(figures(headline(record)))
    if lines:
        parts += ["<h2>Loss</h2>", loss([record])]
        parts += ["<h2>Speed</h2>", speed([record]), "<h2>Where a step's time goes</h2>", waits(lines)]
    if account.attempts:
        parts += ["<h2>Starts and restarts</h2>", waterfall(account)]
    parts += ["<h2>Facts</h2>", table(facts(record))]
    return document(f"Run {record.name}", parts)


def document(title: str, parts: Iterable[str]) -> str:
    """A page of its own."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}</html>\n"
    )


def verdict(record: Record) -> str:
    """One sentence: how far it came, and what it learned."""
    bits = record.summary.get("bits_per_byte") or {}
    if bits:
        return (
            f"{bits['validation']:.2f} bits per byte on validation; "
            f"a bigram model has {bits['bigram']:.2f}, a unigram model {bits['unigram']:.2f}."
        )
    step = record.lines[-1]["step"] if record.lines else 0
    return f"{record.account.state.capitalize()} at step {step} of {record.config.get('train.steps', '?')}."


def headline(record: Record) -> list[tuple[str, str]]:
    """The figures at the top: (value, what it is)."""
    account, lines = record.account, record.lines
    found = [(share(account.goodput), "goodput: time in kept steps")]
    if lines:
        found.append((f"{metrics.short(speed_of(lines))}/s", "tokens, median step"))
    for key, what in (
        ("mfu", "of the devices' peak (MFU)"),
        ("allreduce_share", "all-reduce, of a step"),
    ):
        value = median([line.get(key) for line in lines])
        found.append((share(value), what if value is not None else f"{what}: not known here"))
    if account.joules is not None:
        found.append((watt_hours(account.joules), f"energy, {account.energy}"))
    if account.usd is not None:
        found.append((dollars(account.usd), "price of the nodes"))
    return found


def figures(values: Iterable[tuple[str, str]]) -> str:
    each = (
        f"<div><b>{html.escape(value)}</b><span>{html.escape(what)}</span></div>" for value, what in values
    )
    return f'<div class="figures">{"".join(each)}</div>'


def loss(records: Sequence[Record]) -> str:
    """Training loss in bits per byte by step, beside what counting achieves on the first run's data."""
    bits = records[0].summary.get("bits_per_byte") or {}
    marks = [
        (f"{name} model, validation", bits[name])
        for name in ("unigram", "bigram", "validation")
        if name in bits
    ]
    lines = [
        svg.Line(_name(each, records), [(line["step"], _bits(line["loss"])) for line in each.lines])
        for each in records
    ]
    marks = [
        ("this model, validation" if "valid" in name.split()[0] else name, value) for name, value in marks
    ]
    return svg.chart("Loss by step", lines, "step", "bits per byte", marks)


def speed(records: Sequence[Record]) -> str:
    lines = [
        svg.Line(_name(each, records), [(line["step"], line["tokens_per_s"]) for line in each.lines])
        for each in records
    ]
    return svg.chart("Speed by step", lines, "step", "tokens/s", from_zero=True)


def waits(lines: Sequence[dict[str, Any]]) -> str:
    """Shares of each step that were spent on waiting; only those that were measured."""
    shares: dict[str, list[tuple[float, float | None]]] = {
        "wait for data": [],
        "all-reduce that hides behind nothing": [],
        "checkpoint before it": [],
    }
    for line in lines:
        stall, reduce = line.get("checkpoint_s"), line.get("allreduce_share")
        values = (
            100 * line["data_s"] / line["step_s"],
            None if reduce is None else 100 * reduce,
            100 * stall / (stall + line["step_s"]) if stall else None,
        )
        for points, value in zip(shares.values(), values, strict=True):
            points.append((line["step"], value))
    drawn = [svg.Line(name, points) for name, points in shares.items()]
    return svg.chart("Shares of a step", drawn, "step", "% of the step", from_zero=True)


def waterfall(account: Account) -> str:
    """Each start as a row: its phases up to the first step, then what its time was spent on."""
    # A restart tells more than its own phases: from the last sign of life before it on.
    starts = [attempt.waterfall or attempt.phases for attempt in account.attempts]
    names = list(dict.fromkeys(name for start in starts for name in start))
    spent = ["kept steps", "lost steps", "checkpoints", "other"]
    zero, rows = account.attempts[0].began, []
    for number, attempt in enumerate(account.attempts):
        at, pieces = max(0.0, attempt.first_step - zero - sum(starts[number].values())), []
        other = attempt.ended - attempt.first_step - attempt.kept_s - attempt.lost_s - attempt.checkpoint_s
        after = (attempt.kept_s, attempt.lost_s, attempt.checkpoint_s, max(0.0, other))
        for name in names:
            seconds = starts[number].get(name, 0.0)
            if seconds > 0:
                pieces.append((at, seconds, 0, f"{name.replace('_', ' ')} {seconds:.1f} s"))
                at += seconds
        for index, (name, seconds) in enumerate(zip(spent, after, strict=True)):
            if seconds > 0:
                pieces.append((at, seconds, (2, 1, 3, 6)[index], f"{name} {seconds:.1f} s"))
                at += seconds
        rows.append(("first start" if number == 0 else f"restart {number}", pieces))
    heads = "".join(f"<th>{html.escape(name.replace('_', ' '))}" for name in [*names, "kept", "lost"])
    body = ""
    for (name, _), attempt, start in zip(rows, account.attempts, starts, strict=True):
        cells = [f"{start[each]:.1f}" if each in start else "" for each in names]
        cells += [f"{attempt.kept_s:.1f} ({attempt.kept} steps)", f"{attempt.lost_s:.1f} ({attempt.lost})"]
        body += f"<tr><th>{name}" + "".join(f"<td>{cell}" for cell in cells)
    return (
        svg.bars("Restart waterfall", rows, "s")
        + svg.legend([(0, "start"), (2, "kept steps"), (1, "lost steps"), (3, "checkpoints"), (6, "other")])
        + '<p class="note">The phases of each start, in seconds. Point at a bar for its name.</p>'
        + f"<table><tr><th>{heads}{body}</table>"
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """What the run was, a row each."""
    summary, environment, account = record.summary, record.environment, record.account
    git = environment.get("git") or {}
    rows = [
        ("State", account.state),
        ("Steps", f"{len(record.lines)} of {record.config.get('train.steps', '?')}"),
        ("Restarts", str(max(0, len(account.attempts) - 1))),
        ("Ranks", str(account.attempts[-1].world_size) if account.attempts else None),
        ("Nodes", "; ".join(environment.get("hosts", []))),
        ("Device", environment.get("device")),
        ("Wall time", duration(account.wall_s)),
        ("CPU hours", f"{account.cpu_hours:.2f}"),
        ("GPU hours", f"{account.gpu_hours:.2f}" if account.gpu_hours else None),
        ("Energy", f"{watt_hours(account.joules)}, {account.energy}" if account.joules is not None else None),
        ("Price", dollars(account.usd) if account.usd is not None else None),
        ("Data", summary.get("data") or environment.get("data")),
        ("Stack", environment.get("stack")),
        ("Image", environment.get("image")),
        ("Code", f"{git['commit'][:12]}{' with changes' if git.get('dirty') else ''}" if git else None),
        ("Command", " ".join(environment.get("command", []))),
    ]
    return [(name, text) for name, text in rows if text]


def table(rows: Iterable[tuple[str, str]]) -> str:
    body = "\n".join(f"<tr><th>{html.escape(name)}<td>{html.escape(text)}" for name, text in rows)
    return f"<table>{body}</table>"


def median(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def speed_of(lines: Sequence[dict[str, Any]]) -> float:
    """Tokens/s of the median step."""
    return median(line["tokens_per_s"] for line in lines) or 0.0


def share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


def watt_hours(joules: float) -> str:
    hours = joules / 3600
    return (
        f"{hours / 1000:,.1f} kWh"
        if hours >= 1000
        else f"{hours:.1f} Wh"
        if hours >= 1
        else f"{hours:.2g} Wh"
    )


def dollars(usd: float) -> str:
    return f"{usd:,.2f} $" if usd >= 0.01 or usd == 0 else f"{usd:.1g} $"


def duration(seconds: float) -> str:
    """1:02:03, as Slurm shows it."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _bits(nats: float | None) -> float | None:
    return None if nats is None else nats / math.log(2)


def _name(record: Record, among: Sequence[Record]) -> str:
    return record.name if len(among) > 1 else "training"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs report",
        description="Write report.html into a run's folder: pictures, restarts, cost. Also while the run goes on.",
        epilog="examples:\n  python -m jobs report latest\n  python -m jobs report 17",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="?", default="latest", help="folder, or name in runs/ (latest)")
    chosen = parser.parse_args(arguments)
    try:
        print(write(find(chosen.run).folder))
    except Mistake as mistake:
        return told(mistake)
    return 0
