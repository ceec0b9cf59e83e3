"""The verbs about files: check, render, show, schema. They start nothing."""

from pathlib import Path
from typing import Annotated

import typer

from infra.commands.cluster import LAB, File, Json

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def check(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of clusters/ or hardware/; all when none.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what is wrong in cluster files and machine types; writes nothing.

    Every mistake is one line with file, line, key and what would be right. Exit code 2 when there is one.

    Example: python -m infra check clusters/lab.yaml
    """
    from infra.model.check import check as checked

    found = checked(files)
    _say(found, json, "\n".join(f"{file}: {text}" for file, text in found.items()))


@app.command()
def render(
    cluster: File = LAB,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to; build/<cluster> when missing.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the configuration of a cluster to build/<cluster>/: Slurm, Ansible, Compose, Kubernetes.

    The same input gives the same bytes. Only files that differ are written.

    Example: python -m infra render clusters/lab.yaml
    """
    from infra import render as rendering
    from infra.base import paths
    from infra.model.load import load_cluster

    found = load_cluster(cluster)
    files = rendering.render(found)
    folder = output or paths.build(found.name)
    changed = rendering.write(files, folder)
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    _say(
        {"cluster": found.name, "folder": str(folder), "files": len(files), "changed": changed},
        json,
        f"{found.name}: {len(files)} files in {shown}, {len(changed)} changed"
        + "".join(f"\n  {name}" for name in changed),
    )


@app.command()
def show(cluster: File = LAB, json: Json = False) -> None:
    """Show a cluster: pools with nodes, cores, GPUs, memory, power and price per hour, and their sums.

    Example: python -m infra show clusters/lab.yaml --json
    """
    from infra.model import show as showing
    from infra.model.load import load_cluster

    found = load_cluster(cluster)
    if json:
        _say(showing.facts(found), json, "")
    else:
        showing.show(found)


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option(help="Folder to write to; schemas/ when missing.")] = None,
    json: Json = False,
) -> None:
    """Write the JSON Schemas that editors check hardware/, clusters/ and jobs/ with; they are committed.

    Example: python -m infra schema
    """
    from infra.base import paths
    from infra.model.schema import schemas

    folder = output or paths.CHECKOUT / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in schemas().items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            changed.append(name)
    _say({"folder": str(folder), "changed": changed}, json, f"schemas: {len(changed)} changed")


def _say(data: object, json: bool, text: str) -> None:
    """Print `data` for machines or `text` for people."""
    if json:
        from json import dumps

        typer.echo(dumps(data, indent=2))
    else:
        typer.echo(text)
