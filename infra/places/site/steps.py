"""The steps that up, plan, replace and the roll of a stack share: tools, machines, configuration, waiting."""

import importlib.util
import json
import os
from dataclasses import asdict
from typing import Any

from infra.base import files, keypair
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT, build
from infra.base.process import logged
from infra.base.progress import Step, console, step
from infra.base.wait import settled
from infra.host import docker as host
from infra.images import targets
from infra.images.machine import name as machine_image
from infra.model import hostlist, nodestate
from infra.model.cluster import Cluster
from infra.places import secrets
from infra.places.site import retire, ssh
from infra.places.site.play import Played, play
from infra.places.site.site import Site
from infra.render import render, write

WAIT_S = 240  # for Slurm to hear from every node
SHOWN = 5  # silent nodes that a message tells of


def prepare(cluster: Cluster) -> None:
    """Tools, images and stacks on this machine, and what was rendered; nothing is changed on the cluster."""
    if cluster.where.engine:
        with step("host") as this:
            host.ensure(this)
    with step("tools") as this:
        tools(this)
    if cluster.where.engine:
        with step("images") as this:
            targets.ensure(wanted(cluster), this)
    folder = build(cluster.name)
    write(render(cluster), folder)
    secrets.ensure(cluster.name)
    keypair.ensure(folder / "secrets" / "admin", "slipway")


def tools(this: Step) -> None:
    """Pulumi with its SDK, which only clusters of machines need."""
    if importlib.util.find_spec("pulumi") is None:
        this.doing("installing Pulumi's SDK and the clouds'")
        logged([CHECKOUT / "infra" / "bootstrap", "--provision"], build("images") / "logs" / "tools.log")
        importlib.invalidate_caches()
    from infra.provision import cli

    cli.ensure(this)
    this.did("Pulumi and Ansible", changed=False)


def wanted(cluster: Cluster) -> list[str]:
    """Images and stacks that machines of place docker are made with."""
    return [machine_image(cluster.spec.machines.image), *cluster.stacks]


def provision(site: Site, this: Step, anew: str | None = None) -> bool:
    """Have Pulumi make, change and remove machines; whether it did anything. Writes machines.json.

    `anew`: only this machine, which is replaced.
    """
    from infra.provision.provisioner import Provisioner

    outputs = Provisioner(site.cluster, this).up(this, anew=anew)
    files.put(site.file, json.dumps(asdict(outputs), indent=2) + "\n")
    ssh.write(Site(site.cluster))
    return this.changed


def power(site: Site) -> list[str]:
    """What the management controllers of given hosts say; those that do not answer, a line each."""
    if not site.cluster.where.given:
        return []
    from infra.provision.metal import given

    found = given.report(site.cluster, site.outputs["machines"])
    for line in found.lines:
        console.print(f"  {line}")
    return list(found.silent)


def configure(site: Site, this: Step, limit: list[str] | None = None) -> Played:
    """Have Ansible configure every machine, or those of `limit`."""
    played = play(site, this, limit=limit, variables=variables(site))
    changed = len(played.changed)
    hosts = len({result.host for result in played.changed})
    this.did(
        f"{len(played.hosts)} machines, {played.tasks} tasks, "
        + (f"{changed} changes on {hosts}" if changed else "no change"),
        changed=bool(changed),
    )
    return played


def variables(site: Site) -> dict[str, Any]:
    """What no file of the checkout knows: what the place has made, and how this host gets out."""
    storage = site.outputs.get("storage") or {}
    found: dict[str, Any] = {}
    if site.cluster.storage_kind == "place" and storage.get("kind") in ("nfs", "lustre"):
        found = {"storage_source": storage["source"], "storage_options": storage.get("options") or ""}
    proxies = {
        name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if os.environ.get(name)
    }
    return found | ({"site_environment": proxies} if proxies and site.cluster.where.engine else {})


def wait_for_slurm(site: Site, this: Step) -> None:
    """Wait until slurmctld has heard from every node. Raises Failure that names the silent ones."""

    def silent() -> list[nodestate.Node]:
        return nodestate.silent(site.cluster.nodes, retire.nodes_of(site))

    def late(names: str) -> str:
        return f"Slurm cannot use {names}: " + "; ".join(node.why for node in silent()[:SHOWN])

    settled(
        lambda: hostlist.compress([node.name for node in silent()]),
        WAIT_S,
        step=this,
        late=late,
    )


def report(site: Site, played: Played) -> None:
    """Raise Failure with every machine that is not configured; the others are."""
    broken = played.broken
    if broken:
        lines = "\n".join(f"  {host}: {why}" for host, why in sorted(broken.items()))
        fine = len(played.hosts) - len(broken)
        raise Failure(
            f"{len(broken)} of {len(played.hosts)} machines are not configured ({fine} are):\n{lines}\n"
            f"  log: {site.folder / 'logs' / 'ansible.log'}; to go on, run the same command again"
        )
