"""New secrets for a cluster of machines: made here, brought to every machine, the services restarted with them."""

from infra.base.progress import console, step
from infra.model.cluster import Cluster
from infra.places import secrets
from infra.places.site.site import Site
from infra.places.site.steps import configure, report


def rotate(cluster: Cluster) -> None:
    """Make a new munge key, JWT key and database password. Jobs that run go on; new ones start after it."""
    site = Site(cluster)
    names = secrets.rotate(cluster.name)
    with step("configure") as this:
        played = configure(site, this)
    report(site, played)
    console.print(f"{cluster.name}: new {', '.join(names)}")
