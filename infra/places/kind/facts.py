"""Jobs of a Kubernetes cluster as plain values: their state, and what they wait for.

From objects as the API server gives them; asks nothing itself, so that it is tested on recorded answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infra.places.kind.objects import Object

JOB_LABEL = "training.kubeflow.org/job-name"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

# A condition of a PyTorchJob -> the word that Slurm has for it: both are followed by the same code.
STATES = {
    "Succeeded": "COMPLETED",
    "Failed": "FAILED",
    "Restarting": "REQUEUED",
    "Running": "RUNNING",
    "Suspended": "PENDING",
    "Created": "PENDING",
}
# Reasons of a waiting container that pass by themselves within seconds.
STARTING = {"ContainerCreating", "PodInitializing"}


@dataclass(frozen=True)
class Job:
    """A PyTorchJob: `state` in Slurm's words, `waits` says what for, empty when it waits for nothing."""

    namespace: str
    name: str
    queue: str
    state: str
    waits: str
    created: str
    pods: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()  # Kubernetes' names
    folder: str = ""  # its run folder


@dataclass(frozen=True)
class World:
    """What the cluster has, by kind."""

    nodes: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    jobs: list[Object] = field(default_factory=list)
    workloads: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)

    @classmethod
    def of(cls, objects: Iterable[Object]) -> "World":
        kinds = {
            "Node": "nodes",
            "Pod": "pods",
            "PyTorchJob": "jobs",
            "Workload": "workloads",
            "Event": "events",
        }
        found: dict[str, list[Object]] = {name: [] for name in kinds.values()}
        for each in objects:
            if each["kind"] in kinds:
                found[kinds[each["kind"]]].append(each)
        return cls(**found)


def jobs(world: World) -> list[Job]:
    """Every PyTorchJob, in the order of their creation."""
    order = sorted(world.jobs, key=lambda each: (each["metadata"]["creationTimestamp"], name(each)))
    return [_job(each, world) for each in order]


