"""Which Slurm a cluster runs, which its file asks for, and how far an exchange has come.

build/<cluster>/slurm.json says from which suite Slurm comes and what a run that was interrupted had reached.
"""

import json
from dataclasses import asdict, dataclass, field, replace

from infra.base import files
from infra.base.errors import Failure
from infra.base.progress import console
from infra.model import slurmrelease
from infra.model.cluster import Cluster
from infra.places.site.site import Site


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
        if found := files.noted(site.folder / "slurm.json", cls):
            return found
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
        console.print(f"  slurm      stays as it is: {line}")
    return as_running(cluster, record.suite)


def running(cluster: Cluster) -> tuple[Cluster, list[str]]:
    """For `make plan`: the cluster as it runs, and what `make upgrade` would change."""
    site = Site(cluster)
    return as_running(cluster, Record.load(site).suite), pending(site)


def as_running(cluster: Cluster, suite: str) -> Cluster:
    """`cluster` with Slurm from `suite`."""
    if suite == slurmrelease.suite(cluster):
        return cluster
    named = None if suite == slurmrelease.own(cluster) else suite
    software = cluster.spec.software.model_copy(update={"slurm_suite": named})
    return replace(cluster, spec=cluster.spec.model_copy(update={"software": software}))
