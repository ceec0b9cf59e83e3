"""Job descriptions, `jobs/<name>.job.yaml`, and the files of the schedulers that are rendered from them.

The rendered files are committed, because people read, copy and submit them. `python -m infra jobs` writes them;
with --check it says which would change.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from infra import stackfolder, yamlfile
from infra.cluster import Label
from infra.hardware import Facts, Text
from infra.paths import CHECKOUT
from infra.render.text import minutes, template

SUFFIX = ".job.yaml"
COMMAND = "python -m infra jobs"
IMAGE = "slipway.local/job:base"  # in every node of the lab; the stack is mounted
UID = 1000  # whom pods run as: not root, and on a laptop usually the person

Module = Annotated[str, Field(pattern=r"^[a-z_]\w*(\.[a-z_]\w*)*$", description="As python -m takes it")]
Below = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$", description="Path in the checkout")]
# The operator names a service after each pod: <job>-worker-<n> is one label of DNS, and begins with a letter.
JobName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=45)]


class SlurmJob(Facts):
    """What only Slurm is told."""

    file: Below = Field(description="Where the batch script is written")


class ElasticJob(Facts):
    """A variant that goes on with fewer nodes and grows back."""

    file: Below
    min_nodes: PositiveInt
    max_nodes: PositiveInt


class KubernetesJob(Facts):
    """What only Kubernetes is told."""

    file: Below = Field(description="Where the manifest is written")
    team: Label = Field(description="An account of the cluster file: its namespace and its queue")
    priority: Label = Field(description="A QOS of the cluster file that the team may use")
    gpu: Text = Field(default="nvidia.com/gpu", description="Extended resource of the GPUs")
    shared_memory_gib: PositiveInt = Field(default=1, description="Of /dev/shm, a part of the memory")
    elastic: ElasticJob | None = None


class JobFile(Facts):
    """One job. The file is `jobs/<name>.job.yaml`."""

    name: JobName = Field(description="The file's name without .job.yaml")
    description: Text = Field(description="One sentence for people")
    module: Module
    config: Below = Field(description="The program's configuration, such as jobs/ddp.yaml")
    stack: Label = Field(description="A folder of images/stacks")
    nodes: PositiveInt
    gpus_per_node: Annotated[int, Field(ge=0)] = Field(
        description="One worker process for each; 0: one worker"
    )
    cpus_per_node: PositiveInt
    memory_gib_per_node: PositiveInt
    time_limit_minutes: PositiveInt
    warning_s: Annotated[int, Field(ge=1)] = Field(description="Between the warning and the end")
    slurm: SlurmJob | None = None
    kubernetes: KubernetesJob | None = None


def names(root: Path = CHECKOUT) -> list[str]:
    """Every job below `root`/jobs."""
    return sorted(path.name.removesuffix(SUFFIX) for path in (root / "jobs").glob(f"*{SUFFIX}"))


def read(path: Path, root: Path = CHECKOUT) -> JobFile:
    """The job of file `path`. Raises Mistake with every mistake in it."""
    document = yamlfile.read(path, root)
    job = yamlfile.validate(document, JobFile, document.data)
    if job:
        _rules(document, job, root)
    document.check()
    assert job
    return job


def load(name: str, root: Path = CHECKOUT) -> JobFile:
    """The job `name` of `root`/jobs. Raises Mistake."""
    return read(root / "jobs" / f"{name}{SUFFIX}", root)


def _rules(document: yamlfile.Document, job: JobFile, root: Path) -> None:
    """What must hold between the keys."""
    if document.path.name != f"{job.name}{SUFFIX}":
        found = document.path.name.removesuffix(SUFFIX)
        document.wrong(("name",), f"'{job.name}' is not the file's name; write '{found}'")
    known = stackfolder.names(root)
    if job.stack not in known:
        near = yamlfile.nearest(job.stack, known, all_of="In images/stacks")
        document.wrong(("stack",), f"no stack '{job.stack}'.{near}")
    if not (root / job.config).is_file():
        document.wrong(("config",), f"no file {job.config}")
    if job.warning_s >= job.time_limit_minutes * 60:
        text = f"{job.warning_s} s is no shorter than the whole job ({job.time_limit_minutes} minutes)"
        document.wrong(("warning_s",), text)
    kubernetes = job.kubernetes
    if job.slurm is None and kubernetes is None:
        document.wrong(("name",), "neither slurm nor kubernetes: nothing to render")
    if kubernetes is None:
        return
    if kubernetes.shared_memory_gib >= job.memory_gib_per_node:
        document.wrong(
            ("kubernetes", "shared_memory_gib"),
            f"{kubernetes.shared_memory_gib} leaves nothing of memory_gib_per_node, {job.memory_gib_per_node}",
        )
    elastic = kubernetes.elastic
    if elastic and not elastic.min_nodes <= job.nodes <= elastic.max_nodes:
        text = f"nodes is {job.nodes}, which is not from {elastic.min_nodes} to {elastic.max_nodes}"
        document.wrong(("kubernetes", "elastic", "min_nodes"), text)


def render(job: JobFile, root: Path = CHECKOUT) -> dict[str, str]:
    """Every committed file of `job`, by its path in the checkout."""
    files = {}
    if job.slurm:
        files[job.slurm.file] = _fill("job.sbatch", job, time=minutes(job.time_limit_minutes))
    if job.kubernetes:
        files[job.kubernetes.file] = manifest(job, root)
        if job.kubernetes.elastic:
            files[job.kubernetes.elastic.file] = manifest(job, root, elastic=True)
    return files


def manifest(
    job: JobFile,
    root: Path = CHECKOUT,
    *,
    elastic: bool = False,
    stack: str | None = None,
    image: str = IMAGE,
    mounted: bool = True,
    uid: int = UID,
    gid: int = UID,
) -> str:
    """The PyTorchJob of `job`. `stack`: its folder's name; `mounted`: it is a volume and not in `image`."""
    assert job.kubernetes
    folder = stack or stackfolder.path(root, job.stack).name
    return _fill(
        "pytorchjob.yaml",
        job,
        name=f"{job.name}-elastic" if elastic else job.name,
        kubernetes=job.kubernetes,
        file=(job.kubernetes.elastic or job.kubernetes).file if elastic else job.kubernetes.file,
        elastic=job.kubernetes.elastic if elastic else None,
        python=f"/opt/stack/{folder}/bin/python",
        image=image,
        mounted=mounted,
        uid=uid,
        gid=gid,
    )


def everything(root: Path = CHECKOUT) -> dict[str, str]:
    """Every rendered file of every job, by its path in the checkout. Raises Mistake."""
    return {path: text for name in names(root) for path, text in render(load(name, root), root).items()}


def _fill(source: str, job: JobFile, **values: object) -> str:
    origin = f"Rendered from jobs/{job.name}{SUFFIX} by: {COMMAND}"
    return template(source).render(job=job, rendered=origin, **values)
