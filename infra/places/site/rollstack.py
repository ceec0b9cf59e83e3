"""Another stack, node by node: the link /opt/stack/current, or where stacks are mounted a new machine.

A job that runs keeps what it has: where only the link changes, the old folder stays beside the new one; where the
machine has to be made again, the node is drained before.
"""

from concurrent.futures import ThreadPoolExecutor

from infra.base.errors import Mistake
from infra.base.progress import step
from infra.model import hostlist
from infra.places.site import replace
from infra.places.site.site import Site
from infra.places.site.steps import configure, report

AT_ONCE = 32  # connections


def waiting(site: Site) -> dict[str, str]:
    """Nodes and login machines whose current stack is not the wanted one, each with the wanted folder."""
    wanted = {node: pool.stack.folder for pool in site.cluster.pools if pool.stack for node in pool.nodes}
    stacks = [pool.stack.folder for pool in site.cluster.pools if pool.stack]
    wanted |= {name: stacks[0] for name in site.cluster.login if stacks}
    there = {machine.name for machine in site.machines}
    asked = {name: folder for name, folder in wanted.items() if name in there}
    script = "readlink /opt/stack/current || :"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        current = pool.map(lambda name: site.run(name, "sh", "-c", script), asked)
    return {name: folder for (name, folder), now in zip(asked.items(), current, strict=True) if now != folder}


def roll(site: Site, *, requeue: bool) -> bool:
    """Bring every machine to the wanted stack, one at a time; whether there was any to bring."""

    names = waiting(site)
    made_again = site.cluster.where.engine  # a container's mounts are made with it
    if made_again and site.controller in names:
        raise Mistake(
            f"{site.cluster.file}: services.login: {site.controller} holds slurmctld's state, so it cannot be"
            " made again for another stack; give logins a machine of their own"
        )
    for name in names:
        if made_again:
            replace.again(site, name, requeue=requeue)
            continue
        with step(name) as this:
            report(site, configure(site, this, limit=[name]))
    if names:
        with step("stack") as this:
            this.did(f"{hostlist.compress(tuple(names))}: {', '.join(sorted(set(names.values())))}")
    return bool(names)
