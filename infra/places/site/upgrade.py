"""`make upgrade`: what a cluster runs on made what its file asks for, machine by machine, while jobs run.

Slurm: the database is dumped and the controller's state copied, then slurmdbd, slurmctld, login and compute nodes
one at a time, each looked at before the next (slurm.schedmd.com/upgrades.html). Going back has its own module,
downgrade.py. The stack: the link of each node to the new folder, or where machines mount their stacks, new machines.

build/<cluster>/slurm.json says from which suite Slurm comes and what a run that was interrupted had reached.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from infra.base import files, lock
from infra.base.errors import Failure, Mistake
from infra.base.progress import Step, console, step
from infra.model import hostlist, slurmrelease
from infra.model.cluster import Cluster
from infra.model.shape import parts
from infra.places.site import retire
from infra.places.site.play import play
from infra.places.site.site import Site

BACKUPS = "/var/backups/slipway"  # on the machines of the database and of the controller
REASON = "slipway: Slurm is upgraded"
BACK_REASON = "slipway: goes back to an older Slurm"
PATIENCE_S = 900  # SlurmdTimeout meanwhile: exchanging packages takes seconds, on a busy disk minutes
AT_ONCE = 32  # connections
LONG_S = 3600.0  # for a dump, a copy or a conversion

# Installed version, and of each daemon whether it is active and runs the program that is on the disk.
LOOK = r"""
dpkg-query -W -f '${Version}\n' slurm-wlm-basic-plugins
for unit in "$@"; do
  pid=$(systemctl show -p MainPID --value "$unit")
  exe=$(readlink "/proc/$pid/exe" 2>/dev/null || :)
  state=$(systemctl is-active "$unit" || :)
  case $state,$exe in active,*deleted*) state=old ;; esac
  echo "$unit $state"
