"""`python -m infra hostkeys`: the SSH host keys of servers that are there already, to be put into their file."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def hostkeys(
    cluster: Annotated[Path, typer.Argument(metavar="CLUSTER", help="A file of clusters/ with `hosts`.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask every host of place metal for its SSH key, once, and print the lines for the cluster file.

    Nothing is written. Hosts that have a key in the file are compared with it. Exit code 1 when a host does
    not answer or shows another key.

    Example: python -m infra hostkeys clusters/metal.yaml
    """
    from dataclasses import asdict
    from json import dumps

    from infra.base.errors import Mistake
    from infra.model.load import load_cluster
    from infra.provision.metal import given

    loaded = load_cluster(cluster)
    if not loaded.spec.hosts:
        raise Mistake(f"{cluster}: hosts: missing; only servers that are there already have keys to ask for")
    found = given.hostkeys(loaded)
    typer.echo(dumps(asdict(found), indent=2) if json else given.hostkeys_text(loaded, found))
    if found.silent or found.changed:
        raise typer.Exit(1)
