"""TorchX's scheduler `pytorchjob`: PyTorchJobs by kubectl.

TorchX's own scheduler for Kubernetes makes jobs of Volcano, which Kueue and the training operator do not know.
This one submits the manifest that jobs/<name>.job.yaml was rendered to, k8s/pytorchjob.yaml, with what TorchX was
told otherwise: name, nodes, workers, resources, image, variables, arguments. All else in it (queue, rights,
volumes, what is started again) is as committed. So it takes AppDefs of `jobs.job`, whose metadata names the file.

An app's id is <namespace>:<name>. The kubectl on PATH is used, with its context.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml  # type: ignore[import-untyped]
from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Scheduler, Stream, filter_regex
from torchx.schedulers.ids import make_unique
from torchx.specs import AppDef, AppDryRunInfo, AppState, ReplicaStatus, Role, RoleStatus, macros, runopts

from jobs.cli.errors import Failure, Mistake
from jobs.launch.command import output
from jobs.launch.components import ARGUMENTS, FOLDER, MANIFEST

# <name>-<14 random characters>-worker-<n>, the name of a pod and of its service, is one label of DNS: 63 characters.
NAME = 35
LABEL = "app.kubernetes.io/managed-by"
OURS = "torchx"
POD_OF = "training.kubeflow.org/job-name"
# The last of these conditions that is true is the job's state. Kueue suspends what waits for its quota.
CONDITIONS = {
    "Created": AppState.SUBMITTED,
    "Suspended": AppState.PENDING,
    "Running": AppState.RUNNING,
    "Restarting": AppState.RUNNING,
    "Succeeded": AppState.SUCCEEDED,
    "Failed": AppState.FAILED,
}
PHASES = {
    "Pending": AppState.PENDING,
    "Running": AppState.RUNNING,
    "Succeeded": AppState.SUCCEEDED,
    "Failed": AppState.FAILED,
}
FINAL = (AppState.SUCCEEDED, AppState.FAILED)


@dataclass
class Request:
    """A PyTorchJob as it is submitted."""

    manifest: dict[str, Any]

    def __str__(self) -> str:
        text: str = yaml.safe_dump(self.manifest, sort_keys=False)
        return text

    __repr__ = __str__


class PyTorchJobs(Scheduler):
    """Jobs of the training operator, version 1."""

    def __init__(self, session_name: str) -> None:
        super().__init__("pytorchjob", session_name)

    def _run_opts(self) -> runopts:
        opts = runopts()
        opts.add("namespace", type_=str, default=None, help="a team's, instead of the job's own")
        opts.add("priority", type_=str, default=None, help="a priority class, instead of the job's own")
        return opts

    def _submit_dryrun(self, app: AppDef, cfg: Any) -> AppDryRunInfo:
        named = app.metadata.get(MANIFEST)
        if not named or len(app.roles) != 1:
            raise Mistake(
                f"{app.name}: names no manifest to start from; submit a job with a section kubernetes:"
                " jobs.job --name ddp"
            )
        text = (FOLDER.parent / named).read_text()
        return AppDryRunInfo(
            Request(manifest(yaml.safe_load(text), app, cfg, make_unique(app.name[:NAME]))), str
        )

    def schedule(self, dryrun_info: AppDryRunInfo) -> str:
        made = dryrun_info.request.manifest
        output(["kubectl", "create", "--filename=-"], stdin=json.dumps(made))
        return f"{made['metadata']['namespace']}:{made['metadata']['name']}"

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        namespace, name = split(app_id)
        job = _get(namespace, "pytorchjob", name, "--ignore-not-found")
        if not job:
            return None
        pods = _get(namespace, "pods", f"--selector={POD_OF}={name}")["items"]
        pods.sort(key=replica)
        state, said = state_of(job)
        statuses = [
            ReplicaStatus(
                id=replica(pod),
                role="node",
                state=PHASES.get(pod["status"].get("phase"), AppState.UNKNOWN),
                hostname=pod["spec"].get("nodeName", ""),
            )
            for pod in pods
        ]
        return DescribeAppResponse(
            app_id=app_id,
            state=state,
            num_restarts=max((restarts(pod) for pod in pods), default=0),
            msg=said,
            roles=[Role(name="node", image="", num_replicas=sum(_sizes(job).values()))],
            roles_statuses=[RoleStatus("node", statuses)],
        )

    def list(self) -> list[ListAppResponse]:
        """Jobs of the context's namespace that were submitted by TorchX."""
        words = ["kubectl", "get", "pytorchjobs", f"--selector={LABEL}={OURS}", "--output=json"]
        return [
            ListAppResponse(
                app_id=f"{job['metadata']['namespace']}:{job['metadata']['name']}", state=state_of(job)[0]
            )
            for job in json.loads(output(words))["items"]
        ]

    def _cancel_existing(self, app_id: str) -> None:
        """Delete the job: its pods are told to save, and have the time that the manifest gives them for it.

        To suspend it would keep its record, but Kueue, who owns that field, would start it again.
        """
        namespace, name = split(app_id)
        output(["kubectl", "delete", "pytorchjob", name, f"--namespace={namespace}", "--wait=false"])

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """Lines of pod `k`, of its present start; both streams in one, as the kubelet keeps them."""
        if streams not in (None, Stream.COMBINED):
            raise ValueError("pytorchjob: a pod's two streams are kept as one; take `combined`")
        if until:
            raise ValueError("pytorchjob: kubectl knows `since` and no `until`")
        lines = self._lines(app_id, k, since, follow=should_tail)
        return filter_regex(regex, lines) if regex else lines

    def _lines(self, app_id: str, k: int, since: datetime | None, *, follow: bool) -> Iterator[str]:
        namespace, name = split(app_id)
        job = _get(namespace, "pytorchjob", name, "--ignore-not-found")
        if not job:
            raise Failure(f"{app_id}: no such job")
        words = ["kubectl", "logs", f"--namespace={namespace}", pod_name(job, k)]
        if since:
            words.append(f"--since-time={since.astimezone(UTC).isoformat(timespec='seconds')}")
        if not follow:
            yield from output(words).splitlines(keepends=True)
            return
        while not self._started(app_id, k):
            time.sleep(1)
        with subprocess.Popen([*words, "--follow"], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            try:
                yield from process.stdout
            finally:  # who reads may stop before the end
                process.terminate()

    def _started(self, app_id: str, k: int) -> bool:
        """Whether pod `k` has something to show, or never will."""
        found = self.describe(app_id)
        if found is None:
            raise Failure(f"{app_id}: no such job any more")
        (status,) = found.roles_statuses
        shown = [each for each in status.replicas if each.id == k and each.state != AppState.PENDING]
        return bool(shown) or found.state in FINAL


def manifest(committed: dict[str, Any], app: AppDef, cfg: Any, name: str) -> dict[str, Any]:
    """The committed PyTorchJob under a name of its own, with what the AppDef has otherwise. Raises Mistake."""
    made = deepcopy(committed)
    (role,) = app.roles
    metadata, spec = made["metadata"], made["spec"]
    old, metadata["name"] = metadata["name"], name
    metadata["labels"][LABEL] = OURS
    if cfg.get("namespace"):
        metadata["namespace"] = cfg["namespace"]
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = cfg["namespace"]
    if cfg.get("priority"):
        metadata["labels"]["kueue.x-k8s.io/priority-class"] = cfg["priority"]
    spec["nprocPerNode"] = role.env.get("PET_NPROC_PER_NODE", spec["nprocPerNode"])
    replicas = spec["pytorchReplicaSpecs"]
    if role.num_replicas == 1:
        replicas.pop("Worker")
    elif "Worker" in replicas:
        replicas["Worker"]["replicas"] = role.num_replicas - 1
    else:
        raise Mistake(f"-j: the manifest of {app.name} is for one node; describe a job of two or more")
    for each in replicas.values():
        each["template"] = deepcopy(each["template"])  # YAML gave all of them the same one
        pod = each["template"]["spec"]
        if cfg.get("priority"):
            pod["priorityClassName"] = cfg["priority"]
        for spread in pod.get("topologySpreadConstraints", []):
            spread["labelSelector"]["matchLabels"] = {POD_OF: name}
        (container,) = pod["containers"]
        _fill(container, app, role, old, name, f"{metadata['namespace']}:{name}")
    return made


def _fill(container: dict[str, Any], app: AppDef, role: Role, old: str, name: str, app_id: str) -> None:
    """What a pod's container has of its own: image, size, variables, arguments."""
    gpu = next((key for key in container["resources"]["limits"] if "/" in key), "nvidia.com/gpu")
    size = {"cpu": str(role.resource.cpu), "memory": f"{role.resource.memMB}Mi"}
    if role.resource.gpu > 0:
        size[gpu] = role.resource.gpu
    container["resources"] = {"requests": size, "limits": size}
    container["image"] = role.image
    folder = f"--run.folder={app.metadata.get('outputs', 'runs')}/"
    words = [f"{folder}{name}" if word == f"{folder}{old}" else word for word in container["args"]]
    container["args"] = [*words, *role.metadata.get(ARGUMENTS, [])]
    ids = macros.Values(img_root="", app_id=app_id, replica_id="", rank0_env="MASTER_ADDR")
    # PET_*: the operator sets them itself, from the spec.
    wanted = {key: ids.substitute(value) for key, value in role.env.items() if not key.startswith("PET_")}
    wanted |= {"SLIPWAY_IMAGE": role.image, "SLIPWAY_GPUS": str(max(0, role.resource.gpu))}
    wanted |= {"SLIPWAY_CPUS": str(role.resource.cpu)} if role.resource.cpu > 0 else {}
    kept = [each for each in container["env"] if each["name"] not in wanted]
    container["env"] = [*kept, *({"name": key, "value": value} for key, value in wanted.items())]


def split(app_id: str) -> tuple[str, str]:
    """Namespace and name. Raises Mistake."""
    found = re.fullmatch(r"([a-z0-9-]+):([a-z0-9.-]+)", app_id)
    if not found:
        raise Mistake(f"{app_id}: not an app of this scheduler, which are <namespace>:<name>")
    return found[1], found[2]


def state_of(job: dict[str, Any]) -> tuple[AppState, str]:
    """The state of a PyTorchJob and the operator's word for it. One without conditions was just submitted."""
    true = {
        each["type"]: each for each in job.get("status", {}).get("conditions", []) if each["status"] == "True"
    }
    for kind in reversed(CONDITIONS):
        if kind in true:
            return CONDITIONS[kind], true[kind].get("message") or kind
    return AppState.SUBMITTED, "Submitted"


def replica(pod: dict[str, Any]) -> int:
    """A pod's number among all of its job: the master is 0; where there is none, so is the first worker."""
    labels = pod["metadata"]["labels"]
    index = int(labels["training.kubeflow.org/replica-index"])
    if labels["training.kubeflow.org/replica-type"] == "master" or _alone(pod):
        return index
    return index + 1


def _alone(pod: dict[str, Any]) -> bool:
    """Whether the job has workers only, as elastic ones do: they are told where to meet by this variable."""
    (container,) = pod["spec"]["containers"]
    return any(each["name"] == "PET_RDZV_ENDPOINT" for each in container.get("env", []))


def restarts(pod: dict[str, Any]) -> int:
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", []))


def pod_name(job: dict[str, Any], k: int) -> str:
    """The pod of node `k`, as the operator names it. Raises Mistake when the job has fewer."""
    name, sizes = job["metadata"]["name"], _sizes(job)
    if not 0 <= k < sum(sizes.values()):
        raise Mistake(f"{name}: no node {k}; it has {sum(sizes.values())}")
    masters = sizes.get("Master", 0)
    return f"{name}-master-{k}" if k < masters else f"{name}-worker-{k - masters}"


def _sizes(job: dict[str, Any]) -> dict[str, int]:
    return {kind: each["replicas"] for kind, each in job["spec"]["pytorchReplicaSpecs"].items()}


def _get(namespace: str, *words: str) -> dict[str, Any]:
    """What `kubectl get` answers; empty when there is nothing."""
    text = output(["kubectl", "get", *words, f"--namespace={namespace}", "--output=json"])
    found: dict[str, Any] = json.loads(text) if text.strip() else {}
    return found


def create_scheduler(session_name: str, **_: Any) -> PyTorchJobs:
    return PyTorchJobs(session_name)
