"""The jobs of a cluster, as `make status` shows them.

Not by `squeue --json`: a site may run Slurm 22.05, whose JSON has other keys. Here each job begins with a sign that
no name has, and ends with the one field that people write.
"""

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from infra.base.progress import console
from infra.proof.run import Nodes

COLUMNS = ("id", "name", "user", "state", "time", "nodes", "where")
ASKED = ("id", "user", "state", "time", "nodes", "where", "name")
BEGIN = "\x1e"  # ASCII's record separator
FORMAT = f"{BEGIN}%i|%u|%T|%M|%D|%R|%j"


def listed(nodes: Nodes, host: str) -> list[dict[str, str]]:
    """Every job that waits or runs, asked for on `host`. Raises Failure."""
    return parse(nodes.run(host, "squeue", "-h", "-o", FORMAT))


def parse(said: str) -> list[dict[str, str]]:
    """What squeue says in FORMAT, as rows with COLUMNS."""
    rows = []
    for line in said.split(BEGIN)[1:]:
        *found, name = line.rstrip("\n").split("|", len(COLUMNS) - 1)
        row = dict(zip(ASKED, [*found, name], strict=True))
        rows.append({column: row[column] for column in COLUMNS})
    return rows


def show(jobs: list[dict[str, Any]], unknown: str) -> None:
    """Print the jobs, or why they are not known."""
    console.print()
    if unknown:
        console.print(f"no job is known: {unknown}")
    elif jobs:
        console.print(rows(("job", *COLUMNS[1:]), [("", *job.values()) for job in jobs]))
    else:
        console.print("no jobs")


def rows(columns: Iterable[str], cells: Iterable[tuple[str, ...]]) -> Table:
    """A table without lines; each row begins with its style."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for style, *row in cells:
        table.add_row(*row, style=style)
    return table
