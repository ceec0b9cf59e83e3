"""Place metal: hosts that are there already; resources of metal_resources.py where they have a controller.

`infra.provision.metal.given` checks the file before and reports after.
"""

from dataclasses import dataclass
from typing import Any

from infra.model.cluster import Cluster
from infra.model.shape import MachineSpec, output, tags
from infra.provision.metal.resources import Host
from infra.provision.program import Inputs, site_storage


@dataclass(frozen=True)
class SiteNetwork:
    """The site's own; nothing is made."""

    bastion: str | None = None


@dataclass(frozen=True)
class SiteStorage:
    """The site's own; nothing is made."""

    entry: dict[str, Any]


def network(cluster: Cluster) -> SiteNetwork:
    """The hosts have their addresses."""
    return SiteNetwork()


def storage(cluster: Cluster, network: SiteNetwork) -> SiteStorage:
    """What the file names: the site's file system, or the controller's export."""
    return SiteStorage(site_storage(cluster))


def machine(
    cluster: Cluster,
    spec: MachineSpec,
    network: SiteNetwork,
    storage: SiteStorage | None,
    inputs: Inputs,
) -> dict[str, Any]:
    """The host of that name; with a controller it is switched on, and its facts are in `bmc` of the entry."""
    host, bmc = cluster.spec.hosts[spec.name], cluster.spec.bmc
    entry = output(spec, host.address, host.host_key or "", spec.name)
    if host.bmc is None:
        return entry
    made = Host(
        spec.name,
        {
            "host": spec.name,
            "bmc": host.bmc,
            "user": bmc.user,
            "password_env": bmc.password_env,
            "verify_tls": bmc.verify_tls,
            "install": host.install or "",
            "power_off_on_remove": bmc.power_off_on_remove,
            "labels": tags(cluster, spec),
        },
    )
    return entry | {"bmc": {"found": made.found, "trouble": made.trouble}}
