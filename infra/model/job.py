"""Job descriptions, `jobs/<name>.job.yaml`: what is run, with which options, and what it needs of its nodes."""

import re
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model import stacks, yamlfile
from infra.model.fields import Count, Facts, Label, Text

SUFFIX = ".job.yaml"

Module = Annotated[str, Field(pattern=r"^[a-z_]\w*(\.[a-z_]\w*)*$", description="As python -m takes it")]
Below = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$", description="Path in the checkout")]
# The operator names a service after each pod: <job>-worker-<n> is one label of DNS, and begins with a letter.
JobName = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=45)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
Launcher = Annotated[
    str, Field(pattern=r"^jobs/launch/[a-z_]\w*\.py$", description="A module of jobs/launch")
]
# What launchers say to the processes that they start; TrainJob refuses PET_* outright.
TAKEN = re.compile(
    r"(PET|MASTER|SLURM|TORCHELASTIC|TORCHX|SUBMITIT)_.*|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)"
    r"|TORCH_ELASTIC_SHUTDOWN_TIMEOUT"  # warning_s
)


class SlurmJob(Facts):
    """What only Slurm is told."""

    file: Below = Field(description="Where the batch script is written")


class ElasticJob(Facts):
    """A variant that goes on with fewer nodes and grows back."""

    file: Below
    min_nodes: PositiveInt
    max_nodes: PositiveInt


class TrainJob(Facts):
    """The same job for the Kubeflow Trainer, version 2."""

    file: Below = Field(description="Where the TrainingRuntime and the TrainJob are written")


class TorchrunJob(Facts):
    """A plain script for machines without a scheduler."""

    file: Below


class TorchxJob(Facts):
    """What only TorchX is told."""

    file: Below = Field(description="Where the AppDef is written, which jobs/launch/components.py reads")
    port: Annotated[int, Field(ge=1024, le=65535)] = Field(
        default=29500, description="Where the nodes meet, on the first of them"
    )


class SubmititJob(Facts):
    """What only submitit is told."""

    file: Launcher = Field(description="Where the script is written: python -m jobs.launch.<name>")
    timeouts: Count = Field(default=3, description="How often it starts again because its time was over")

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")


class KubernetesJob(Facts):
    """What only Kubernetes is told."""

    file: Below = Field(description="Where the manifest is written")
    team: Label = Field(description="An account of the cluster file: its namespace and its queue")
    priority: Label = Field(description="A QOS of the cluster file that the team may use")
    gpu: Text = Field(default="nvidia.com/gpu", description="Extended resource of the GPUs")
    shared_memory_gib: PositiveInt = Field(default=1, description="Of /dev/shm, a part of the memory")
    elastic: ElasticJob | None = None
    train_job: TrainJob | None = None


class JobFile(Facts):
    """One job. The file is `jobs/<name>.job.yaml`."""

    name: JobName = Field(description="The file's name without .job.yaml")
    description: Text = Field(description="One sentence for people")
    module: Module
    config: Below = Field(description="The program's configuration, such as jobs/ddp.yaml")
    arguments: list[Text] = Field(default=[], description="More words for the program, after --config")
    check: Module | None = Field(
        default="jobs.config",
        description="Reads the same options and says what is wrong, before any node is used",
    )
    example: Text = Field(
        default="--train.steps=50", description="An option of the program, shown in the files' first lines"
    )
    data: Below | None = Field(default=None, description="Given to the program as --data.folder")
    outputs: Below = Field(default="runs", description="Where run folders and outputs are written")
    environment: dict[Variable, Text] = Field(default={}, description="For every process")
    stack: Label = Field(description="A folder of images/stacks")
    hardware: Text | None = Field(
        default=None,
        description="Whole machines of this type, a file of hardware/, where nothing else is asked for",
    )
    nodes: PositiveInt
    gpus_per_node: Count | None = Field(
        default=None, description="One worker process for each; 0: one worker. Needed without hardware"
    )
    cpus_per_node: PositiveInt | None = Field(default=None, description="Needed without hardware")
    memory_gib_per_node: PositiveInt | None = Field(default=None, description="Needed without hardware")
    time_limit_minutes: PositiveInt
    warning_s: Annotated[int, Field(ge=1)] = Field(description="Between the warning and the end")
    retries: Count = Field(
        default=0,
        description="Times that workers are started again on the same nodes after one has failed; "
        "a node that dies or a job that is preempted is another matter, and not counted",
    )
    torchrun: TorchrunJob | None = None
    slurm: SlurmJob | None = None
    torchx: TorchxJob | None = None
    submitit: SubmititJob | None = None
    kubernetes: KubernetesJob | None = None

    @property
    def workers(self) -> int:
        """Processes on each node."""
        return self.gpus_per_node or 1

    @property
    def sizes(self) -> list[str]:
        """What sbatch is asked for beside GPUs: for each of them, so that more of them get more of it."""
        assert self.cpus_per_node and self.memory_gib_per_node
        gpus, mib = self.gpus_per_node or 0, self.memory_gib_per_node * 1024
        memory = f"--mem-per-gpu={_mib(mib // gpus)}" if gpus else f"--mem={_mib(mib)}"
        if gpus and self.cpus_per_node % gpus == 0:
            return [f"--cpus-per-gpu={self.cpus_per_node // gpus}", memory]
        return [f"--cpus-per-task={self.cpus_per_node}", memory]

    @property
    def options(self) -> list[str]:
        """The program's words, the same for every launcher."""
        data = [f"--data.folder={self.data}"] if self.data else []
        return ["--config", self.config, *data, *self.arguments]

    @property
    def words(self) -> str:
        """The options as a shell reads them."""
        return shlex.join(self.options)

    @property
    def variables(self) -> dict[str, str]:
        """The environment, each value as a shell reads it."""
        return {name: shlex.quote(value) for name, value in self.environment.items()}


