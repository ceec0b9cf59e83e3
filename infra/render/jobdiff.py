"""What each launcher does otherwise than a job description says, because it cannot be told: python -m infra jobs.

A launcher that takes a key as it is has no entry for it. The texts state what was read in the launchers' sources
(docs/launchers.md) or met in tests; a key that the description does not use is left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from infra.model.job import JobFile

LIMIT = (
    "time_limit_minutes",
    "the limit of a start, not of the job: what was warned saves, and queues again",
)


@dataclass(frozen=True)
class Difference:
    """One key of the description, and what becomes of it under one launcher."""

    launcher: str  # with its file: sbatch jobs/ddp.sbatch
    key: str
    what: str


def differences(job: JobFile) -> list[Difference]:
    """Every difference, launcher by launcher in the order of the page docs/launchers.md."""
    found = []
    if job.torchrun:
        found += _named(job.torchrun.file, _torchrun(job))
    if job.slurm:
        found += _named(f"sbatch {job.slurm.file}", _sbatch(job))
    if job.torchx:
        found += _named("torchx -s slurm", _torchx_slurm(job))
        found += _named("torchx -s local_cwd", _torchx_cwd(job))
        found += _named("torchx -s local_docker", _torchx_docker(job))
    if job.submitit:
        found += _named(f"submitit {job.submitit.file}", _submitit(job))
    if job.kubernetes:
        found += _named(f"PyTorchJob {job.kubernetes.file}", _pytorchjob(job))
        if job.kubernetes.train_job:
            found += _named(f"TrainJob {job.kubernetes.train_job.file}", _trainjob(job))
    return found


def _named(launcher: str, pairs: Iterator[tuple[str, str]]) -> list[Difference]:
    return [Difference(launcher, key, what) for key, what in pairs]


def _torchrun(job: JobFile) -> Iterator[tuple[str, str]]:
    if job.nodes > 1:
        yield "nodes", f"a person starts it on each of {job.nodes} machines; alone it has all workers here"
    yield "gpus, cpus, memory", "nothing is reserved, and nothing is held to it"
    yield "time_limit_minutes", "there is none"
    yield "warning_s", f"nobody warns; SIGTERM to it gives the workers {job.warning_s} s to save"
    yield "restart", "a machine that dies is not replaced"


def _sbatch(job: JobFile) -> Iterator[tuple[str, str]]:
    yield LIMIT
    yield from _fixed(job, "Slurm gives a job its nodes once; with fewer it waits for the missing ones")


def _torchx_slurm(job: JobFile) -> Iterator[tuple[str, str]]:
    yield LIMIT
    yield from _fixed(job, "its schedulers start the number of replicas that they are told")


def _torchx_cwd(job: JobFile) -> Iterator[tuple[str, str]]:
    if job.nodes > 1:
        yield "nodes", f"{job.nodes} torchruns side by side on this machine"
    yield "gpus, cpus, memory", "nothing is reserved, and nothing is held to it"
    if job.gpus_per_node and job.nodes > 1:
        yield "gpus_per_node", "all see the same GPUs; -cfg auto_set_cuda_visible_devices=True splits them"
    yield "time_limit_minutes", "there is none"
    yield "warning_s", "nobody warns; cancel ends the processes"
    yield "restart", "nothing is started again"


def _torchx_docker(job: JobFile) -> Iterator[tuple[str, str]]:
    if job.nodes > 1:
        yield "nodes", f"{job.nodes} containers on this machine, in a network of their own"
    yield "memory_gib_per_node", "it is the size of /dev/shm as well, so that a full one ends the container"
    yield "time_limit_minutes", "there is none"
    yield "warning_s", "nobody warns; cancel gives Docker's 10 s to save"
    yield "user", "containers run as the image's user, and what they write is that user's: root's"
    yield "restart", "nothing is started again: Docker would restart one container of them and not the others"


def _submitit(job: JobFile) -> Iterator[tuple[str, str]]:
    times = job.submitit.timeouts if job.submitit else 0
    yield "time_limit_minutes", f"it starts again {times} times after its time was over, then it is an error"
    if job.retries:
        yield "retries", "not known: a task is a rank, there is no torchrun, and one that fails ends the job"
    yield "restart", "--cluster=local requeues 5 times at most, of whatever reason"
    yield from _fixed(job, "a job's tasks are counted once")


def _pytorchjob(job: JobFile) -> Iterator[tuple[str, str]]:
    yield "time_limit_minutes", "of all starts together; then the job has failed, and nobody queues it again"
    yield "warning_s", "of an eviction or a deletion, as SIGTERM; whoever kills a pod may give less"
    yield "restart", "each pod by itself, without limit, when its exit code is 128 or above"
    yield from _pods(job)
    yield "outputs", f"the run's folder has the job's name, {job.outputs}/{job.name}: a pod knows no number"


def _trainjob(job: JobFile) -> Iterator[tuple[str, str]]:
    yield "time_limit_minutes", "of all starts together; then the job has failed, and nobody queues it again"
    yield "warning_s", "of an eviction or a deletion, as SIGTERM; whoever kills a pod may give less"
    yield "restart", "all pods together, 100 times at most, interruptions counted"
    yield from _pods(job)
    yield "outputs", f"the run's folder has the job's name, {job.outputs}/{job.name}: a pod knows no number"
    yield from _fixed(job, "its policy for torch has a number of nodes, not a range")


def _pods(job: JobFile) -> Iterator[tuple[str, str]]:
    if job.retries:
        yield "retries", "not counted: a worker that fails ends its pod, which is started again"


def _fixed(job: JobFile, why: str) -> Iterator[tuple[str, str]]:
    if job.kubernetes and job.kubernetes.elastic:
        yield "elastic", why


def table(job: JobFile) -> str:
    """The differences for people: a paragraph for each launcher."""
    lines: list[str] = []
    launcher = ""
    for each in differences(job):
        if each.launcher != launcher:
            lines += ["", each.launcher] if lines else [each.launcher]
            launcher = each.launcher
        lines.append(f"  {each.key:<20} {each.what}")
    return "\n".join(lines)
