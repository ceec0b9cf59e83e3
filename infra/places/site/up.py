"""`make cluster-up` for machines: Pulumi makes them, Ansible configures them, a job proves them.

Every phase looks first and does only what is missing. A run that was interrupted goes on where it was.
"""

import importlib.util
import json
import os
import time
from dataclasses import asdict
from typing import Any

from infra.base import files, lock
from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT, build
from infra.base.process import logged
from infra.base.progress import Step, console, step
from infra.host import docker as host
from infra.images import targets
from infra.images.machine import name as machine_image
from infra.model import hostlist
from infra.model.cluster import Cluster
from infra.model.show import headline
from infra.places import secrets
from infra.places.site import applied, copy, live, retire, ssh, upgrade
from infra.places.site.play import Played, play
from infra.places.site.site import Site
from infra.proof import prove, verify
from infra.render import render, write

WAIT_S = 240  # for Slurm to hear from every node


def up(cluster: Cluster, script: str, *, requeue: bool = False) -> None:
    """Bring the machines of `cluster` up and run the job file `script` on them once ('' for none).

    `requeue`: jobs on nodes that are to go are put back into the queue, instead of waited for.
    """
    begin = time.monotonic()
    if "slurm" not in cluster.schedulers:
        raise Mistake(f"{cluster.file}: only Slurm runs on machines so far; write schedulers: [slurm]")
    console.print(headline(cluster))
    cluster = upgrade.held(cluster)
    site = Site(cluster)
    prepare(cluster)
    with lock.held(site.folder / "cluster.lock", f"cluster '{site.name}'"):
        retire_nodes(site, requeue=requeue)
        old = ids(site)
        empty_doomed(site, requeue=requeue)
        with step("machines") as this:
            made = provision(site, this)
        site = Site(cluster)
        silent = power(site)
        with step("configure") as this:
            played = configure(site, this, concerned(site, old))
        changed = made or bool(played.changed)
        report(site, played)
        if silent:
            raise Failure(f"{len(silent)} management controllers do not answer, see above; the rest is done")
        applied.save(site)
        done = prove.Done.load(site.folder)
        retire.resume(site, list(cluster.nodes))
        if changed or not done.verified:
            done.verified = False
            done.save(site.folder)
            with step("verify") as this:
                wait_for_slurm(site, this)
                verify.run(cluster, this)
            done.verified = True
            done.save(site.folder)
        with step("slurm") as this:
            found = live.put_right(site, this)
            this.did(f"put right {', '.join(found)}" if found else "as rendered", changed=bool(found))
        changed = changed or bool(found)
        to_prove = bool(script) and not done.proved
        if to_prove:
            with step("job") as this:
                this.doing("copying the checkout")
                copy.push(site)
                run = prove.prove(site, cluster.user, script, done, site.folder, this)
            prove.say_what_it_learned(run)
            done.proved = run.id
            done.save(site.folder)
    if not changed and not to_prove:
        console.print(f"{cluster.name}: up, nothing to change ({time.monotonic() - begin:.1f} s)")
    console.print(
        f'Next:  eval "$(make env CLUSTER={cluster.file})"   then   sbatch jobs/ddp.sbatch   squeue',
        markup=False,
    )


def ids(site: Site) -> dict[str, str]:
    """What the place calls every machine that there is; another id is another machine."""
    return {machine.name: machine.id for machine in site.machines} if site.file.is_file() else {}


def concerned(site: Site, old: dict[str, str]) -> list[str] | None:
    """The machines to configure after some came or went: those that came, and those of the services.

    None for all: nothing came or went, or something has changed that others have, too. The time to add a machine
    is then the same in a cluster of three and of three hundred.
    """
    now = ids(site)
    if now == old or not applied.Applied.load(site).only_for_services(site):
        return None
    services = site.cluster.spec.services
    names = {name for name in now if now[name] != old.get(name)}
    return sorted(names | {services.controller, services.accounting, services.database})


