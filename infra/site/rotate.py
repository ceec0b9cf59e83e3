"""New secrets for a cluster of machines: made here, brought to every machine, the services restarted with them."""

from infra.cluster import Cluster
from infra.lab import secrets
from infra.progress import console, step
from infra.provision import lock
from infra.site.site import Site
from infra.site.up import configure, report


def rotate(cluster: Cluster) -> None:
    """Make a new munge key, JWT key and database password. Jobs that run go on; new ones start after it."""
    site = Site(cluster)
    with lock.held(site.folder / "cluster.lock", site.name):
        names = secrets.rotate(cluster.name)
        with step("configure") as this:
            played = configure(site, this)
        report(site, played)
    console.print(f"{cluster.name}: new {', '.join(names)}")
