"""Kubernetes in containers of this machine, which kind starts."""

from typing import Any

from infra.base.progress import step
from infra.model.cluster import Cluster
from infra.places.kind.cluster import Kind
from infra.places.verbs import KUBERNETES_JOB, Place


class KindPlace(Place):
    what = "a cluster of kind"
    scheduler = "kubernetes"
    job = KUBERNETES_JOB

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.kind = Kind(cluster)

    def up(self, job: str, *, requeue: bool) -> None:
        from infra.places.kind.up import up

        up(self.cluster, self.own(job))

    def down(self, *, purge: bool) -> None:
        from infra.places.kind.down import down

        down(self.kind, purge=purge)

    def state(self) -> dict[str, Any]:
        from infra.places.kind.look import collect

        return collect(self.kind)

    def show(self, state: dict[str, Any]) -> None:
        from infra.places.kind.look import show

        show(self.kind, state)

    def logs(self, node: str, *, follow: bool) -> None:
        from infra.places.kind.look import logs

        logs(self.kind, node, follow=follow)

    def shell(self, node: str) -> None:
        from infra.places.kind.look import shell

        shell(self.kind, node)

    def env(self) -> dict[str, str]:
        return {"SLIPWAY_CLUSTER": self.cluster.name, "KUBECONFIG": str(self.kind.kubeconfig)}

    def verify(self) -> None:
        from infra.places.kind.verify import verify

        self.kind.require_up()
        with step("verify") as this:
            verify(self.kind, this)