done
"""
DAEMONS = {
    "slurmdbd": ["slurmdbd"],
    "slurmctld": ["slurmctld", "slurmrestd"],
    "login": ["sackd"],
    "compute": ["slurmd"],
}
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


@dataclass
class Record:
    """slurm.json. `to` is None unless a run has begun and not ended; `done` are the steps of it that are."""

    suite: str = ""  # that Slurm is installed from now; before `to` is reached, the one before
    version: str = ""
    backup: str = ""  # folder with what going back needs
    to: str | None = None
    back: bool = False
    done: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, site: Site) -> "Record":
        """What is written; for a cluster without a record, what its controller has, or will have."""
        try:
            return cls(**json.loads((site.folder / "slurm.json").read_text()))
        except (FileNotFoundError, TypeError, ValueError):
            pass
        asked = site.cluster.spec.software.slurm_suite or slurmrelease.own(site.cluster)
        if not site.file.is_file():
            return cls(asked)
        script = "sed -n 's/^Suites: //p' /etc/apt/sources.list.d/slipway-slurm.sources 2>/dev/null || :"
        try:
            return cls(site.run(site.controller, "sh", "-c", script) or slurmrelease.own(site.cluster))
        except Failure:
            return cls(asked)

    def save(self, site: Site) -> None:
        files.put(site.folder / "slurm.json", json.dumps(asdict(self), indent=2) + "\n")

    def reached(self, site: Site, what: str) -> None:
        self.done.append(what)
        self.save(site)


@dataclass(frozen=True)
class Found:
    """What one machine has: version of the packages, and daemons that do not run as installed."""

    version: str
    wrong: dict[str, str]

    def is_(self, release: str) -> bool:
        return slurmrelease.of(self.version) == release and not self.wrong


# -- what others ask


def pending(site: Site) -> list[str]:
    """What `make upgrade` would change, a line each; empty when Slurm is what the cluster file asks for."""
    record = Record.load(site)
    asked = slurmrelease.suite(site.cluster)
    if record.to is not None:
        way = "going back" if record.back else "upgrading"
        return [f"{way} Slurm to {record.to} was interrupted; go on: {command(site, back=record.back)}"]
    if not site.file.is_file() or record.suite == asked:
        return []
    before, after = slurmrelease.SUITES.get(record.suite, "?"), slurmrelease.release(site.cluster)
    back = slurmrelease.newer(before, after)
    return [f"{before} ({record.suite}) -> {after} ({asked}): {command(site, back=back)}"]


def command(site: Site, *, back: bool) -> str:
    return f"make upgrade CLUSTER={site.cluster.file}" + (" BACK=1" if back else "")


def held(cluster: Cluster) -> Cluster:
    """The cluster as it runs: with the Slurm that it has, not the one that its file asks for.

    Everything but `make upgrade` works with this, so that nothing else exchanges Slurm. Raises Failure when an
    upgrade was interrupted, since machines differ then.
    """
    site = Site(cluster)
    record = Record.load(site)
    if record.to is not None:
        raise Failure(f"{cluster.name}: {pending(site)[0]}")
    for line in pending(site):
        console.print(f"  slurm      stays as it is: {line}", markup=False)
    return as_running(cluster, record.suite)


def running(cluster: Cluster) -> tuple[Cluster, list[str]]:
    """For `make plan`: the cluster as it runs, and what `make upgrade` would change."""
    site = Site(cluster)
    return as_running(cluster, Record.load(site).suite), pending(site)


def note(site: Site) -> None:
    """Keep what a new cluster was made with."""
    if not (site.folder / "slurm.json").is_file():
        Record.load(site).save(site)


def as_running(cluster: Cluster, suite: str) -> Cluster:
    """`cluster` with Slurm from `suite`."""
    if suite == slurmrelease.suite(cluster):
        return cluster
    named = None if suite == slurmrelease.own(cluster) else suite
    software = cluster.spec.software.model_copy(update={"slurm_suite": named})
    return replace(cluster, spec=cluster.spec.model_copy(update={"software": software}))


# -- the upgrade


def upgrade(cluster: Cluster, *, back: bool, requeue: bool) -> None:
    """Make Slurm and the stack what the cluster file asks for. `back`: to an older Slurm, which loses records."""
    from infra.places.site import downgrade, rollstack
    from infra.places.site.up import prepare

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
    with lock.held(site.folder / "cluster.lock", f"cluster '{site.name}'"):
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


def order(site: Site) -> list[str]:
    """Every machine with Slurm, in the order in which it is upgraded."""
    services = site.cluster.spec.services
    hosts = [services.accounting, services.controller, *site.cluster.login, *site.cluster.nodes]
    there = {machine.name for machine in site.machines}
    return [host for host in dict.fromkeys(hosts) if host in there]


def look(site: Site, host: str) -> Found:
    """Raises Failure when the machine does not answer."""
    held = parts(site.cluster).get(host, ("compute",))
    units = [unit for part in held for unit in DAEMONS.get(part, [])]
    version, *lines = site.run(host, "bash", "-c", LOOK, "look", *units).splitlines()
    states = dict(line.split() for line in lines)
    return Found(version, {unit: state for unit, state in states.items() if state != "active"})


def _slurm(site: Site, record: Record, before: str, after: str) -> None:
    hosts = order(site)
    with step("check") as this:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = dict(zip(hosts, pool.map(lambda host: look(site, host), hosts), strict=True))
        left = [host for host in hosts if not found[host].is_(after)]
        this.did(f"Slurm {before} -> {after}: {' · '.join(said(site, left)) or 'all done'}")
    if record.to is None:
        version = found[site.controller].version
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        record.to, record.back, record.done = slurmrelease.suite(site.cluster), False, []
        record.backup = f"{BACKUPS}/slurm-{version.split('-')[0]}-{stamp}"
        record.save(site)
    services = site.cluster.spec.services
    for host in (services.accounting, services.controller):
        if host in left:
            left.remove(host)
            with step(host) as this:
                backup(site, record, host, this)
                exchange(site, [host], this)
                check(site, host, after, this)
    if any(host in site.cluster.nodes for host in left):
        patience(site, PATIENCE_S)
    for host in left:
        with step(host) as this:
            roll(site, host, after, this)
    finish(site, record, look(site, site.controller).version)
    console.print(
        f"{site.name}: Slurm {record.version} on {len(hosts)} machines."
        f" What going back needs: {record.backup} on {services.controller}",
        markup=False,
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
        site.run(services.database, "bash", "-c", DUMP, "dump", record.backup, timeout_s=LONG_S)
        record.reached(site, "database")
    if host == services.controller and "state" not in record.done:
        this.doing("copying slurmctld's state")
        folder(site, record, host)
        site.run(host, "systemctl", "stop", "slurmctld")
        site.run(host, "bash", "-c", COPY, "copy", record.backup, timeout_s=LONG_S)
        record.reached(site, "state")


def folder(site: Site, record: Record, host: str) -> None:
    """The folder of this backup on `host`, for root alone, with a note of what was there."""
    script = (
        'umask 077; mkdir -p "$1"; dpkg-query -W slurm-wlm-basic-plugins mariadb-server >"$1/versions" || :'
    )
    site.run(host, "sh", "-c", script, "folder", record.backup)


def exchange(site: Site, hosts: list[str], this: Step) -> None:
    """Have Ansible exchange Slurm's packages on `hosts`, configure and start it."""
    from infra.places.site.up import variables

    played = play(site, this, book="upgrade.yml", limit=hosts, variables=variables(site))
    if played.broken:
        host, why = next(iter(played.broken.items()))
        raise Failure(
            f"{host}: {why}\n  log: {site.folder / 'logs' / 'ansible.log'}; to go on, run the same command again"
        )


