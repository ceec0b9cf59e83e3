"""`make rotate-secrets`: new keys and a new database password, then a restart of all nodes with them."""

from infra.base.progress import step
from infra.model.cluster import Cluster
from infra.places import secrets
from infra.places.lab.compose import Project
from infra.places.lab.up import restart, wait_for_a_job, wait_for_slurm


def rotate(cluster: Cluster) -> None:
    """Replace every secret of `cluster`. Jobs and accounting stay in their volumes."""
    project = Project(cluster.name)
    project.require_up()
    with step("secrets") as this:
        names = secrets.rotate(cluster.name)
        this.did(f"{', '.join(names)} made anew")
    with step("cluster") as this:
        restart(project, this)
        wait_for_slurm(project, cluster, this)
        wait_for_a_job(project, cluster, this)
        this.did(f"{len(project.containers())} nodes restarted with them")
