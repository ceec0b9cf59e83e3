"""`make rotate-secrets`: new keys and a new database password, then a restart of all nodes with them."""

from pathlib import Path

from infra.base.progress import step
from infra.model.load import load_cluster
from infra.model.machine import read_machine
from infra.places import secrets
from infra.places.lab.compose import Project
from infra.places.lab.up import restart, wait_for_slurm


def rotate(path: Path) -> None:
    """Replace every secret of the cluster of file `path`. Jobs and accounting stay in their volumes."""
    cluster = load_cluster(path, machine=read_machine())
    project = Project(cluster.name)
    project.require_up()
    with step("secrets") as this:
        names = secrets.rotate(cluster.name)
        this.did(f"{', '.join(names)} made anew")
    with step("cluster") as this:
        restart(project, this)
        wait_for_slurm(project, cluster)
        this.did(f"{len(project.containers())} nodes restarted with them")