def check(site: Site, host: str, release: str, this: Step) -> None:
    """Raise Failure unless every daemon of `host` runs with `release`, and answers."""
    held = parts(site.cluster).get(host, ("compute",))
    found = look(site, host)
    if not found.is_(release):
        wrong = ", ".join(f"{unit} is {state}" for unit, state in found.wrong.items())
        raise Failure(
            f"{host} has Slurm {found.version}{': ' + wrong if wrong else ''};"
            f" see: make logs CLUSTER={site.cluster.file} NODE={host}; then the same command again"
        )
    if "slurmctld" in held:
        answers(site, this)
    this.did(f"Slurm {found.version}")


def answers(site: Site, this: Step) -> None:
    """Wait until slurmctld answers, and slurmdbd through it: it converts its tables before."""
    this.doing("waiting for slurmdbd and slurmctld")
    script = (
        "for i in $(seq 600); do scontrol ping | grep -q UP && sacctmgr -n ping | grep -q UP && exit 0;"
        " sleep 1; done; exit 1"
    )
    site.run(site.controller, "sh", "-c", script, timeout_s=LONG_S)


def roll(site: Site, host: str, release: str, this: Step) -> None:
    """One login or compute node. A node takes no new job meanwhile; those that run there go on."""
    node = host in site.cluster.nodes
    state = retire.states(site).get(host, "") if node else ""
    ours = node and (not state.startswith("DRAIN") or retire.reasons(site).get(host) == REASON)
    if ours:
        retire.control(site, "update", f"NodeName={host}", "State=DRAIN", f"Reason={REASON}")
    exchange(site, [host], this)
    check(site, host, release, this)
    if node:
        usable(site, host, release, this)
        this.did(f"Slurm {release}")
    if ours:
        retire.control(site, "update", f"NodeName={host}", "State=RESUME")


def usable(site: Site, host: str, release: str, this: Step) -> None:
    """Wait until slurmctld has heard from the node's new slurmd."""
    this.doing(f"waiting until Slurm hears from {host}")
    script = (
        'for i in $(seq 240); do n=$(scontrol -o show node "$1"); case $n in *" State=DOWN"*|*NOT_RESPONDING*) ;;'
        ' *" Version=$2"*) exit 0 ;; esac; sleep 1; done; echo "$n" >&2; exit 1'
    )
    site.run(site.controller, "sh", "-c", script, "usable", host, release, timeout_s=LONG_S)


def patience(site: Site, seconds: int) -> None:
    """How long slurmctld waits for a silent node before it takes its jobs for lost; 0: as rendered."""
    conf = (site.folder / "slurm" / "slurm.conf").read_text()
    if seconds:
        lines = conf.splitlines()
        conf = "".join(
            f"SlurmdTimeout={seconds}\n" if line.startswith("SlurmdTimeout=") else f"{line}\n"
            for line in lines
        )
    script = "cat >/etc/slurm/slurm.conf.part && cat /etc/slurm/slurm.conf.part >/etc/slurm/slurm.conf"
    script += " && rm /etc/slurm/slurm.conf.part && scontrol reconfigure"
    site.run(site.controller, "sh", "-c", script, stdin=conf.encode())


def finish(site: Site, record: Record, version: str) -> None:
    """Everything as rendered again, nodes that we drained back at work, and all of it noted as applied."""
    from infra.places.site import applied

    patience(site, 0)
    retire.resume(site, list(site.cluster.nodes))  # also those that a run drained which was interrupted then
    record.suite, record.version = slurmrelease.suite(site.cluster), version
    record.to, record.back, record.done = None, False, []
    record.save(site)
    if (site.folder / "applied.json").is_file():
        applied.save(site)
