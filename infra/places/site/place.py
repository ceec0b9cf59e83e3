"""Machines of their own, which Pulumi makes and Ansible configures: on this host, in a cloud, or metal."""

from typing import Any

from infra.base.progress import step
from infra.places.verbs import Place


class SitePlace(Place):
    what = "machines"
    scheduler = "slurm"
    rows = "machines"

    def up(self, job: str, *, requeue: bool) -> None:
        from infra.places.site.up import up

        up(self.cluster, self.own(job), requeue=requeue)

    def down(self, *, purge: bool) -> None:
        from infra.places.site.down import down

        down(self.cluster, purge=purge)

    def state(self) -> dict[str, Any]:
        from infra.places.site.look import collect
        from infra.places.site.site import Site

        return collect(Site(self.cluster))

    def show(self, state: dict[str, Any]) -> None:
        from infra.places.site.look import show

        show(state)

    def logs(self, node: str, *, follow: bool) -> None:
        from infra.places.site.look import logs

        logs(self.cluster, node, follow=follow)

    def shell(self, node: str) -> None:
        from infra.places.site.look import shell

        shell(self.cluster, node)

    def env(self) -> dict[str, str]:
        return {
            "SLIPWAY_CLUSTER": self.cluster.name,
            "SLIPWAY_CLUSTER_FILE": self.cluster.file,
            "SLIPWAY_USER": self.cluster.user,
            "SLIPWAY_LOGIN": self.cluster.login[0],
        }

    def verify(self) -> None:
        from infra.proof import verify

        with step("verify") as this:
            verify.run(self.cluster, this)

    def rotate(self) -> None:
        from infra.places.site.rotate import rotate

        rotate(self.cluster)

    def plan(self, *, as_json: bool) -> int:
        from infra.places.site.plan import plan

        return plan(self.cluster, as_json=as_json)

    def copy(self) -> None:
        from infra.places.site import copy
        from infra.places.site.site import Site

        copy.push(Site(self.cluster))

    def replace(self, node: str, *, requeue: bool) -> None:
        from infra.places.site.replace import machine

        machine(self.cluster, node, requeue=requeue)

    def upgrade(self, *, back: bool, requeue: bool) -> None:
        from infra.places.site.upgrade import upgrade

        upgrade(self.cluster, back=back, requeue=requeue)
