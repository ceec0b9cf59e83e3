"""The verbs that only Kubernetes has: results, kubeconfig, manifests."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.base.errors import Mistake
from infra.commands.cluster import File

if TYPE_CHECKING:
    from infra.places.kind.cluster import Kind

app = typer.Typer(rich_markup_mode=None, add_completion=False)


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


def _kind(path: Path) -> "Kind":
    from infra.model.load import load_cluster
    from infra.places.kind.cluster import Kind

    found = load_cluster(path)
    if not found.where.lab or "kubernetes" not in found.schedulers:
        raise Mistake(f"{path}: no Kubernetes on this machine; write such as CLUSTER=clusters/kind.yaml")
    return Kind(found)
