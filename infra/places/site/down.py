"""`make cluster-down` for machines: everything that Pulumi made goes, and with PURGE=1 what we keep of it."""

import shutil

from infra.base.errors import Failure
from infra.base.progress import console, step
from infra.host import docker
from infra.model.cluster import Cluster
from infra.places.site import ssh
from infra.places.site.site import Site
from infra.places.site.steps import tools


def down(cluster: Cluster, *, purge: bool) -> None:
    """Remove the machines of `cluster` and their network; without `purge` the shared disk's keys and logs stay."""
    site = Site(cluster)
    if cluster.where.engine and not docker.ready():
        raise Failure("the Docker engine does not answer, so nothing was removed; run: make host")
    if (site.folder / "pulumi").is_dir():
        with step("tools") as this:
            tools(this)
        from infra.provision.provisioner import Provisioner

        if site.file.is_file():
            for machine in site.machines:
                ssh.hang_up(site, machine.name)
        with step("machines") as this:
            Provisioner(cluster, this).destroy(this)
        for name in ("machines.json", "applied.json", "state.json"):
            (site.folder / name).unlink(missing_ok=True)
        shutil.rmtree(site.folder / "ssh", ignore_errors=True)
    if purge:
        shutil.rmtree(site.folder, ignore_errors=True)
        console.print(f"{site.name}: removed, with its secrets and logs.")
    else:
        console.print(f"{site.name}: down, nothing left but build/{site.name} (PURGE=1 removes it).")
