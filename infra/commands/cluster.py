"""The verbs of a cluster, wherever it runs: up, plan, down, status, logs, shell, env, verify and the rest.

What each does in which place is in infra/places; here is only what a person types.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from infra.base.errors import Failure, Mistake
from infra.places import verbs
from infra.places.verbs import JOB, Place

app = typer.Typer(rich_markup_mode=None, add_completion=False)

File = Annotated[Path, typer.Argument(metavar="CLUSTER", help="a cluster file")]
Node = Annotated[str, typer.Argument(help="a node's name, as `make status` shows it")]
Json = Annotated[bool, typer.Option("--json", help="for machines")]
Requeue = Annotated[bool, typer.Option(help="jobs that are in the way are requeued, not waited for")]
LAB = Path(verbs.LAB)


def place(file: Path) -> Place:
    """Where the cluster of `file` runs. Raises Mistake."""
    from infra.model.load import load_cluster
    from infra.places.place import of

    return of(load_cluster(file))


@contextmanager
def changing(file: Path, *, removing: bool = False) -> Iterator[Place]:
    """The same for a verb that changes the cluster: held, and only where it is this checkout's."""
    from infra.places import owner

    here = place(file)
    with owner.working(here.cluster, removing=removing):
        yield here


@app.command()
def up(
    cluster: File = LAB,
    job: Annotated[
        str, typer.Option(help="sbatch file, or YAML of a PyTorchJob, to prove it with; empty for none")
    ] = JOB,
    requeue: Requeue = False,
) -> None:
    """Start the cluster, check it, and prove it with a job. A second run changes nothing.

    Example: python -m infra up clusters/lab.yaml --job ""
    """
    from infra.base.paths import CHECKOUT

    if job:
        readable(CHECKOUT / job, job)
    with changing(cluster) as here:
        here.up(job, requeue=requeue)


def readable(file: Path, job: str) -> None:
    """Raise Mistake for a job file that no scheduler would take, before anything is started for it."""
    try:
        content = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Mistake(f"JOB={job}: no such file in the checkout; JOB= runs none") from None
    except OSError as error:
        raise Mistake(f"JOB={job}: cannot be read: {error.strerror}") from None
    if b"\r\n" in content:
        raise Mistake(
            f"JOB={job}: has the line ends of DOS, which a shell takes for part of its words;"
            f" put right: sed -i 's/\\r$//' {shlex.quote(job)}"
        )
    if file.suffix not in (".yaml", ".yml") and not content.startswith(b"#!"):
        raise Mistake(f"JOB={job}: a batch script begins with #! and its shell, such as #!/bin/bash")


@app.command()
def down(
    cluster: File = LAB,
    purge: Annotated[bool, typer.Option(help="remove volumes and secrets as well")] = False,
) -> None:
    """Remove the cluster's containers or machines and its network; its data stays unless --purge.

    Example: python -m infra down --purge
    """
    with changing(cluster, removing=True) as here:
        here.down(purge=purge)


@app.command()
def status(cluster: File = LAB, as_json: Json = False) -> None:
    """Show nodes, jobs, health, addresses and disk. Exit code 1 when a node is not well.

    Example: python -m infra status --json
    """
    here = place(cluster)
    state = here.state()
    if as_json:
        import json

        typer.echo(json.dumps(state, indent=2))
    else:
        here.show(state)
    if not here.well(state):
        raise typer.Exit(1)


@app.command()
def logs(
    cluster: File = LAB,
    node: Node = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until Ctrl-C")] = False,
) -> None:
    """Show what the nodes' journals hold, newest last.

    Example: python -m infra logs clusters/lab.yaml slurmctld --follow
    """
    place(cluster).logs(node, follow=follow)


@app.command()
def shell(cluster: File = LAB, node: Node = "") -> None:
    """Open a shell: as the user on the login node, as root on another.

    Example: python -m infra shell clusters/lab.yaml c1
    """
    place(cluster).shell(node)


@app.command()
def env(cluster: File = LAB) -> None:
    """Print what to eval, so that sbatch, squeue, kubectl and the others work in this shell; twice does no harm.

    Example: eval "$(python -m infra env)"
    """
    from infra.base.paths import CHECKOUT

    values = place(cluster).env()
    typer.echo("export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items()))
    folder = shlex.quote(str(CHECKOUT / "bin"))
    typer.echo(f'case ":$PATH:" in *:{folder}:*) ;; *) export PATH={folder}:"$PATH" ;; esac')


@app.command()
def verify(cluster: File = LAB) -> None:
    """Check every node of the running cluster: services, versions, permissions, ports, time.

    Example: python -m infra verify
    """
    from infra.places import owner

    here = place(cluster)
    owner.refuse_others(here.cluster)
    here.verify()


@app.command("rotate-secrets")
def rotate_secrets(cluster: File = LAB) -> None:
    """Make a new munge key, JWT key and database password, and restart the nodes with them.

    Running jobs end with their nodes and are requeued. Example: python -m infra rotate-secrets
    """
    with changing(cluster) as here:
        here.rotate()


@app.command()
def plan(cluster: File = Path("clusters/site.yaml"), as_json: Json = False) -> None:
    """Say what `up` would make, change and remove, and what has drifted; changes nothing.

    Exit code 0: no change, 1: changes, 2: it could not tell. Example: python -m infra plan clusters/site.yaml
    """
    try:
        code = place(cluster).plan(as_json=as_json)
    except Failure as failure:
        typer.echo(failure, err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


@app.command()
def copy(cluster: File) -> None:
    """Bring the user's copy of the checkout on a cluster of machines up to date; bin/sbatch does it by itself.

    Example: python -m infra copy clusters/site.yaml
    """
    place(cluster).copy()


@app.command()
def replace(
    cluster: File,
    node: Annotated[str, typer.Argument(help="a machine's name, as `make status` shows it")],
    requeue: Requeue = False,
) -> None:
    """Put a new machine in the place of one that is broken, under the same name.

    Example: python -m infra replace clusters/site.yaml gpu-1 --requeue
    """
    with changing(cluster) as here:
        here.replace(node, requeue=requeue)


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
    with changing(cluster) as here:
        here.upgrade(back=back, requeue=requeue)
