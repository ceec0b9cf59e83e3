"""The verbs of a cluster's life on machines: replace, upgrade."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.base.errors import Mistake

if TYPE_CHECKING:
    from infra.model.cluster import Cluster

app = typer.Typer(rich_markup_mode=None, add_completion=False)

File = Annotated[Path, typer.Argument(metavar="CLUSTER", help="a cluster file")]
Requeue = Annotated[bool, typer.Option(help="jobs that are in the way are requeued, not waited for")]


@app.command()
def replace(
    cluster: File,
    node: Annotated[str, typer.Argument(help="a machine's name, as `make status` shows it")],
    requeue: Requeue = False,
) -> None:
    """Put a new machine in the place of one that is broken, under the same name.

    Example: python -m infra replace clusters/site.yaml gpu-1 --requeue
    """
    from infra.places.site.replace import machine

    machine(_machines(cluster), node, requeue=requeue)


@app.command()
def upgrade(
    cluster: File,
    back: Annotated[
        bool, typer.Option(help="to an older Slurm; accounting is that of the upgrade then")
    ] = False,
    requeue: Requeue = False,
) -> None:
    """Make Slurm and the stack what the cluster file asks for, machine by machine, while jobs run.

    Example: python -m infra upgrade clusters/site.yaml
    """
    from infra.places.site.upgrade import upgrade as run

    run(_machines(cluster), back=back, requeue=requeue)


def _machines(path: Path) -> "Cluster":
    from infra.model.load import load_cluster

    found = load_cluster(path)
    if found.place == "lab":
        raise Mistake(f"{path}: a lab's containers are made anew by make cluster-up; this is for machines")
    return found
