"""Packages of Slurm exchanged, and a machine looked at before the next: what upgrade and downgrade have in common."""

from dataclasses import dataclass

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.model import slurmrelease
from infra.model.shape import parts
from infra.places.site import applied, retire
from infra.places.site.play import play
from infra.places.site.release import Record
from infra.places.site.site import Site
from infra.places.site.steps import variables

BACKUPS = "/var/backups/slipway"  # on the machines of the database and of the controller


BACK_REASON = "slipway: goes back to an older Slurm"


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


@dataclass(frozen=True)
class Found:
    """What one machine has: version of the packages, and daemons that do not run as installed."""

    version: str
    wrong: dict[str, str]

    def is_(self, release: str) -> bool:
        return slurmrelease.of(self.version) == release and not self.wrong


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


def packages(site: Site, hosts: list[str], this: Step) -> None:
    """Have Ansible exchange Slurm's packages on `hosts`, configure and start it."""
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
    patience(site, 0)
    retire.resume(site, list(site.cluster.nodes))  # also those that a run drained which was interrupted then
    record.suite, record.version = slurmrelease.suite(site.cluster), version
    record.to, record.back, record.done = None, False, []
    record.save(site)
    if (site.folder / "applied.json").is_file():
        applied.save(site)
