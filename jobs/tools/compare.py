"""One page that lays runs beside each other: what differs between them, and what came of it.

python -m jobs compare 17 18 19          writes runs/compare-17-18-19.html
"""

import argparse
import html
from collections.abc import Sequence
from pathlib import Path

from jobs.cli.errors import Mistake, told
from jobs.telemetry import metrics
from jobs.tools import report
from jobs.tools.record import RUNS, Record, find
from jobs.tools.replay import inputs


def page(records: Sequence[Record]) -> str:
    """The comparison as one HTML page."""
    parts = [
        "<h2>Loss</h2>",
        report.loss(records),
        "<h2>Speed</h2>",
        report.speed(records),
        "<h2>What came of it</h2>",
        _table(records, outcomes(records)),
        "<h2>What differs</h2>",
    ]
    different = differences(records)
    parts.append(_table(records, different) if different else "<p>Nothing that was recorded.</p>")
    return report.document(f"Runs {', '.join(record.name for record in records)}", parts)


def outcomes(records: Sequence[Record]) -> dict[str, list[str]]:
    """A row for each result: its value in each run."""
    rows: dict[str, list[str]] = {}
    for record in records:
        account, bits = record.account, record.summary.get("bits_per_byte") or {}
        mfu = report.median(line.get("mfu") for line in record.lines)
        per_million = account.usd / record.tokens * 1e6 if account.usd is not None and record.tokens else None
        values = {
            "State": account.state,
            "Steps": f"{len(record.lines)} of {record.config.get('train.steps', '?')}",
            "Loss of the last step": f"{record.lines[-1]['loss']:.4f}" if record.lines else "-",
            "Bits per byte, validation": f"{bits['validation']:.3f}" if bits else "-",
            "Tokens/s, median step": metrics.short(report.speed_of(record.lines)) if record.lines else "-",
            "MFU, median step": report.share(mfu),
            "Goodput": report.share(account.goodput),
            "Restarts": str(account.restarts),
            "Wall time": report.duration(account.wall_s),
            "GPU hours": f"{account.gpu_hours:.2f}",
            "CPU hours": f"{account.cpu_hours:.2f}",
            "Energy": f"{report.watt_hours(account.joules)}, {account.energy}"
            if account.joules is not None
            else "-",
            "Price": report.dollars(account.usd) if account.usd is not None else "-",
            "Price of a million tokens": report.dollars(per_million) if per_million is not None else "-",
        }
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    return rows


def differences(records: Sequence[Record]) -> dict[str, list[str]]:
    """The inputs that are not the same in all runs, and their value in each."""
    each = [inputs(record) for record in records]
    names = dict.fromkeys(name for facts in each for name in facts)
    rows = {name: [facts.get(name, "-") for facts in each] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _table(records: Sequence[Record], rows: dict[str, list[str]]) -> str:
    head = "".join(f"<th>{html.escape(record.name)}" for record in records)
    body = "\n".join(
        f"<tr><th>{html.escape(name)}" + "".join(f"<td>{html.escape(value)}" for value in values)
        for name, values in rows.items()
    )
    return f"<table><tr><th>{head}{body}</table>"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs compare",
        description="Write one page that compares runs: losses, speed, cost, and every input that differs.",
        epilog="examples:\n  python -m jobs compare 17 18\n  python -m jobs compare runs/a runs/b --output=ab.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder, or name in runs/; two or more")
    parser.add_argument("--output", type=Path, help="where to write it (runs/compare-<names>.html)")
    chosen = parser.parse_args(arguments)
    try:
        if len(chosen.runs) < 2:
            raise Mistake(f"{chosen.runs[0]}: one run has nothing to be compared with; name two or more")
        records = [find(name) for name in chosen.runs]
        path = chosen.output or RUNS / f"compare-{'-'.join(record.name for record in records)}.html"
        try:
            path.write_text(page(records))
        except OSError as error:
            raise Mistake(f"{path}: {error.strerror}") from error
    except Mistake as mistake:
        return told(mistake)
    print(path)
    return 0