def retire_nodes(site: Site, *, requeue: bool) -> None:
    """Drain what is no longer in the cluster file, before Pulumi takes its machine away."""
    nodes = retire.leaving(site)
    if nodes:
        with step("drain") as this:
            moved = retire.drain(site, nodes, this, requeue=requeue)
            this.did(f"{hostlist.compress(nodes)} empty" + (f", {moved} jobs requeued" if moved else ""))


def empty_doomed(site: Site, *, requeue: bool) -> None:
    """Drain the nodes whose machines Pulumi would make anew. Raises Failure where that would lose a database."""
    if not site.file.is_file():
        return
    from infra.provision.stack import Provisioner

    with step("preview") as this:
        changes = Provisioner(site.cluster, this).preview()
        doomed = {c.name: c.reason for c in changes if c.kind == "replace" and c.what == "machine"}
        services = site.cluster.spec.services
        for name in (services.database, services.controller):
            if name in doomed:
                raise Failure(
                    f"{name} would be made anew ({doomed[name]}), and what it keeps would be lost: undo that change,"
                    f" or begin again with make cluster-down CLUSTER={site.cluster.file}"
                )
        nodes = [node for node in site.cluster.nodes if node in doomed]
        moved = retire.drain(site, nodes, this, requeue=requeue) if nodes else 0
        emptied = f", {hostlist.compress(nodes)} empty" if nodes else ""
        this.did(
            f"{len(changes)} to make, change or remove{emptied}"
            + (f", {moved} jobs requeued" if moved else "")
            if changes
            else "no change",
            changed=bool(changes),
        )


def prepare(cluster: Cluster) -> None:
    """Tools, images and stacks on this machine, and what was rendered; nothing is changed on the cluster."""
    if cluster.place == "docker":
        with step("host") as this:
            host.ensure(this)
    with step("tools") as this:
        tools(this)
    if cluster.place == "docker":
        with step("images") as this:
            targets.ensure(wanted(cluster), this)
    folder = build(cluster.name)
    write(render(cluster), folder)
    secrets.ensure(cluster.name)
    ssh.ensure_key(folder / "secrets")


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
    stacks = sorted({pool.stack.name for pool in cluster.pools if pool.stack})
    return [machine_image(cluster.spec.machines.image), *stacks]


def provision(site: Site, this: Step, anew: str | None = None) -> bool:
    """Have Pulumi make, change and remove machines; whether it did anything. Writes machines.json.

    `anew`: only this machine, which is replaced.
    """
    from infra.provision.stack import Provisioner

    outputs = Provisioner(site.cluster, this).up(this, anew=anew)
    files.put(site.file, json.dumps(asdict(outputs), indent=2) + "\n")
    ssh.write(Site(site.cluster))
    return this.changed


def power(site: Site) -> list[str]:
    """What the management controllers of given hosts say; those that do not answer, a line each."""
    if site.cluster.place != "metal":
        return []
    from infra.provision.metal import given

    found = given.report(site.cluster, site.outputs["machines"])
    for line in found.lines:
        console.print(f"  {line}", markup=False)
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
    return found | ({"site_environment": proxies} if proxies and site.cluster.place == "docker" else {})


def wait_for_slurm(site: Site, this: Step) -> None:
    """Wait until slurmctld has heard from every node. Raises Failure that names the silent ones."""
    deadline = time.monotonic() + WAIT_S
    while True:
        states = retire.states(site)
        silent = [node for node in site.cluster.nodes if not usable(states.get(node, "UNKNOWN*"))]
        if not silent:
            return
        this.doing(f"waiting for {hostlist.compress(silent)}")
        if time.monotonic() > deadline:
            reasons = site.run(site.controller, "sinfo", "-R", "-h", "-o", "%n: %E")
            said = reasons.replace("\n", "; ") or f"{silent[0]} is {states.get(silent[0], 'not known')}"
            raise Failure(f"Slurm cannot use {hostlist.compress(silent)}: {said}")
        time.sleep(0.5)


def usable(state: str) -> bool:
    """Whether slurmctld hears from a node; one that a person drained is well, and not ours to resume."""
    return not state.endswith("*") and state.split("+")[0] in (
        *("IDLE", "MIXED", "ALLOCATED", "COMPLETING", "PLANNED", "DRAINED", "DRAINING", "RESERVED", "MAINT"),
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
