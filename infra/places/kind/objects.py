"""Kinds of objects that a cluster has, and the ways in which its API server says that something did not work.

An object is a plain dictionary, as kubectl prints it.
"""

from typing import Any, NamedTuple

from infra.base.errors import Failure

Object = dict[str, Any]


class Unanswered(Failure):
    """The API server is not there, or has not answered in time."""


class NotYet(Failure):
    """It answers, and cannot do this yet: a webhook whose operator still starts, a server that is just starting."""


class Undefined(NotYet):
    """No kind of that name: its operator was never deployed, and so it has no objects either."""


class Refused(Failure):
    """It has said no; the message is its own."""


class Missing(Refused):
    """It has no object of that name."""


class Exists(Refused):
    """It has one of that name already, or somebody else has changed it meanwhile."""


class Expired(Refused):
    """What a watch wanted to go on from is forgotten: list again."""


class Resource(NamedTuple):
    """A kind of object, as `apiVersion` and `kind` name it."""

    version: str
    name: str

    @classmethod
    def of(cls, each: Object) -> "Resource":
        return cls(each["apiVersion"], each["kind"])


NODES = Resource("v1", "Node")
PODS = Resource("v1", "Pod")
EVENTS = Resource("v1", "Event")
NAMESPACES = Resource("v1", "Namespace")
QUOTAS = Resource("v1", "ResourceQuota")
CLAIMS = Resource("v1", "PersistentVolumeClaim")
DEPLOYMENTS = Resource("apps/v1", "Deployment")
DAEMON_SETS = Resource("apps/v1", "DaemonSet")
DEFINITIONS = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition")
JOBS = Resource("kubeflow.org/v1", "PyTorchJob")
WORKLOADS = Resource("kueue.x-k8s.io/v1beta1", "Workload")
CLUSTER_QUEUES = Resource("kueue.x-k8s.io/v1beta1", "ClusterQueue")
