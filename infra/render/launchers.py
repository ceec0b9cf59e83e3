"""The files of the launchers, rendered from job descriptions: sbatch, PyTorchJob, TrainJob, torchrun, TorchX, submitit.

They are committed, because people read, copy and submit them. `python -m infra jobs` writes them; with --check it
says which would change. What a launcher cannot be told is in infra/render/jobdiff.py.
"""

from dataclasses import dataclass
from pathlib import Path

from infra.base.paths import CHECKOUT
from infra.model import stacks
from infra.model.job import SUFFIX, JobFile, load
from infra.model.job import names as job_names
from infra.render.text import minutes, template

COMMAND = "python -m infra jobs"
IMAGE = "slipway.local/job:base"  # in every node of the lab; the stack is mounted
UID = 1000  # whom pods run as: not root, and on a laptop usually the person


def render(job: JobFile, root: Path = CHECKOUT) -> dict[str, str]:
    """Every committed file of `job`, by its path in the checkout."""
    files = {}
    if job.torchrun:
        files[job.torchrun.file] = _fill("job.sh", job)
    if job.slurm:
        files[job.slurm.file] = _fill("job.sbatch", job, time=minutes(job.time_limit_minutes))
    if job.torchx:
        files[job.torchx.file] = _fill("torchx.yaml", job, image=IMAGE)
    if job.submitit:
        files[job.submitit.file] = _fill("submitit.py", job, module=job.submitit.module)
    if job.kubernetes:
        files[job.kubernetes.file] = manifest(job, root)
        if job.kubernetes.elastic:
            files[job.kubernetes.elastic.file] = manifest(job, root, elastic=True)
        if job.kubernetes.train_job:
            file = job.kubernetes.train_job.file
            files[file] = _kubernetes(
                "trainjob.yaml", job, root, Pods(), name=job.name, file=file, elastic=None
            )
    return files


@dataclass(frozen=True)
class Pods:
    """How the pods of one cluster get the stack, and whose their files are."""

    stack: str | None = None  # its folder's name; None: as the lock in the checkout names it
    image: str = IMAGE
    mounted: bool = True  # the stack is a volume, and not in the image
    uid: int = UID
    gid: int = UID


def manifest(job: JobFile, root: Path = CHECKOUT, *, elastic: bool = False, pods: Pods = Pods()) -> str:
    """The PyTorchJob of `job`, or its elastic variant."""
    assert job.kubernetes
    variant = job.kubernetes.elastic if elastic else None
    name = f"{job.name}-elastic" if elastic else job.name
    file = (variant or job.kubernetes).file
    return _kubernetes("pytorchjob.yaml", job, root, pods, name=name, file=file, elastic=variant)


def _kubernetes(source: str, job: JobFile, root: Path, pods: Pods, **values: object) -> str:
    """A manifest from the template `source`, with the pod of all of them (pod.yaml.j2)."""
    folder = pods.stack or stacks.folder(root, job.stack)
    return _fill(
        source,
        job,
        kubernetes=job.kubernetes,
        python=f"/opt/stack/{folder}/bin/python",
        image=pods.image,
        mounted=pods.mounted,
        uid=pods.uid,
        gid=pods.gid,
        **values,
    )


def everything(root: Path = CHECKOUT) -> dict[str, str]:
    """Every rendered file of every job, by its path in the checkout. Raises Mistake."""
    return {path: text for name in job_names(root) for path, text in render(load(name, root), root).items()}


def _fill(source: str, job: JobFile, **values: object) -> str:
    origin = f"Rendered from jobs/{job.name}{SUFFIX} by: {COMMAND}"
    return template(source).render(job=job, rendered=origin, **values)
