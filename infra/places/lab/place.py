"""A lab: Slurm in containers of this machine, which Compose starts."""

from typing import Any

from infra.places.verbs import Place


class LabPlace(Place):
    what = "a lab"
    scheduler = "slurm"

    def up(self, job: str, *, requeue: bool) -> None:
        from infra.places.lab.up import up

        up(self.cluster, self.own(job))

    def down(self, *, purge: bool) -> None:
        from infra.places.lab.down import down

        down(self.cluster, purge=purge)

    def state(self) -> dict[str, Any]:
        from infra.places.lab.status import collect, project

        return collect(project(self.cluster))

    def show(self, state: dict[str, Any]) -> None:
        from infra.places.lab.status import show

        show(state)

    def logs(self, node: str, *, follow: bool) -> None:
        from infra.places.lab.look import logs

        logs(self.cluster, node, follow=follow)

    def shell(self, node: str) -> None:
        from infra.places.lab.look import shell

        shell(self.cluster, node)

    def env(self) -> dict[str, str]:
        return {"SLIPWAY_CLUSTER": self.cluster.name, "SLIPWAY_USER": self.cluster.user}

    def verify(self) -> None:
        from infra.places.lab.look import verify

        verify(self.cluster)

    def has(self, node: str) -> bool:
        return node in {*self.cluster.nodes, *self.cluster.service_hosts}

    def rotate(self) -> None:
        from infra.places.lab.rotate import rotate

        rotate(self.cluster)
