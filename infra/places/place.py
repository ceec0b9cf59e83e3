"""Where a cluster runs, as one object with the verbs: `of(cluster).up(...)`."""

from typing import Any

from infra.model.cluster import Cluster
from infra.places.verbs import JOB, Place


def of(cluster: Cluster) -> Place:
    """The place of `cluster`; only its own modules are imported."""
    if not cluster.where.lab:
        from infra.places.site.place import SitePlace

        return SitePlace(cluster)
    parts: list[Place] = []
    if "slurm" in cluster.schedulers:
        from infra.places.lab.place import LabPlace

        parts.append(LabPlace(cluster))
    if "kubernetes" in cluster.schedulers:
        from infra.places.kind.place import KindPlace

        parts.append(KindPlace(cluster))
    return parts[0] if len(parts) == 1 else Both(cluster, parts)


class Both(Place):
    """Slurm and Kubernetes side by side, from one cluster file. Where only one can be meant, Slurm's is first."""

    what = "a lab"

    def __init__(self, cluster: Cluster, parts: list[Place]) -> None:
        super().__init__(cluster)
        self.parts = {part.scheduler: part for part in parts}

    def up(self, job: str, *, requeue: bool) -> None:
        """`job` goes to the scheduler whose file it is; the other proves itself with its own default."""
        for part in self.parts.values():
            part.up(job if job in ("", JOB) or part.takes(job) else "", requeue=requeue)

    def down(self, *, purge: bool) -> None:
        for part in reversed(list(self.parts.values())):
            part.down(purge=purge)

    def state(self) -> dict[str, Any]:
        return {scheduler: part.state() for scheduler, part in self.parts.items()}

    def show(self, state: dict[str, Any]) -> None:
        for scheduler, part in self.parts.items():
            print(scheduler.capitalize())
            part.show(state[scheduler])
            print()

    def well(self, state: dict[str, Any]) -> bool:
        return all(part.well(state[scheduler]) for scheduler, part in self.parts.items())

    def logs(self, node: str, *, follow: bool) -> None:
        self._owner(node).logs(node, follow=follow)

    def shell(self, node: str) -> None:
        self._owner(node).shell(node)

    def env(self) -> dict[str, str]:
        return {name: value for part in self.parts.values() for name, value in part.env().items()}

    def verify(self) -> None:
        for part in self.parts.values():
            part.verify()

    def rotate(self) -> None:
        self._owner("").rotate()

    def _owner(self, node: str) -> Place:
        *first, last = self.parts.values()
        return next((part for part in first if not node or part.has(node)), last)
