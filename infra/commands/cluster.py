"""The verbs of a running cluster: up, plan, down, status, logs, shell, env, verify, copy, rotate-secrets.

A lab is containers of this machine (infra/lab); everything else is machines (infra/site).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import Failure, Mistake

if TYPE_CHECKING:
    from infra.cluster import Cluster

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
    found = _machines(cluster)
    if found:
        from infra.site.down import down as site_down

        site_down(found, purge=purge)
        return
    from infra.lab.down import down as bring_down

    bring_down(cluster, purge=purge)


@app.command()
def status(
    cluster: File = LAB, as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False
) -> None:
    """Show nodes, jobs, health, addresses and disk. Exit code 1 when a node is not well.

    Example: python -m infra status --json
    """
    found = _machines(cluster)
    if found:
        from infra.site.look import status as site_status

        well = site_status(found, as_json=as_json)
    else:
        from infra.lab.status import status as show_status

        well = show_status(cluster, as_json=as_json)
    if not well:
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
    found = _machines(cluster)
    if found:
        from infra.site import look

        look.logs(found, node, follow=follow)
        return
    from infra.lab.look import logs as show_logs

    show_logs(cluster, node, follow=follow)


@app.command()
def shell(cluster: File = LAB, node: Node = "") -> None:
    """Open a shell: as the user on the login node, as root on another.

    Example: python -m infra shell clusters/lab.yaml c1
    """
    found = _machines(cluster)
    if found:
        from infra.site import look

        look.shell(found, node)
        return
    from infra.lab.look import shell as open_shell

    open_shell(cluster, node)


@app.command()
def env(cluster: File = LAB) -> None:
    """Print what to eval, so that sbatch, squeue and the others work in this shell.

    Example: eval "$(python -m infra env)"
    """
    found = _machines(cluster)
    if found:
        from infra.site import look

        look.env(found)
        return
    from infra.lab.look import env as print_env

    print_env(cluster)


@app.command()
def verify(cluster: File = LAB) -> None:
    """Check every node of the running cluster: services, versions, permissions, ports, time.

    Example: python -m infra verify
    """
    found = _machines(cluster)
    if found:
        from infra import verify as checks
        from infra.progress import step

        with step("verify") as this:
            checks.run(found, this)
        return
    from infra.lab.look import verify as check

    check(cluster)


@app.command("rotate-secrets")
def rotate_secrets(cluster: File = LAB) -> None:
    """Make a new munge key, JWT key and database password, and restart the nodes with them.

    Running jobs end with their nodes and are requeued. Example: python -m infra rotate-secrets
    """
    found = _machines(cluster)
    if found:
        from infra.site.rotate import rotate as site_rotate

        site_rotate(found)
        return
    from infra.lab.rotate import rotate

    rotate(cluster)


@app.command()
def plan(
    cluster: File = Path("clusters/site.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Say what `up` would make, change and remove, and what has drifted; changes nothing.

    Exit code 0: no change, 1: changes, 2: it could not tell. Example: python -m infra plan clusters/site.yaml
    """
    found = _machines(cluster)
    if not found:
        raise Mistake(f"{cluster}: a lab has no plan, its containers are made anew; see: make status")
    from infra.site.plan import plan as site_plan

    try:
        code = site_plan(found, as_json=as_json)
    except Failure as failure:
        typer.echo(failure, err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


@app.command()
def copy(cluster: File) -> None:
    """Bring the user's copy of the checkout on a cluster of machines up to date; bin/sbatch does it by itself.

    Example: python -m infra copy clusters/site.yaml
    """
    found = _machines(cluster)
    if not found:
        raise Mistake(f"{cluster}: a lab sees this checkout itself, there is nothing to copy")
    from infra.site import copy as copying
    from infra.site.site import Site

    copying.push(Site(found))


def _machines(path: Path) -> "Cluster | None":
    """The cluster of file `path` when it is one of machines, None when it is a lab."""
    from infra.load import load_cluster

    found = load_cluster(path)
    return None if found.place == "lab" else found
