"""docs/measured.md: the lines between its markers are what `python -m infra bench ... --write` measured last.

A measurement replaces its own lines and leaves those of the others, so that one can be repeated alone. Each
line holds its command in backquotes; that is what it is found by.
"""

import platform
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from infra.base.errors import Mistake
from infra.bench.figure import Result, phases_line, shown
from infra.model.host import Host

TABLE = ("<!-- figures -->", "<!-- end of figures -->")
METHODS = ("<!-- methods -->", "<!-- end of methods -->")
HEAD = (
    "| figure | value | limit or goal | reached | command | date | machine |",
    "|---|--:|---|--:|---|---|---|",
)


def write(path: Path, results: Sequence[Result], order: Sequence[str], machine: Host) -> None:
    """Put `results` into the file between its markers. Raises Mistake for a file that has none."""
    try:
        text = path.read_text()
    except OSError as error:
        raise Mistake(
            f"{path}: {error.strerror}; --write needs a file with the markers of docs/measured.md"
        ) from None
    path.write_text(updated(text, results, order, described(machine, cpu_model()), date.today(), str(path)))


def updated(
    text: str,
    results: Sequence[Result],
    order: Sequence[str],
    machine: str,
    day: date,
    name: str = "measured.md",
) -> str:
    """`text` with the lines of `results` replaced; `order` is that of all measurements by name."""
    rows = {result.command: _rows(result, machine, day) for result in results}
    notes = {result.command: [_note(result)] for result in results}
    commands = [f"python -m infra bench {each}" for each in order]
    text = _between(text, TABLE, name, lambda old: [*HEAD, *_merged(old, rows, commands)])
    return _between(text, METHODS, name, lambda old: _merged(old, notes, commands))


def described(machine: Host, cpu: str) -> str:
    """The machine in a few words, without its name."""
    return f"{machine.cores} cores, {machine.memory_mib / 1024:.0f} GiB, {cpu}"


def cpu_model() -> str:
    """The CPU's name as Linux has it; its architecture where Linux has none (most of aarch64)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _rows(result: Result, machine: str, day: date) -> list[str]:
    rows = []
    for figure in result.figures:
        limit = f"{figure.limit_name}: {shown(figure.limit, figure.unit)}" if figure.limit else ""
        reached = f"{figure.reached:,.0%}" if figure.reached else ""
        cells = (
            figure.name.strip(),
            shown(figure.value, figure.unit),
            limit,
            reached,
            f"`{result.command}`",
            day.isoformat(),
            machine,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _note(result: Result) -> str:
    phases = f" Phases: {phases_line(result.phases)}." if result.phases else ""
    return f"- `{result.command}`: {result.method}.{phases}"


def _merged(old: list[str], new: dict[str, list[str]], commands: Sequence[str]) -> list[str]:
    """Of each command the new lines, else its old ones, in the order of `commands`."""
    return [
        line
        for command in commands
        for line in new.get(command, [line for line in old if f"`{command}`" in line])
    ]


def _between(text: str, markers: tuple[str, str], name: str, change: Callable[[list[str]], list[str]]) -> str:
    begin, end = markers
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise Mistake(f"{name}: --write needs the lines '{begin}' and '{end}' in it, once each")
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    lines = change([line for line in inside.splitlines() if line])
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])
