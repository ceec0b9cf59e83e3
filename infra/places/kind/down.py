"""`make cluster-down` of a kind cluster: nothing is left but what jobs wrote; with PURGE=1 not that either."""

import shutil

from infra.base.errors import Failure
from infra.base.process import output
from infra.base.progress import console, step
from infra.host import docker
from infra.images import targets
from infra.places.kind import config
from infra.places.kind.cluster import Kind
from infra.places.kind.done import Done


def down(kind: Kind, *, purge: bool) -> None:
    """Remove containers, volumes, network and kubeconfig, also from the user's own; jobs end with them."""
    name = kind.cluster.name
    if not docker.ready():
        raise Failure("the Docker engine does not answer, so nothing was removed; run: make host")
    if kind.containers() or kind.networks():
        with step("cluster") as this:
            containers, networks = kind.delete()
            this.did(f"{containers} containers and {networks} network removed")
    kind.kubeconfig.unlink(missing_ok=True)
    (kind.folder / Done.FILE).unlink(missing_ok=True)
    (kind.folder / "kubectl").unlink(missing_ok=True)
    if purge:
        _remove_runs(kind)
        shutil.rmtree(kind.folder, ignore_errors=True)
        console.print(f"{name}: removed, with what its jobs wrote. What was fetched is still in runs/.")
    elif kind.runs.is_dir() and any(kind.runs.iterdir()):
        console.print(
            f"{name}: down. What jobs wrote stays in {kind.cluster.build}/shared; PURGE=1 removes it."
        )
    else:
        console.print(f"{name}: down, nothing left.")
    config.undo(
        kind
    )  # last: a file of the user's that is no YAML is told of, and keeps nothing else from going


def _remove_runs(kind: Kind) -> None:
    """Pods have written as a user of their own, whose files only that one and root may remove."""
    shutil.rmtree(kind.runs, ignore_errors=True)
    base = targets.targets()["base"]
    if kind.runs.exists() and base.exists():
        shared = f"{kind.runs.parent}:/shared"
        output(
            [
                "docker",
                "run",
                "--rm",
                "--network",
                "none",
                "--volume",
                shared,
                base.where,
                "rm",
                "-rf",
                "/shared/runs",
            ]
        )
