"""`make upgrade`: what a cluster runs on made what its file asks for, machine by machine, while jobs run.

Slurm: the database is dumped and the controller's state copied, then slurmdbd, slurmctld, login and compute nodes
one at a time, each looked at before the next (slurm.schedmd.com/upgrades.html). Going back has its own module,
downgrade.py. The stack: the link of each node to the new folder, or where machines mount their stacks, new machines.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from infra.base.errors import Failure, Mistake
from infra.base.progress import Step, console, step
from infra.model import hostlist, slurmrelease
from infra.model.cluster import Cluster
from infra.places.site import downgrade, exchange, retire, rollstack
from infra.places.site.release import Record, command, pending
from infra.places.site.site import Site
from infra.places.site.steps import prepare

REASON = "slipway: Slurm is upgraded"
PATIENCE_S = 900  # SlurmdTimeout meanwhile: exchanging packages takes seconds, on a busy disk minutes
AT_ONCE = 32  # connections

# A copy that was cut short is never taken for one: it has another name until it is whole.
DUMP = """
set -eu
umask 077
cd "$1"
[ ! -s database.sql.gz ] || exit 0
mariadb-dump --single-transaction --routines slurm_acct_db | gzip >database.part
gzip -dc database.part | tail -n 1 | grep -q '^-- Dump completed'
gzip -dc database.part | grep -q 'CREATE TABLE'
mv database.part database.sql.gz
# slurmdbd of newer releases ends at a conflict of writes with it; a MariaDB that starts reads it from its file
mariadb -e 'SET GLOBAL innodb_snapshot_isolation = OFF' 2>/dev/null || :
"""
COPY = """
set -eu
umask 077
cd "$1"
[ ! -s state.tar.gz ] || exit 0
tar -C /var/spool/slurmctld -czf state.part .
tar -tzf state.part | grep -q job_state
mv state.part state.tar.gz
"""


def upgrade(cluster: Cluster, *, back: bool, requeue: bool) -> None:
    """Make Slurm and the stack what the cluster file asks for. `back`: to an older Slurm, which loses records."""
    site = Site(cluster)
    if not site.machines:
        raise Failure(f"cluster '{site.name}' has no machines; run: make cluster-up CLUSTER={cluster.file}")
    record = Record.load(site)
    before, after = slurmrelease.SUITES.get(record.suite, "?"), slurmrelease.release(cluster)
    asked = slurmrelease.suite(cluster)
    if record.to is not None and (record.back != back or record.to != asked):
        raise Failure(f"{cluster.name}: {pending(site)[0]}, with software.slurm_suite as it was then")
    slurm = record.to is not None or record.suite != asked
    if slurm and not record.to:
        _may(site, before, after, back=back)
    elif back and not slurm:
        raise Mistake(f"{cluster.file}: Slurm {after} is what runs; to go back, change software.slurm_suite")
    prepare(cluster)
    if slurm and back:
        downgrade.slurm(site, record, before, after, requeue=requeue)
    elif slurm:
        _slurm(site, record, before, after)
    rolled = rollstack.roll(site, requeue=requeue)
    if not slurm and not rolled:
        console.print(f"{cluster.name}: Slurm {after} and the stack are what its file asks for")


def _may(site: Site, before: str, after: str, *, back: bool) -> None:
    """Raise Mistake when this way is not open."""
    if slurmrelease.newer(before, after) != back:
        if back:
            raise Mistake(f"Slurm {after} is not older than {before}, which runs: leave BACK=1 away")
        raise Mistake(
            f"Slurm {after} is older than {before}, which runs. Going back stops all jobs and takes accounting"
            f" back to the time of the upgrade; if that is meant: {command(site, back=True)}"
        )
    reason = "" if back else slurmrelease.refusal(before, after)
    if reason:
        raise Mistake(f"{site.cluster.file}: software.slurm_suite: {reason}")


def _slurm(site: Site, record: Record, before: str, after: str) -> None:
    hosts = exchange.order(site)
    with step("check") as this:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(hosts, pool.map(lambda host: exchange.look(site, host), hosts), strict=True))
        left = [host for host in hosts if not found[host].is_(after)]
        this.did(f"Slurm {before} -> {after}: {' · '.join(said(site, left)) or 'all done'}")
    if record.to is None:
        version = found[site.controller].version
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        record.to, record.back, record.done = slurmrelease.suite(site.cluster), False, []
        record.backup = f"{exchange.BACKUPS}/slurm-{version.split('-')[0]}-{stamp}"
        record.save(site)
    services = site.cluster.spec.services
    for host in (services.accounting, services.controller):
        if host in left:
            left.remove(host)
            with step(host) as this:
                backup(site, record, host, this)
                exchange.packages(site, [host], this)
                exchange.check(site, host, after, this)
    if any(host in site.cluster.nodes for host in left):
        exchange.patience(site, PATIENCE_S)
    for host in left:
        with step(host) as this:
            roll(site, host, after, this)
    exchange.finish(site, record, exchange.look(site, site.controller).version)
    console.print(
        f"{site.name}: Slurm {record.version} on {len(hosts)} machines."
        f" What going back needs: {record.backup} on {services.controller}"
    )


def said(site: Site, hosts: list[str]) -> Iterator[str]:
    """The order in words: head, login, then gpu-[1-2] one at a time."""
    yield from (host for host in hosts if host not in site.cluster.nodes)
    nodes = tuple(host for host in hosts if host in site.cluster.nodes)
    if nodes:
        yield f"{hostlist.compress(nodes)}{', one at a time' if len(nodes) > 1 else ''}"


def backup(site: Site, record: Record, host: str, this: Step) -> None:
    """Before `host` is changed: dump the database and copy slurmctld's state, while those that write are stopped."""
    services = site.cluster.spec.services
    if host == services.accounting and "database" not in record.done:
        this.doing("dumping the database")
        folder(site, record, services.database)
        site.run(host, "systemctl", "stop", "slurmdbd")
        site.run(services.database, "bash", "-c", DUMP, "dump", record.backup, timeout_s=exchange.LONG_S)
        record.reached(site, "database")
    if host == services.controller and "state" not in record.done:
        this.doing("copying slurmctld's state")
        folder(site, record, host)
        site.run(host, "systemctl", "stop", "slurmctld")
        site.run(host, "bash", "-c", COPY, "copy", record.backup, timeout_s=exchange.LONG_S)
        record.reached(site, "state")


def folder(site: Site, record: Record, host: str) -> None:
    """The folder of this backup on `host`, for root alone, with a note of what was there."""
    script = (
        'umask 077; mkdir -p "$1"; dpkg-query -W slurm-wlm-basic-plugins mariadb-server >"$1/versions" || :'
    )
    site.run(host, "sh", "-c", script, "folder", record.backup)


def roll(site: Site, host: str, release: str, this: Step) -> None:
    """One login or compute node. A node takes no new job meanwhile; those that run there go on."""
    node = host in site.cluster.nodes
    found = retire.nodes_of(site).get(host) if node else None
    ours = node and (not found or not found.drained or found.reason == REASON)
    if ours:
        retire.control(site, "update", f"NodeName={host}", "State=DRAIN", f"Reason={REASON}")
    exchange.packages(site, [host], this)
    exchange.check(site, host, release, this)
    if node:
        exchange.usable(site, host, release, this)
        this.did(f"Slurm {release}")
    if ours:
        retire.control(site, "update", f"NodeName={host}", "State=RESUME")
