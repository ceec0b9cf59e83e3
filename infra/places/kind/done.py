"""What has been reached with a kind cluster, so that the next run goes on from there."""

from dataclasses import dataclass, field
from typing import ClassVar

from infra.proof import prove


@dataclass
class Done(prove.Done):
    """Kept in build/<cluster>/kind-state.json: a cluster with both schedulers has the lab's file beside it."""

    FILE: ClassVar[str] = "kind-state.json"

    created: str = ""  # hash of kind's configuration and the node image, once kind had made the cluster
    services: list[str] = field(default_factory=list)  # deployments and daemon sets that were deployed
