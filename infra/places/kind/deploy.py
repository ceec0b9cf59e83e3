"""Put everything of k8s/ into the cluster, each part when what it needs is there.

Namespaces and definitions of resources, then operators and all else, then what operators' webhooks look at:
queues. Applying it again changes nothing.
"""

import contextlib
import shutil
from pathlib import Path

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.base.wait import settled
from infra.images import programs
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import holds, name, stuck
from infra.places.kind.manifests import Manifest, built
from infra.places.kind.objects import (
    DAEMON_SETS,
    DEFINITIONS,
    DEPLOYMENTS,
    PODS,
    NotYet,
    Object,
    Refused,
    Unanswered,
)
from infra.places.kind.view import View

TIMEOUT_S = 300  # for everything to be available; 30 s here when images are on the nodes
FIRST = ("CustomResourceDefinition", "Namespace", "PriorityClass")
UPSTREAM = ("training-operator", "kueue")  # programs whose modules have manifests that ours build on
WEBHOOKS_S = 90  # a webhook answers some seconds after its operator is available


def deploy(kind: Kind, this: Step) -> list[str]:
    """Apply build/<cluster>/kubernetes and wait until all of it works. Raises Failure with what does not.

    Returns the names of all services, for `missing`.
    """
    this.doing("namespaces and resource definitions")
    copy_upstream(kind.manifests)
    first, rest = stages(_built(kind, kind.manifests))
    kind.api.apply(first)
    with View(kind.api, DEFINITIONS) as seen:
        seen.until(lambda: ", ".join(undefined(seen.of(DEFINITIONS))), 60, what="definitions")
    this.doing("operators")
    _apply(kind, rest, "k8s/")
    wait_available(kind, this)
    this.doing("queues")
    _apply(kind, _built(kind, kind.manifests / "queues"), "queues")
    deployed = workloads(kind)
    shown = [name(each) for each in deployed if each["kind"] == "Deployment" and name(each) != "coredns"]
    this.did(" · ".join(shown))
    return [_full(each) for each in deployed]


def stages(manifests: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """What others need to be applied, and those."""
    return (
        [each for each in manifests if each.resource.name in FIRST],
        [each for each in manifests if each.resource.name not in FIRST],
    )


def undefined(definitions: list[Object]) -> list[str]:
    """Those of which the API server does not serve objects yet."""
    return [name(each) for each in definitions if not holds(each, "Established")]


def missing(kind: Kind, services: list[str]) -> list[str]:
    """Which of the services that were deployed somebody has removed."""
    there = {_full(each) for each in workloads(kind)}
    return [service for service in services if service not in there]


def _full(each: Object) -> str:
    return f"{each['kind']} {each['metadata']['namespace']}/{name(each)}"


def _built(kind: Kind, folder: Path) -> list[Manifest]:
    return built(kind.kubectl("kustomize", folder, "--load-restrictor=LoadRestrictionsNone"))


def copy_upstream(manifests: Path) -> None:
    """Put the operators' own manifests, of the versions that are built, beside ours, which name them there.

    `upstream/<program>/base` is <module>/manifests/base: kustomize takes no folders by absolute paths.
    """
    for program in UPSTREAM:
        target = manifests / programs.UPSTREAM / program
        shutil.rmtree(target, ignore_errors=True)
        for source in (programs.folder(program) / programs.UPSTREAM).iterdir():
            shutil.copytree(source, target, dirs_exist_ok=True)


def _apply(kind: Kind, manifests: list[Manifest], what: str) -> None:
    """Apply, again while webhooks and definitions are not there yet. Raises Failure."""

    def applied() -> str:
        try:
            kind.api.apply(manifests)
        except (NotYet, Unanswered) as failure:
            return str(failure)
        except Refused as refused:
            raise Failure(f"applying {what}: {refused}") from None
        return ""

    settled(applied, WEBHOOKS_S, late=lambda failure: f"applying {what}: {failure}")


def wait_available(kind: Kind, this: Step) -> None:
    """Wait until every deployment and daemon set is. Raises Failure that names those that are not, and why."""
    with View(kind.api, DEPLOYMENTS, DAEMON_SETS, PODS) as seen:

        def waiting() -> str:
            services = [*seen.of(DEPLOYMENTS), *seen.of(DAEMON_SETS)]
            return ", ".join(name(each) for each in services if not available(each))

        try:
            seen.until(waiting, TIMEOUT_S, what="services", step=this)
        except Failure as failure:
            why: list[str] = []
            with contextlib.suppress(Failure):
                pods = [pod for pod in seen.of(PODS) if pod["status"]["phase"] != "Succeeded"]
                why = [f"  {text}" for pod in pods if (text := stuck(pod))]
            raise Failure("\n".join([str(failure), *why])) from None


def workloads(kind: Kind) -> list[Object]:
    """Every deployment and daemon set."""
    return [*kind.api.get(DEPLOYMENTS), *kind.api.get(DAEMON_SETS)]


def available(each: Object) -> bool:
    """Whether as many pods of its newest version run as it wants."""
    status, wanted = each.get("status", {}), each["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < each["metadata"]["generation"]:
        return False
    if each["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        ready, newest = status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0)
    else:
        ready, newest = status.get("availableReplicas", 0), status.get("updatedReplicas", 0)
    return bool(ready >= wanted and newest >= wanted)
