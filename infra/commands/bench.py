"""`python -m infra bench`: what our own tools cost, each figure beside its limit."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Measure; figures beside limits.")


@app.callback()
def bench() -> None:
    """Figures beside their limits, with the method."""


@app.command()
def render(
    nodes: Annotated[int, typer.Option(min=1, help="Machines in the cluster.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time from a cluster file of NODES machines to its files on disk, beside writing the same bytes.

    Example: python -m infra bench render --nodes 10000
    """
    import json

    from infra.bench import measure

    got = measure(nodes)
    lines = [
        f"render of {nodes:,} nodes: {got['seconds']:.2f} s (goal {got['goal_s']:.0f} s),"
        f" {got['files']} files, {got['bytes'] / 1e3:.0f} kB",
        f"  names without ranges: {got['scattered_seconds']:.2f} s, {got['scattered_bytes'] / 1e3:.0f} kB",
        f"  limit: plain write of the same bytes {got['plain_write_seconds']:.4f} s,"
        f" json.dumps {got['json_dumps_seconds']:.5f} s",
        "  method: best of three in one process, from the cluster file to files on disk",
    ]
    typer.echo(json.dumps(got, indent=2) if as_json else "\n".join(lines))
