"""Back to the Slurm from before an upgrade: jobs out, accounting and state as they were then, older packages.

What the newer slurmdbd has written cannot be read by the older one, so that accounting is restored from the dump of
the exchange. Records made since are kept beside it as text: accounting.txt (sacct), queue.txt and the scripts of jobs.
"""

from infra.base.errors import Failure
from infra.base.progress import Step, console, step
from infra.model import hostlist, slurmrelease
from infra.places.site import exchange, retire
from infra.places.site.exchange import BACK_REASON, BACKUPS, LONG_S, finish, look, order
from infra.places.site.release import Record
from infra.places.site.site import Site

# Records since the upgrade, and the jobs that wait with their scripts. `sacct` prints one line a job and step.
EXPORT = r"""
set -eu
umask 077
mkdir -p "$1/since"
cd "$1/since"
start=$(date -d "@$(stat -c %Y "$1/state.tar.gz")" +%Y-%m-%dT%H:%M:%S)
sacct --allusers --parsable2 --duplicates --starttime "$start" --format=ALL >accounting.part
head -n 1 accounting.part | grep -q JobID
mv accounting.part accounting.txt
squeue --noheader --format='%A %u %T %j' >queue.txt
cut -d' ' -f1 queue.txt | while read -r id; do
  scontrol write batch_script "$id" "job-$id.sh" >/dev/null 2>&1 || :
done
"""
# Of these units, those that the machine has.
STOP = """
there=$(systemctl list-unit-files --no-legend "$@" | cut -d' ' -f1)
[ -z "$there" ] || systemctl stop $there
"""
RESTORE_DATABASE = """
set -eu
gzip -t "$1/database.sql.gz"
mariadb -e 'DROP DATABASE IF EXISTS slurm_acct_db; CREATE DATABASE slurm_acct_db'
gzip -dc "$1/database.sql.gz" | mariadb slurm_acct_db
"""
RESTORE_STATE = """
set -eu
gzip -t "$1/state.tar.gz"
find /var/spool/slurmctld -mindepth 1 -delete
tar -C /var/spool/slurmctld -xzf "$1/state.tar.gz"
"""
# The older slurmctld knows the queue of then. Jobs that have ended since must not run again; the others start anew.
# No slurmd runs yet, so that none has been started.
QUEUE = """
set -eu
wait=$(cut -d' ' -f1 "$1/since/queue.txt")
squeue --noheader --format='%A %T' | while read -r id state; do
  if ! printf '%s\n' "$wait" | grep -qx "$id"; then scancel "$id"
  elif [ "$state" != PENDING ]; then scontrol requeue "$id"; fi
done
known=$(squeue --noheader --format=%A)
for id in $wait; do printf '%s\n' "$known" | grep -qx "$id" || echo "$id"; done >"$1/since/lost.txt"
"""


def slurm(site: Site, record: Record, before: str, after: str, *, requeue: bool) -> None:
    """Everything that is done is noted; a second run goes on behind it."""
    hosts = order(site)
    services = site.cluster.spec.services
    if record.to is None:
        with step("check") as this:
            record.backup = record.backup or _backup(site, after)
            for host in hosts:
                look(site, host)
            for host, name in ((services.database, "database.sql.gz"), (services.controller, "state.tar.gz")):
                site.run(host, "gzip", "-t", f"{record.backup}/{name}", timeout_s=LONG_S)
            this.did(f"Slurm {before} -> {after}, with {record.backup}")
        record.to, record.back, record.done = slurmrelease.suite(site.cluster), True, []
        record.save(site)
    if "jobs" not in record.done:
        with step("drain") as this:
            _empty(site, this, requeue=requeue)
            record.reached(site, "jobs")
    if "export" not in record.done:
        with step("export") as this:
            site.run(services.controller, "bash", "-c", EXPORT, "export", record.backup, timeout_s=LONG_S)
            record.reached(site, "export")
            this.did(f"records since the upgrade: {record.backup}/since")
    if "restored" not in record.done:
        with step("restore") as this:
            _restore(site, record, hosts, this)
    first = list(dict.fromkeys((services.accounting, services.controller)))
    for host in first:
        if f"installed {host}" not in record.done:
            with step(host) as this:
                exchange.packages(site, [host], this)
                exchange.check(site, host, after, this)
                record.reached(site, f"installed {host}")
    if "queue" not in record.done:
        with step("queue") as this:
            script = ("bash", "-c", QUEUE, "queue", record.backup)
            site.run(services.controller, *script, timeout_s=LONG_S)
            record.reached(site, "queue")
            this.did("as it was, without what has ended since")
    others = [host for host in hosts if host not in first]
    if others:
        with step("nodes") as this:
            exchange.packages(site, others, this)
            for host in others:
                exchange.check(site, host, after, this)
                if host in site.cluster.nodes:
                    exchange.usable(site, host, after, this)
            this.did(f"Slurm {after} on {hostlist.compress(tuple(others))}")
    backup = record.backup
    lost = site.run(services.controller, "cat", f"{backup}/since/lost.txt").split()
    finish(site, record, look(site, services.controller).version)
    record.backup = ""  # it has served; the next upgrade makes its own
    record.save(site)
    console.print(
        f"{site.name}: Slurm {record.version} on {len(hosts)} machines; accounting is that of the exchange.\n"
        f"  Records made since are text in {backup}/since on {services.controller}"
        + (f"; submit again from there what the older queue does not know: {', '.join(lost)}" if lost else "")
    )


def _backup(site: Site, release: str) -> str:
    """The newest copy from when the cluster ran `release`."""
    script = f'ls -1d {BACKUPS}/slurm-"$1".*/ 2>/dev/null | tail -n 1'
    found = site.run(site.controller, "sh", "-c", script, "backup", release).rstrip("/")
    if not found:
        raise Failure(f"no copy of accounting from Slurm {release} in {BACKUPS} on {site.controller}")
    return found


def _empty(site: Site, this: Step, *, requeue: bool) -> None:
    known = retire.nodes_of(site)
    nodes = [node for node in site.cluster.nodes if node in known]
    moved = retire.drain(site, nodes, this, requeue=requeue, reason=BACK_REASON)
    this.did(f"{hostlist.compress(tuple(nodes))} empty" + (f", {moved} jobs requeued" if moved else ""))


def _restore(site: Site, record: Record, hosts: list[str], this: Step) -> None:
    """With all of Slurm stopped: the database and slurmctld's state as they were."""
    services = site.cluster.spec.services
    this.doing("stopping Slurm")
    units = [f"{unit}.service" for units in exchange.DAEMONS.values() for unit in units]
    for host in reversed(hosts):
        site.run(host, "sh", "-c", STOP, "stop", *units, timeout_s=LONG_S)
    this.doing("restoring the database")
    backup = record.backup
    site.run(services.database, "bash", "-c", RESTORE_DATABASE, "restore", backup, timeout_s=LONG_S)
    this.doing("restoring slurmctld's state")
    site.run(services.controller, "bash", "-c", RESTORE_STATE, "restore", backup, timeout_s=LONG_S)
    record.reached(site, "restored")
    this.did("accounting and queue of the time of the upgrade")
