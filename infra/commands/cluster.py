"""The verbs of a running cluster: up, plan, down, status, logs, shell, env, verify, copy, rotate-secrets.

A lab is containers of this machine: Slurm's by Compose (places/lab), Kubernetes' by kind (places/kind), side by side
where a cluster file names both. Everything else is machines (places/site).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.base.errors import Failure, Mistake

if TYPE_CHECKING:
    from infra.model.cluster import Cluster
    from infra.places.kind.cluster import Kind

app = typer.Typer(rich_markup_mode=None, add_completion=False)

File = Annotated[Path, typer.Argument(metavar="CLUSTER", help="a cluster file")]
Node = Annotated[str, typer.Argument(help="a node's name, as `make status` shows it")]
LAB = Path("clusters/lab.yaml")
JOB = "jobs/ddp.sbatch"


@app.command()
def up(
    cluster: File = LAB,
    job: Annotated[
        str, typer.Option(help="sbatch file, or YAML of a PyTorchJob, to prove it with; empty for none")
    ] = JOB,
    requeue: Annotated[bool, typer.Option(help="jobs on nodes that go are requeued, not waited for")] = False,
) -> None:
    """Start the cluster, check it, and prove it with a job. A second run changes nothing.

    Example: python -m infra up clusters/lab.yaml --job ""
    """
    from infra.base.paths import CHECKOUT
    from infra.model.load import load_cluster

    if job and not (CHECKOUT / job).is_file():
        raise Mistake(f"JOB={job}: no such file in the checkout; JOB= runs none")
    found = load_cluster(cluster)
    if found.place == "lab":
        slurm, kubernetes = _jobs(found, job)
        if "slurm" in found.schedulers:
            from infra.places.lab.up import up as lab_up

            lab_up(found, slurm)
        if "kubernetes" in found.schedulers:
            from infra.places.kind.up import up as kind_up

            kind_up(found, kubernetes)
    else:
        from infra.places.site.up import up as site_up

        site_up(found, job, requeue=requeue)


def _jobs(cluster: "Cluster", job: str) -> tuple[str, str]:
    """The job that proves Slurm, and the one that proves Kubernetes; '' for none. Raises Mistake."""
    from infra.places.kind.job import DEFAULT

    if job == JOB or not job:
        return job, DEFAULT if job else ""
    wanted = "kubernetes" if Path(job).suffix in (".yaml", ".yml") else "slurm"
    if wanted not in cluster.schedulers:
        right = {"kubernetes": DEFAULT, "slurm": JOB}
        raise Mistake(
            f"JOB={job}: cluster '{cluster.name}' has no {wanted.capitalize()};"
            f" write such as JOB={right[cluster.schedulers[0]]}"
        )
    return ("", job) if wanted == "kubernetes" else (job, "")


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
        from infra.places.site.down import down as site_down

        site_down(found, purge=purge)
        return
    kind, slurm = _lab(cluster)
    if kind:
        from infra.places.kind.down import down as kind_down

        kind_down(kind, purge=purge)
    if not slurm:
        return
    from infra.places.lab.down import down as bring_down

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
        from infra.places.site.look import status as site_status

        well = site_status(found, as_json=as_json)
    else:
        well = _lab_status(cluster, as_json=as_json)
    if not well:
        raise typer.Exit(1)


def _lab_status(cluster: Path, *, as_json: bool) -> bool:
    """Of Slurm's containers, kind's, or both; as JSON both are one object by scheduler."""
    import json

    from infra.places.kind import look
    from infra.places.lab import status as lab

    kind, slurm = _lab(cluster)
    if not kind:
        return lab.status(cluster, as_json=as_json)
    if not slurm:
        return look.status(kind, as_json=as_json)
    if not as_json:
        print("Slurm")
        well = lab.status(cluster, as_json=False)
        print("\nKubernetes")
        return look.status(kind, as_json=False) and well
    found = {"slurm": lab.collect(lab.project(cluster)), "kubernetes": look.collect(kind)}
    print(json.dumps(found, indent=2))
    return all(there["nodes"] and all(node["ok"] for node in there["nodes"]) for there in found.values())


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
        from infra.places.site import look

        look.logs(found, node, follow=follow)
        return
    kind, slurm = _lab(cluster)
    if kind and (not slurm or _is_kinds(kind, node)):
        from infra.places.kind import look as kinds

        kinds.logs(kind, node, follow=follow)
        return
    from infra.places.lab.look import logs as show_logs

    show_logs(cluster, node, follow=follow)


@app.command()
def shell(cluster: File = LAB, node: Node = "") -> None:
    """Open a shell: as the user on the login node, as root on another.

    Example: python -m infra shell clusters/lab.yaml c1
    """
    found = _machines(cluster)
    if found:
        from infra.places.site import look

        look.shell(found, node)
        return
    kind, slurm = _lab(cluster)
    if kind and (not slurm or _is_kinds(kind, node)):
        from infra.places.kind import look as kinds

        kinds.shell(kind, node)
    from infra.places.lab.look import shell as open_shell

    open_shell(cluster, node)


@app.command()
def env(cluster: File = LAB) -> None:
    """Print what to eval, so that sbatch, squeue, kubectl and the others work in this shell.

    Example: eval "$(python -m infra env)"
    """
    found = _machines(cluster)
    if found:
        from infra.places.site import look

        look.env(found)
        return
    kind, slurm = _lab(cluster)
    if kind:
        from infra.places.kind import look as kinds

        kinds.env(kind)
    if not slurm:
        return
    from infra.places.lab.look import env as print_env

    print_env(cluster)


@app.command()
def verify(cluster: File = LAB) -> None:
    """Check every node of the running cluster: services, versions, permissions, ports, time.

    Example: python -m infra verify
    """
    found = _machines(cluster)
    if found:
        from infra.base.progress import step
        from infra.proof import verify as checks

        with step("verify") as this:
            checks.run(found, this)
        return
    kind, slurm = _lab(cluster)
    if slurm:
        from infra.places.lab.look import verify as check

        check(cluster)
    if kind:
        from infra.base.progress import step
        from infra.places.kind.verify import verify as kind_verify

        kind.require_up()
        with step("verify") as this:
            kind_verify(kind, this)


@app.command("rotate-secrets")
def rotate_secrets(cluster: File = LAB) -> None:
    """Make a new munge key, JWT key and database password, and restart the nodes with them.

    Running jobs end with their nodes and are requeued. Example: python -m infra rotate-secrets
    """
    found = _machines(cluster)
    if found:
        from infra.places.site.rotate import rotate as site_rotate

        site_rotate(found)
        return
    if not _lab(cluster)[1]:
        raise Mistake(
            f"{cluster}: Kubernetes' keys are made with the cluster: run make cluster-down, then cluster-up"
        )
    from infra.places.lab.rotate import rotate

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
    from infra.places.site.plan import plan as site_plan

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
    from infra.places.site import copy as copying
    from infra.places.site.site import Site

    copying.push(Site(found))


@app.command()
def results(
    job: Annotated[str, typer.Argument(help="a PyTorchJob's name, such as ddp")],
    cluster: File = Path("clusters/kind.yaml"),
) -> None:
    """Follow a PyTorchJob to its end, then copy its run folder and its pods' logs to runs/<job>.

    Example: python -m infra results ddp
    """
    from infra.places.kind import job as jobs
    from infra.proof.prove import shown

    kind = _kind(cluster)
    kind.require_up()
    folder = jobs.results(kind, job)
    found = jobs.summary(folder)
    bits = found.get("bits_per_byte") or {}
    learned = f"{bits['validation']:.2f} bits/byte on validation, " if bits else ""
    typer.echo(f"{shown(folder)}: {learned}step {found.get('step', '?')}/{found.get('steps', '?')}")


@app.command()
def kubeconfig(
    cluster: File = Path("clusters/kind.yaml"),
    undo: Annotated[bool, typer.Option(help="take it out again")] = False,
) -> None:
    """Put the cluster into your own ~/.kube/config, or take it out again; nothing else in it changes.

    Example: python -m infra kubeconfig clusters/kind.yaml --undo
    """
    from infra.places.kind import config

    kind = _kind(cluster)
    if undo:
        typer.echo(f"{config.users_own()}: {'taken out' if config.undo(kind) else 'was not there'}")
    else:
        config.add(kind)


@app.command()
def manifests(cluster: File = Path("clusters/kind.yaml")) -> None:
    """Write everything that `kubectl apply -k` needs to build/<cluster>/kubernetes; it asks no cluster.

    That is what `render` writes, and what is taken from the modules of the training operator and of Kueue, whose
    programs are built for it.

    Example: python -m infra manifests clusters/mine.yaml
    """
    from infra import render as rendering
    from infra.base import paths
    from infra.base.progress import step
    from infra.images import programs
    from infra.model.load import load_cluster
    from infra.places.kind import deploy

    found = load_cluster(cluster)
    if "kubernetes" not in found.schedulers:
        raise Mistake(f"{cluster}: schedulers: {', '.join(found.schedulers)} without kubernetes")
    folder = paths.build(found.name) / "kubernetes"
    with step("manifests") as this:
        rendering.write(rendering.render(found), folder.parent)
        programs.ensure_all(deploy.UPSTREAM, this)
        deploy.copy_upstream(folder)
        this.did(str(folder))


def _lab(path: Path) -> "tuple[Kind | None, bool]":
    """The kind cluster of a lab's file, None when it has no Kubernetes; and whether it has Slurm."""
    from infra.model.load import load_cluster
    from infra.places.kind.cluster import Kind

    found = load_cluster(path)
    return (Kind(found) if "kubernetes" in found.schedulers else None, "slurm" in found.schedulers)


def _kind(path: Path) -> "Kind":
    kind = None if _machines(path) else _lab(path)[0]
    if not kind:
        raise Mistake(f"{path}: no Kubernetes on this machine; write such as CLUSTER=clusters/kind.yaml")
    return kind


def _is_kinds(kind: "Kind", node: str) -> bool:
    """Whether a name of a cluster with both schedulers is Kubernetes': Slurm's own nodes come first."""
    slurm = {*kind.cluster.nodes, *kind.cluster.service_hosts, ""}
    return node not in slurm


def _machines(path: Path) -> "Cluster | None":
    """The cluster of file `path` when it is one of machines, None when it is a lab."""
    from infra.model.load import load_cluster

    found = load_cluster(path)
    return None if found.place == "lab" else found
