"""The jobs of a cluster, as `make status` shows them."""

from typing import Any

from rich.table import Table

from infra.base.progress import console
from infra.proof.run import Nodes

COLUMNS = ("id", "name", "user", "state", "time", "nodes", "where")


def listed(nodes: Nodes, host: str) -> list[dict[str, str]]:
    """Every job that waits or runs, asked for on `host`. Raises Failure."""
    lines = nodes.run(host, "squeue", "-h", "-o", "%i|%j|%u|%T|%M|%D|%R").splitlines()
    return [dict(zip(COLUMNS, line.split("|"), strict=True)) for line in lines]


def show(jobs: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", *COLUMNS[1:]):
        table.add_column(column)
    for row in jobs:
        table.add_row(*row.values())
    console.print()
    console.print(table if jobs else "no jobs")
