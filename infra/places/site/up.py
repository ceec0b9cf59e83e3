"""`make cluster-up` for machines: Pulumi makes them, Ansible configures them, a job proves them.

Every phase looks first and does only what is missing. A run that was interrupted goes on where it was.
"""

import time

from infra.base.errors import Failure, Mistake
from infra.base.progress import console, step
from infra.model import hostlist
from infra.model.cluster import Cluster
from infra.model.show import headline
from infra.places.site import applied, copy, live, release, retire
from infra.places.site.site import Site
from infra.places.site.steps import configure, power, prepare, provision, report, wait_for_slurm
from infra.places.verbs import next_line
from infra.proof import prove, verify


def up(cluster: Cluster, script: str, *, requeue: bool = False) -> None:
    """Bring the machines of `cluster` up and run the job file `script` on them once ('' for none).

    `requeue`: jobs on nodes that are to go are put back into the queue, instead of waited for.
    """
    begin = time.monotonic()
    if "slurm" not in cluster.schedulers:
        raise Mistake(f"{cluster.file}: only Slurm runs on machines so far; write schedulers: [slurm]")
    console.print(headline(cluster))
    cluster = release.held(cluster)
    site = Site(cluster)
    prepare(cluster)
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
    console.print(next_line(cluster.file, "sbatch jobs/ddp.sbatch", "squeue"))


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
    from infra.provision.provisioner import Provisioner

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
