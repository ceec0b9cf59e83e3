"""TorchX's local_docker runs a job of two nodes as two containers of the stack's image: the bits of plain torchrun."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.images.targets import Target

TESTED = {"real": ["images and their locks", "training on two nodes"]}

pytestmark = pytest.mark.more

STEPS = 20
TRAIN = (f"--train.steps={STEPS}", "--run.folder=/tmp/run", "--data.folder=/tmp/data")
APP = "torchx.pytorch.org/app-id"
NETWORK = "torchx"


def docker(*words: str) -> str:
    return output(["docker", *words])


def losses(container: str, folder: Path) -> list[float]:
    docker("cp", f"{container}:/tmp/run/metrics.jsonl", str(folder))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.fixture
def network() -> Iterator[None]:
    """TorchX makes a network and leaves it; one that was there before is somebody's."""
    before = NETWORK in docker("network", "ls", "--format", "{{.Name}}").split()
    yield
    if not before:
        subprocess.run(["docker", "network", "rm", NETWORK], capture_output=True, check=False)


@pytest.fixture
def plain(built: dict[str, Target], tmp_path: Path) -> list[float]:
    """Two workers of one torchrun, in a container of the same image."""
    (tmp_path / "plain").mkdir()
    name = f"slipway-test-plain-{os.getpid()}"
    try:
        docker(
            *("run", "--init", "--name", name, "--shm-size", "1g"),
            *("--volume", f"{CHECKOUT}:/workspace:ro", "--env", "PYTHONDONTWRITEBYTECODE=1"),
            *(built["stack-cuda13"].where, "/workspace/jobs/ddp.sh", *TRAIN),
        )
        return losses(name, tmp_path / "plain")
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, check=False)


def test_two_containers_have_the_losses_of_two_processes(
    built: dict[str, Target], plain: list[float], network: None, tmp_path: Path
) -> None:
    stack = Path(built["cuda13"].where)
    mount = f"type=bind,src={CHECKOUT},dst=/workspace,readonly"
    printed = docker(
        # TorchX itself, with the stack's Python, beside the containers that it has Docker start
        *("run", "--rm", "--init", "--volume", "/var/run/docker.sock:/var/run/docker.sock"),
        *("--volume", f"{stack}:/opt/stack/{stack.name}:ro", "--volume", f"{CHECKOUT}:{CHECKOUT}:ro"),
        *("--env", "PYTHONDONTWRITEBYTECODE=1", "--workdir", str(CHECKOUT), built["base"].where),
        *(f"/opt/stack/{stack.name}/bin/python", "-m", "jobs.torchx", "run", "-s", "local_docker", "--wait"),
        *("jobs.job", "--name", "ddp", "--gpu", "0", "--memMB", "4096", "--mounts", mount),
        *("--image", built["stack-cuda13"].where, "--env", "WORKSPACE=/workspace,PYTHONDONTWRITEBYTECODE=1"),
        *("--", *TRAIN),
    )
    (handle,) = [line for line in printed.splitlines() if line.startswith("local_docker://")]
    app = handle.rpartition("/")[2]
    containers = docker("ps", "--all", "--quiet", "--filter", f"label={APP}={app}").split()
    try:
        assert len(containers) == 2
        codes = docker("inspect", "--format", "{{.State.ExitCode}}", *containers).split()
        assert codes == ["0", "0"]
        first = [each for each in containers if "ranks on 2 nodes" in docker("logs", each)]
        assert len(first) == 1  # rank 0 alone speaks and writes
        assert losses(first[0], tmp_path) == plain  # bit for bit: JSON keeps every digit of a float
    finally:
        for each in containers:
            docker("rm", "--force", "--volumes", each)