def _job(job: Object, world: World) -> Job:
    namespace = job["metadata"]["namespace"]
    pods = [
        pod
        for pod in world.pods
        if pod["metadata"]["namespace"] == namespace
        and pod["metadata"].get("labels", {}).get(JOB_LABEL) == name(job)
    ]
    now = state(job)
    return Job(
        namespace=namespace,
        name=name(job),
        queue=job["metadata"].get("labels", {}).get(QUEUE_LABEL, ""),
        state=now,
        waits=_failed(job) if now == "FAILED" else "" if now == "COMPLETED" else _waits(job, pods, world),
        created=job["metadata"]["creationTimestamp"],
        pods=tuple(sorted(name(pod) for pod in pods)),
        nodes=tuple(sorted({pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")})),
        folder=folder(job) or name(job),
    )


def folder(made: Object) -> str:
    """The run folder that a job's arguments name: the last part of `--run.folder=runs/NAME`; empty for none.

    One that the kubelet fills in (`$(NAME)`) is known to the pods only.
    """
    for replica in made["spec"].get("pytorchReplicaSpecs", {}).values():
        for container in replica["template"]["spec"]["containers"]:
            for word in container.get("args") or []:
                option, _, value = str(word).partition("=")
                if option == "--run.folder" and "$(" not in value:
                    return Path(value).name
    return ""


def state(job: Object) -> str:
    """The state of the conditions that hold; an ended job's stays what it was."""
    holds = {
        each["type"] for each in job.get("status", {}).get("conditions") or [] if each["status"] == "True"
    }
    if job["spec"].get("runPolicy", {}).get("suspend") and not holds & {"Succeeded", "Failed"}:
        return "PENDING"
    return next((word for condition, word in STATES.items() if condition in holds), "PENDING")


def _failed(job: Object) -> str:
    return next(
        (each.get("message", "") for each in job["status"]["conditions"] if each["type"] == "Failed"), ""
    )


def _waits(job: Object, pods: list[Object], world: World) -> str:
    """What the job waits for, the first cause first."""
    if job["spec"].get("runPolicy", {}).get("suspend"):
        return _queued(job, world)
    reasons = [
        *(text for pod in pods if (text := _dead_node(pod, world))),
        *(text for pod in pods if (text := stuck(pod))),
    ]
    if not pods:
        reasons += _warnings(job, world)
    return "; ".join(dict.fromkeys(reasons))


def _queued(job: Object, world: World) -> str:
    for workload in world.workloads:
        if _owned(workload, job):
            return _unadmitted(workload)
    return "Kueue has not seen it yet"


def _unadmitted(workload: Object) -> str:
    """What Kueue says; empty when it lets the workload run."""
    for each in workload.get("status", {}).get("conditions") or []:
        if each["type"] == "Admitted" and each["status"] == "True":
            return ""
    for wanted in ("QuotaReserved", "Evicted"):
        for each in workload.get("status", {}).get("conditions") or []:
            if each["type"] == wanted and (each["status"] == "False") == (wanted == "QuotaReserved"):
                return f"quota: {each.get('message', '')}"
    return "Kueue has not looked at it yet"


def _owned(child: Object, job: Object) -> bool:
    uid = job["metadata"].get("uid")
    return any(owner["uid"] == uid for owner in child["metadata"].get("ownerReferences", []))


def _dead_node(pod: Object, world: World) -> str:
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return ""
    for node in world.nodes:
        if name(node) == pod["spec"].get("nodeName") and not ready(node):
            return f"node {called(node)} is not ready ({name(pod)} is on it): {_not_ready(node)}"
    return ""


def stuck(pod: Object) -> str:
    """Why a pod does not start: no node for it, or a container that cannot; empty when neither is so."""
    return _unscheduled(pod) or _waiting(pod)


def _unscheduled(pod: Object) -> str:
    for each in pod.get("status", {}).get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{name(pod)}: {each.get('message', each.get('reason', ''))}"
    return ""


def _waiting(pod: Object) -> str:
    status = pod.get("status", {})
    for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = each.get("state", {}).get("waiting", {})
        if waiting and waiting.get("reason") not in STARTING:
            return f"{name(pod)}: {waiting.get('reason', '')}: {waiting.get('message', '')}".rstrip(": ")
    return ""


def _warnings(job: Object, world: World) -> list[str]:
    """The last warning about the job: a pod that may not be made is told of nowhere else."""
    uid = job["metadata"].get("uid")
    told = [
        event
        for event in world.events
        if event.get("type") == "Warning" and event["involvedObject"].get("uid") == uid
    ]
    told.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return [event["message"] for event in told[-1:]]


def name(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def called(node: Object) -> str:
    """A node's name in the cluster file."""
    return str(node["metadata"].get("labels", {}).get("slipway.dev/node", name(node)))


def holds(thing: Object, condition: str) -> bool:
    """Whether a condition of an object is true; one that nobody has looked at is not."""
    return any(
        each["type"] == condition and each["status"] == "True"
        for each in thing.get("status", {}).get("conditions") or []
    )


def ready(node: Object) -> bool:
    return holds(node, "Ready")


def _not_ready(node: Object) -> str:
    for each in node.get("status", {}).get("conditions") or []:
        if each["type"] == "Ready":
            return str(each.get("message") or each.get("reason") or "it does not say why")
    return "it has never been ready"


def reason(node: Object) -> str:
    """What is wrong with a node; empty when nothing is."""
    if not ready(node):
        return _not_ready(node)
    return "cordoned: it gets no new pods" if node["spec"].get("unschedulable") else ""


def waiting_workloads(world: World) -> list[dict[str, str]]:
    """Kueue's workloads that do not run, with the reason."""
    found = []
    for each in world.workloads:
        conditions = {c["type"]: c["status"] for c in each.get("status", {}).get("conditions") or []}
        if conditions.get("Finished") == "True" or conditions.get("Admitted") == "True":
            continue
        owner = next(iter(each["metadata"].get("ownerReferences", [])), {"name": name(each)})
        found.append(
            {
                "namespace": each["metadata"]["namespace"],
                "job": str(owner["name"]),
                "queue": str(each["spec"].get("queueName", "")),
                "why": _unadmitted(each),
            }
        )
    return found