def names(root: Path = CHECKOUT) -> list[str]:
    """Every job below `root`/jobs."""
    return sorted(path.name.removesuffix(SUFFIX) for path in (root / "jobs").glob(f"*{SUFFIX}"))


def read(path: Path, root: Path = CHECKOUT) -> JobFile:
    """The job of file `path`. Raises Mistake with every mistake in it."""
    document = yamlfile.read(path, root)
    job = yamlfile.validate(document, JobFile, document.data)
    if job:
        job = _sized(document, job, root)
        _rules(document, job, root)
    document.check()
    assert job
    return job


def load(name: str, root: Path = CHECKOUT) -> JobFile:
    """The job `name` of `root`/jobs. Raises Mistake."""
    return read(root / "jobs" / f"{name}{SUFFIX}", root)


def _sized(document: yamlfile.Document, job: JobFile, root: Path) -> JobFile:
    """The job with what it asks for on each node: by need, and else all of a machine of its hardware."""
    need = ("gpus_per_node", "cpus_per_node", "memory_gib_per_node")
    missing = [key for key in need if getattr(job, key) is None]
    if not missing:
        return job
    if job.hardware is None:
        for key in missing:
            document.wrong((key,), "missing; or name a machine type: hardware: h100-sxm-8x")
        return job
    from infra.model.load import load_profile  # 50 ms, which most jobs do not need

    try:
        profile = load_profile(job.hardware, root)
    except Mistake as mistake:
        document.wrong(("hardware",), str(mistake).splitlines()[0])
        return job
    whole = {
        "gpus_per_node": profile.accelerators.count if profile.accelerators else 0,
        "cpus_per_node": profile.cpu.threads,
        "memory_gib_per_node": profile.usable_mib // 1024,
    }
    return job.model_copy(update={key: whole[key] for key in missing})


def _rules(document: yamlfile.Document, job: JobFile, root: Path) -> None:
    """What must hold between the keys."""
    found = document.path.name.removesuffix(SUFFIX)
    if job.name != found:
        document.wrong(("name",), f"'{job.name}' is not the file's name; write '{found}'")
    known = stacks.names(root)
    if job.stack not in known:
        near = yamlfile.nearest(job.stack, known, all_of="In images/stacks")
        document.wrong(("stack",), f"no stack '{job.stack}'.{near}")
    if not (root / job.config).is_file():
        document.wrong(("config",), f"no file {job.config}")
    if job.warning_s >= job.time_limit_minutes * 60:
        text = f"{job.warning_s} s is no shorter than the whole job ({job.time_limit_minutes} minutes)"
        document.wrong(("warning_s",), text)
    for name in job.environment:
        if TAKEN.fullmatch(name):
            document.wrong(("environment", name), "a launcher sets it; another name is needed")
    if job.torchx and job.torchx.file != f"jobs/{found}.torchx.yaml":
        document.wrong(("torchx", "file"), f"jobs/launch/components.py looks for jobs/{found}.torchx.yaml")
    kubernetes = job.kubernetes
    if not any((job.torchrun, job.slurm, job.torchx, job.submitit, kubernetes)):
        document.wrong(
            ("name",), "none of torchrun, slurm, torchx, submitit and kubernetes: nothing to render"
        )
    if kubernetes is None:
        return
    if job.memory_gib_per_node and kubernetes.shared_memory_gib >= job.memory_gib_per_node:
        document.wrong(
            ("kubernetes", "shared_memory_gib"),
            f"{kubernetes.shared_memory_gib} leaves nothing of memory_gib_per_node, {job.memory_gib_per_node}",
        )
    elastic = kubernetes.elastic
    if elastic and not elastic.min_nodes <= job.nodes <= elastic.max_nodes:
        text = f"nodes is {job.nodes}, which is not from {elastic.min_nodes} to {elastic.max_nodes}"
        document.wrong(("kubernetes", "elastic", "min_nodes"), text)


def _mib(mib: int) -> str:
    """As sbatch takes it."""
    return f"{mib}M" if mib % 1024 else f"{mib // 1024}G"
