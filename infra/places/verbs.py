"""What can be done with a cluster, wherever it runs. A place says what it does, and why it cannot do the rest."""

import shlex
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.base.errors import Mistake

if TYPE_CHECKING:
    from infra.model.cluster import Cluster, Scheduler

LAB = "clusters/lab.yaml"  # the cluster that is meant when nobody names one
JOB = "jobs/ddp.sbatch"  # what proves a cluster when nobody names a job
KUBERNETES_JOB = "k8s/pytorchjob.yaml"  # the same job for Kubernetes


def next_line(file: str, *commands: str) -> str:
    """What `cluster-up` ends with: how one's shell gets to the cluster of `file`, and what to type there."""
    cluster = "" if file == LAB else f" CLUSTER={shlex.quote(file)}"
    return "   ".join([f'Next:  eval "$(make env{cluster})"     then', *commands])


class Place(ABC):
    """One cluster where it runs. `places/<kind of place>/place.py` has each; all raise Mistake and Failure."""

    what: ClassVar[str]  # of which it is made, for messages
    scheduler: "ClassVar[Scheduler]"
    job: ClassVar[str] = JOB
    rows: ClassVar[str] = "nodes"  # of `state`: what each must be well

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster

    def takes(self, job: str) -> bool:
        """Whether the file `job` is for the scheduler of this place."""
        return (Path(job).suffix in (".yaml", ".yml")) == (self.scheduler == "kubernetes")

    def own(self, job: str) -> str:
        """`job`, or what proves this place when that is the default. Raises Mistake for another scheduler's."""
        if not job:
            return ""
        if job == JOB:
            return self.job
        if not self.takes(job):
            raise Mistake(
                f"JOB={job}: cluster '{self.cluster.name}' has {self.scheduler.capitalize()} only;"
                f" write such as JOB={self.job}"
            )
        return job

    @abstractmethod
    def up(self, job: str, *, requeue: bool) -> None:
        """Start what is missing, check it, and run the job file `job` on it once ('' for none)."""

    @abstractmethod
    def down(self, *, purge: bool) -> None:
        """Remove it; with `purge` its data, too."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Nodes, jobs and disk as plain values."""

    @abstractmethod
    def show(self, state: dict[str, Any]) -> None:
        """Print what `state` found for people."""

    def well(self, state: dict[str, Any]) -> bool:
        """Whether there is something of the cluster, and all of it runs as it should."""
        there = state[self.rows]
        return bool(there) and all(each["ok"] for each in there)

    @abstractmethod
    def logs(self, node: str, *, follow: bool) -> None:
        """Print the journal of `node`, or of all ('')."""

    @abstractmethod
    def shell(self, node: str) -> None:
        """Become a shell on `node`, or where a user works ('')."""

    @abstractmethod
    def env(self) -> dict[str, str]:
        """Variables that point bin/ at the cluster."""

    @abstractmethod
    def verify(self) -> None:
        """Check every node. Raises Failure with what is wrong."""

    def has(self, node: str) -> bool:
        """Whether a node, job or service of this name may be here; only asked where a cluster is in two places."""
        return True

    def rotate(self) -> None:
        """New secrets, and everything that uses them restarted."""
        self._refuse(
            "rotate-secrets", "its keys are made with it: run make cluster-down, then make cluster-up"
        )

    def plan(self, *, as_json: bool) -> int:
        """Say what `up` would change; 0 nothing, 1 something."""
        return self._refuse("plan", "it is made anew; see: make status")

    def copy(self) -> None:
        """Bring the user's copy of the checkout up to date."""
        self._refuse("copy", "it sees this checkout itself, there is nothing to copy")

    def replace(self, node: str, *, requeue: bool) -> None:
        """Put a new machine in the place of one that is broken."""
        self._refuse("replace", "make cluster-up makes it anew; this is for machines")

    def upgrade(self, *, back: bool, requeue: bool) -> None:
        """Slurm and stack as the cluster file asks, while jobs run."""
        self._refuse("upgrade", "make cluster-up makes it anew; this is for machines")

    def _refuse(self, verb: str, why: str) -> int:
        raise Mistake(f"{self.cluster.file}: {verb} is not for {self.what}: {why}")
