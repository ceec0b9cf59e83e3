"""`make cluster-down`: remove containers and network; with PURGE=1 volumes and secrets as well."""

import shutil

from infra.base.errors import Failure
from infra.base.process import output
from infra.base.progress import console, step
from infra.host import docker
from infra.model.cluster import Cluster
from infra.places import secrets
from infra.places.lab.compose import Project


def down(cluster: Cluster, *, purge: bool) -> None:
    """Remove the containers of `cluster`. Running jobs end; without `purge` their state and data stay."""
    project = Project(cluster.name)
    if not docker.ready():
        raise Failure("the Docker engine does not answer, so nothing was removed; run: make host")
    there = project.containers() or (purge and project.leftovers("volume"))
    if there:
        with step("cluster") as this:
            containers, volumes = remove(project, volumes=purge)
            this.did(f"{containers} containers removed" + (f", {volumes} volumes" if volumes else ""))
    if purge:
        secrets.remove(project.cluster)
        shutil.rmtree(project.folder, ignore_errors=True)
        console.print(f"{project.cluster}: removed, with its data. What jobs wrote is still in runs/.")
        return
    kept = project.leftovers("volume")
    if kept:
        console.print(
            f"{project.cluster}: down. Its data stays in {len(kept)} volumes; PURGE=1 removes them."
        )
    else:
        console.print(f"{project.cluster}: down, nothing left.")


def remove(project: Project, *, volumes: bool) -> tuple[int, int]:
    """Remove what Docker has of the cluster; returns how many containers and volumes that were."""
    names = [node.container for node in project.containers()]
    if names:
        output(["docker", "rm", "--force", "--volumes", *names])
    for network in project.leftovers("network"):
        output(["docker", "network", "rm", network])
    kept = project.leftovers("volume") if volumes else []
    if kept:
        output(["docker", "volume", "rm", *kept])
    return len(names), len(kept)
