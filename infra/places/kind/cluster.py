"""The kind cluster of one cluster file: its names, its containers, its API server."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.base import paths, process
from infra.base.errors import Failure
from infra.base.progress import Step
from infra.host import engine
from infra.images import programs
from infra.model.cluster import Cluster
from infra.places import owner

if TYPE_CHECKING:
    from infra.places.kind.api import Api

LABEL = "io.x-k8s.kind.cluster"  # kind puts it on every container that it makes


@dataclass(frozen=True)
class Container:
    """A node of the cluster as the engine sees it."""

    name: str
    state: str  # running, exited, created ...
    started: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """Everything that is named after one cluster."""

    cluster: Cluster

    @property
    def name(self) -> str:
        """kind's own name for it, which every container's begins with."""
        return f"slipway-{self.cluster.name}"

    @property
    def folder(self) -> Path:
        return paths.build(self.cluster.name)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def manifests(self) -> Path:
        """What is applied to it: a folder for kustomize."""
        return self.folder / "kubernetes"

    @property
    def runs(self) -> Path:
        """The run folders of its jobs, on this machine."""
        return self.folder / "shared" / "runs"

    @property
    def network(self) -> str:
        return f"{self.name}-kind"

    @property
    def control_plane(self) -> str:
        return f"{self.name}-control-plane"

    @property
    def workers(self) -> dict[str, str]:
        """Name in the cluster file -> container, which is the Kubernetes node's name as well."""
        numbers = ["", *(str(i) for i in range(2, len(self.cluster.nodes) + 1))]
        return {
            node: f"{self.name}-worker{number}"
            for node, number in zip(self.cluster.nodes, numbers, strict=False)
        }

    def called(self, container: str) -> str:
        """What people call a node: c2 for slipway-kind-worker2."""
        names = {worker: node for node, worker in self.workers.items()} | {
            self.control_plane: "control-plane"
        }
        return names.get(container, container)

    def containers(self) -> list[Container]:
        """Every container of the cluster, running or not, in the order of their names."""
        return [_container(facts) for facts in engine.containers(f"{LABEL}={self.name}")]

    def networks(self) -> list[str]:
        """The cluster's network, when it is there."""
        return [self.network for facts in engine.networks() if facts["Name"] == self.network]

    def kubectl(self, *words: str | Path) -> str:
        """What `kubectl WORDS` prints. Raises Failure with its last line of error."""
        return process.output([kubectl(), *words], env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig)}

    @property
    def api(self) -> "Api":
        """Its API server. Raises Unanswered when there is no kubeconfig to reach it by."""
        from infra.places.kind.api import connect  # here: it takes longer than all else, and `env` needs none

        return connect(self.kubeconfig)

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.kubeconfig.is_file() and self.api.ready()

    def require_up(self) -> None:
        """Raise Failure unless the API server answers."""
        if self.containers() and self.answers():
            return
        raise Failure(
            f"cluster '{self.cluster.name}' is not up; run: make cluster-up CLUSTER={self.cluster.file}"
        )

    def create(self, image: str, this: Step) -> None:
        """Make the cluster by kind; whatever is there of an earlier one goes first.

        Raises Failure with kind's last line and the log's path.
        """
        self.delete()
        self._network()
        log = self.folder / "logs" / "kind.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        words = [programs.folder("kind") / "kind", "create", "cluster", "--retain", "--name", self.name]
        words += ["--image", image, "--config", self.folder / "kind.yaml", "--kubeconfig", self.kubeconfig]
        with log.open("w") as file:
            process_ = process.start(
                [str(word) for word in words],
                env={"KIND_EXPERIMENTAL_DOCKER_NETWORK": self.network},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                while process_.poll() is None:
                    this.doing(_doing(log.read_text(errors="replace")))
                    time.sleep(0.3)
            finally:
                if process_.poll() is None:
                    process_.terminate()
                    process_.wait()
        if process_.returncode:
            raise Failure(f"kind could not make the cluster: {_why(log)}\n  log: {log}")
        self.kubeconfig.chmod(0o600)

    def _network(self) -> None:
        """A network of the cluster's own, with the MTU of this host's link; kind takes one that is there."""
        assert self.cluster.host, "a lab is on this machine"
        mtu = {"com.docker.network.driver.mtu": str(self.cluster.host.mtu)}
        if not self.networks():
            # kind labels its containers with the cluster alone; the network says whose that is
            engine.make_network(self.network, {LABEL: self.name, **owner.labels()}, mtu)

    def delete(self) -> tuple[int, int]:
        """Remove containers with their volumes, network and kubeconfig; how many containers and networks.

        By the engine alone: what kind would do as well, and this needs no kind, which may not be built.
        """
        containers = [container.name for container in self.containers()]
        for name in containers:
            engine.remove_container(name)
        networks = self.networks()
        for network in networks:
            engine.remove("network", network)
        self.kubeconfig.unlink(missing_ok=True)
        return len(containers), len(networks)


def kubectl() -> Path:
    """The kubectl that was built with the cluster's own Kubernetes."""
    return programs.folder("kubernetes") / "kubectl"


def _container(facts: dict[str, Any]) -> Container:
    networks = facts["NetworkSettings"]["Networks"].values()
    return Container(
        name=facts["Name"].lstrip("/"),
        state=facts["State"]["Status"],
        started=facts["State"]["StartedAt"],
        addresses=tuple(network["IPAddress"] for network in networks if network["IPAddress"]),
    )


def _doing(log: str) -> str:
    """The last thing that kind says it does, without its ornaments."""
    said = [line for line in log.splitlines() if line.lstrip().startswith(("•", "✓", "✗"))]
    return said[-1].strip(" •✓✗.").encode("ascii", "ignore").decode().strip().lower() if said else "by kind"


def _why(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("ERROR", "[ERROR", "error:"))]
    return (told or lines or ["it said nothing"])[-1]
