"""The verbs of a lab cluster: up, down, status, logs, shell, env, verify, rotate-secrets."""

from pathlib import Path
from typing import Annotated

import typer

from infra.errors import Mistake

app = typer.Typer(rich_markup_mode=None, add_completion=False)

File = Annotated[Path, typer.Argument(metavar="CLUSTER", help="a cluster file")]
Node = Annotated[str, typer.Argument(help="a node's name, as `make status` shows it")]
LAB = Path("clusters/lab.yaml")


@app.command()
def up(
    cluster: File = LAB,
    job: Annotated[
        str, typer.Option(help="sbatch file to prove the cluster with; empty for none")
    ] = "jobs/ddp.sbatch",
    requeue: Annotated[bool, typer.Option(help="jobs on nodes that go are requeued, not waited for")] = False,
) -> None:
    """Start the cluster, check it, and prove it with a job. A second run changes nothing.

    Example: python -m infra up clusters/lab.yaml --job ""
    """
    from infra.load import load_cluster
    from infra.paths import CHECKOUT

    if job and not (CHECKOUT / job).is_file():
        raise Mistake(f"JOB={job}: no such file in the checkout; JOB= runs none")
    found = load_cluster(cluster)
    if found.place == "lab":
        from infra.lab.up import up as lab_up

        lab_up(found, job)
    else:
        from infra.site.up import up as site_up

        site_up(found, job, requeue=requeue)


@app.command()
def down(
    cluster: File = LAB,
    purge: Annotated[bool, typer.Option(help="remove volumes and secrets as well")] = False,
) -> None:
    """Remove the cluster's containers and network; its data stays unless --purge.

    Example: python -m infra down --purge
    """
    from infra.lab.down import down as bring_down

    bring_down(cluster, purge=purge)


@app.command()
def status(
    cluster: File = LAB, as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False
) -> None:
    """Show nodes, jobs, health, addresses and disk. Exit code 1 when a node is not well.

    Example: python -m infra status --json
    """
    from infra.lab.status import status as show_status

    if not show_status(cluster, as_json=as_json):
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
    from infra.lab.look import logs as show_logs

    show_logs(cluster, node, follow=follow)


@app.command()
def shell(cluster: File = LAB, node: Node = "") -> None:
    """Open a shell: as the user on the login node, as root on another.

    Example: python -m infra shell clusters/lab.yaml c1
    """
    from infra.lab.look import shell as open_shell

    open_shell(cluster, node)


@app.command()
def env(cluster: File = LAB) -> None:
    """Print what to eval, so that sbatch, squeue and the others work in this shell.

    Example: eval "$(python -m infra env)"
    """
    from infra.lab.look import env as print_env

    print_env(cluster)


@app.command()
def verify(cluster: File = LAB) -> None:
    """Check every node of the running cluster: services, versions, permissions, ports, time.

    Example: python -m infra verify
    """
    from infra.lab.look import verify as check

    check(cluster)


@app.command("rotate-secrets")
def rotate_secrets(cluster: File = LAB) -> None:
    """Make a new munge key, JWT key and database password, and restart the nodes with them.

    Running jobs end with their nodes and are requeued. Example: python -m infra rotate-secrets
    """
    from infra.lab.rotate import rotate

    rotate(cluster)
