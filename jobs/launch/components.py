"""TorchX components: a job of jobs/*.job.yaml, or any module under our torchrun.

    python -m jobs.torchx run -s slurm jobs.job --name ddp -- --train.steps=50
    python -m jobs.torchx run -s local_cwd jobs.ddp -j 2x1 -m jobs.train -- --config jobs/ddp.yaml

TorchX's own `dist.ddp` starts plain torchrun, which passes no warning on to its workers (see jobs/torchrun.py).

Arguments are of plain types only: TorchX reads annotations as text and knows `Dict[str, str]` but not
`dict[str, str]`, and not `str | None`.
"""

import difflib
import importlib
import shlex
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torchx import specs

from jobs.cli.errors import Mistake

FOLDER = Path(__file__).parents[1]
SUFFIX = ".torchx.yaml"
CHECK = "check"  # in an AppDef's metadata: a module that reads the program's options, and those of the job
MANIFEST = "manifest"  # in an AppDef's metadata: the file that jobs/launch/pytorchjob.py starts from
ARGUMENTS = "arguments"  # in a role's metadata: what was added to the program's own, word by word


def job(
    *arguments: str,
    name: str = "ddp",
    j: str = "",
    cpu: int = 0,
    gpu: int = -1,
    memMB: int = 0,
    image: str = "",
    env: str = "",
    mounts: str = "",
) -> specs.AppDef:
    """A job of this checkout, as jobs/<name>.job.yaml describes it.

    Args:
        arguments: more options for the program, such as --train.steps=50
        name: the job
        j: nodes and workers on each, such as 4x8, instead of the job's own
        cpu: CPUs of each node, instead of the job's own
        gpu: GPUs of each node, instead of the job's own; 0 for none
        memMB: memory of each node in MiB, instead of the job's own
        image: container image, instead of the job's own
        env: more variables for every process: A=1,B=2
        mounts: for local_docker: type=bind,src=/host,dst=/there,readonly
    """
    app = read(FOLDER / f"{name}{SUFFIX}")
    (role,) = app.roles
    _check(app.metadata.get(CHECK, ""), arguments)
    if j:
        _arrange(role, j)
    resource = role.resource
    role.resource = specs.Resource(
        cpu=cpu or resource.cpu, gpu=resource.gpu if gpu < 0 else gpu, memMB=memMB or resource.memMB
    )
    role.image = image or role.image
    return _given(app, arguments, env, mounts)


def ddp(
    *arguments: str,
    m: str = "jobs.train",
    j: str = "1x2",
    cpu: int = 2,
    gpu: int = 0,
    memMB: int = 4096,
    image: str = "",
    env: str = "",
    mounts: str = "",
    port: int = 29500,
) -> specs.AppDef:
    """Any module under the torchrun of this checkout, with a rank for each worker.

    Args:
        arguments: options for the module
        m: the module, as python -m takes it
        j: nodes and workers on each, such as 2x8
        cpu: CPUs of each node
        gpu: GPUs of each node
        memMB: memory of each node in MiB
        image: container image, where the scheduler uses one
        env: variables for every process: A=1,B=2
        mounts: for local_docker: type=bind,src=/host,dst=/there,readonly
        port: where the nodes meet, on the first of them
    """
    command = (
        'cd "$${WORKSPACE:-.}" && exec "$${STACK:-/opt/stack/current}/bin/python" -m jobs.torchrun '
        f'--rdzv-backend=c10d --rdzv-endpoint="$${{{specs.macros.rank0_env}:=localhost}}:$${{MEET_PORT:-{port}}}" '
        f"--rdzv-id={specs.macros.app_id} -m {m}"
    )
    role = specs.Role(
        name="node",
        image=image,
        entrypoint="bash",
        args=["-c", command],
        resource=specs.Resource(cpu=cpu, gpu=gpu, memMB=memMB),
        port_map={"c10d": port},
    )
    _arrange(role, j)
    return _given(specs.AppDef(name=m.rpartition(".")[2], roles=[role]), arguments, env, mounts)


def read(path: Path) -> Any:
    """The AppDef that `python -m infra jobs` wrote. Raises Mistake when there is none of that name."""
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = sorted(each.name.removesuffix(SUFFIX) for each in path.parent.glob(f"*{SUFFIX}"))
        name = path.name.removesuffix(SUFFIX)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}"
        raise Mistake(f"--name: no job '{name}' with a section torchx. {hint}") from None
    roles = [
        specs.Role(**{**role, "resource": specs.Resource(**role["resource"])}) for role in data.pop("roles")
    ]
    return specs.AppDef(**data, roles=roles)


def _check(command: str, arguments: tuple[str, ...]) -> None:
    """Read the options as the program will. Raises Mistake when one is wrong, which was then told."""
    module, *words = shlex.split(command) or [""]
    if module and importlib.import_module(module).main([*words, *arguments]):
        raise Mistake("nothing was submitted")


def _arrange(role: Any, j: str) -> None:
    """Set nodes and workers. Raises Mistake unless `j` is like 2x8."""
    nodes, by, workers = j.partition("x")
    if not (nodes.isdigit() and by and workers.isdigit() and int(nodes) and int(workers)):
        raise Mistake(f"-j: '{j}' is not NODESxWORKERS, such as 2x8")
    role.num_replicas = int(nodes)
    role.env |= {"PET_NNODES": nodes, "PET_NPROC_PER_NODE": workers}


def _given(app: Any, arguments: tuple[str, ...], env: str, mounts: str) -> Any:
    """The app with what a person has added on the command line. Raises Mistake."""
    (role,) = app.roles
    if arguments:
        role.args[-1] += " " + shlex.join(arguments).replace("$", "$$")
        role.metadata[ARGUMENTS] = list(arguments)
    for pair in filter(None, env.split(",")):
        name, equals, value = pair.partition("=")
        if not equals:
            raise Mistake(f"--env: '{pair}' is not NAME=value")
        role.env[name] = value
    if mounts:
        role.mounts = specs.parse_mounts(mounts.split(","))
    return app
