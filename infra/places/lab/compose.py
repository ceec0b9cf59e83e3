"""The Docker Compose project of one lab cluster, and the machines (containers) in it."""

import contextlib
import json
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.base import paths, process
from infra.base.errors import Failure
from infra.base.wait import settled
from infra.host import engine
from infra.model import nodestate

SERVICES = ("db", "slurmdbd", "slurmctld", "login")  # of compose.yaml, before the nodes
ANSWER_S = 20  # for slurmctld to say what its nodes are
# util-linux has it wherever Debian's and Ubuntu's Docker is: the child gets SIGTERM when its parent is gone.
TOGETHER = ("setpriv", "--pdeathsig", "TERM")


@dataclass(frozen=True)
class Node:
    """A running or stopped container: `health` is empty when it does not run."""

    name: str
    container: str
    state: str
    health: str
    started: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Project:
    """The Compose project of the cluster called `cluster`. Volumes and networks carry its label."""

    cluster: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", paths.build(self.cluster))

    @property
    def name(self) -> str:
        return f"slipway-{self.cluster}"

    @property
    def label(self) -> str:
        """What Compose puts on everything of the project."""
        return f"com.docker.compose.project={self.name}"

    def compose(self, *words: str, log: Path) -> None:
        """Run `docker compose` on this project, with its output in `log`; it ends when this process does.

        A run that is killed must not leave one behind that goes on making what the next command removes.
        """
        command: list[str | Path] = [
            "docker",
            "compose",
            "--project-directory",
            self.folder,
            "--progress",
            "plain",
            *words,
        ]
        self.end_left()
        together = list(TOGETHER) if shutil.which(TOGETHER[0]) else []
        try:
            process.logged([*together, *command], log)
        except Failure as failure:
            raise Failure(str(failure).replace(f"{TOGETHER[0]} failed", "docker compose failed", 1)) from None

    def end_left(self) -> None:
        """End the `docker compose` of a run that was killed, which takes its time to go by itself.

        Who calls holds the cluster, so that there is no other.
        """
        settled(lambda: "Compose" if self._kill_left() else "", 30, every_s=0.1)

    def _kill_left(self) -> bool:
        """SIGKILL to every process that is Compose on this project; whether there was one."""
        found = False
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended since, or is another user's
                words = file.read_bytes().split(b"\0")
                if b"--project-directory" in words and str(self.folder).encode() in words:
                    os.kill(int(file.parent.name), signal.SIGKILL)
                    found = True
        return found

    def containers(self) -> list[Node]:
        """Every container of the project, running or not, in the order of their names."""
        return [_node(facts) for facts in engine.containers(self.label)]

    def network(self) -> dict[str, Any] | None:
        """The project's network, when it is there."""
        return next(iter(engine.networks(self.label)), None)

    def leftovers(self, kind: Literal["network", "volume"]) -> list[str]:
        """Names of what Docker still has of this project."""
        return engine.names(kind, self.label)

    @property
    def login(self) -> str:
        return "login"

    @property
    def workdir(self) -> Path:
        """The nodes see the checkout under the path that it has here."""
        return paths.CHECKOUT

    def fetch(self, id: str) -> Path:
        """The run folder of a job: the nodes write into the checkout itself.

        Where another lab's run has the name, it is the next one that says to be this one's (jobs/telemetry/claim.py).
        """
        runs = paths.CHECKOUT / "runs"
        runs.mkdir(exist_ok=True)
        for folder in (runs / id, *sorted(runs.glob(f"{id}-[0-9]"))):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                claim = json.loads((folder / "claim.json").read_text())
                if (claim["cluster"], claim["job"]) == (self.cluster, id):
                    return folder
        return runs / id

    def container(self, node: str) -> str:
        return f"{self.cluster}-{node}"

    def run(self, node: str, *words: str, user: str = "root", cwd: Path | None = None) -> str:
        """What `words` print on `node`. Raises Failure with the last line of error."""
        where = ["--workdir", str(cwd)] if cwd else []
        return process.output(["docker", "exec", "--user", user, *where, self.container(node), *words])

    def slurm_nodes(self) -> dict[str, nodestate.Node]:
        """What slurmctld says of its nodes. Raises Failure when it does not answer."""
        return nodestate.parse(self.run("slurmctld", "timeout", str(ANSWER_S), *nodestate.ASK))

    def require_up(self) -> None:
        """Raise Failure unless the login node is there and running."""
        for node in self.containers():
            if node.name == "login" and node.state == "running":
                return
        raise Failure(f"cluster '{self.cluster}' is not up; run: make cluster-up")


def _node(facts: dict[str, Any]) -> Node:
    state = facts["State"]
    networks = facts["NetworkSettings"]["Networks"].values()
    return Node(
        name=facts["Config"]["Labels"]["com.docker.compose.service"],
        container=facts["Name"].lstrip("/"),
        state=state["Status"],
        health=state.get("Health", {}).get("Status", "") if state["Running"] else "",
        started=state["StartedAt"],
        addresses=tuple(network["IPAddress"] for network in networks if network["IPAddress"]),
    )
