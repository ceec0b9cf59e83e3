"""A lab's containers, without Slurm in them: where they are, and what a Compose that was killed leaves to the next."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from infra.images.targets import Target
from infra.places import owner
from infra.places.lab import up
from infra.places.lab.compose import SERVICES, Project
from infra.places.lab.down import remove

TESTED = {"stand-in": ["place lab"]}

NAME = "test-compose"
ANEW = f"""
from infra.places.lab.compose import Project
project = Project("{NAME}")
project.compose("up", "--detach", "--force-recreate", log=project.folder / "compose.log")
"""


@pytest.fixture(scope="module")
def project(built: dict[str, Target]) -> Iterator[Project]:
    """Containers with the names of a lab's, which sleep."""
    project = Project(NAME)
    project.folder.mkdir(parents=True, exist_ok=True)
    services = {
        name: {
            "image": built["base"].where,
            "container_name": project.container(name),
            "command": ["sleep", "infinity"],
            "init": True,
            "networks": ["cluster"],
            "labels": owner.labels(),
        }
        for name in (*SERVICES, "c1", "c2")
    }
    text = json.dumps({"name": project.name, "services": services, "networks": {"cluster": {}}})
    (project.folder / "compose.yaml").write_text(text)
    yield project
    remove(project, volumes=True)


def start(project: Project) -> dict[str, tuple[str, ...]]:
    """As cluster-up does; the address of each node."""
    cluster: Any = SimpleNamespace(name=NAME, place="lab", nodes=["c1", "c2"])
    up._compose_up(project, cluster, anew=False)
    return {node.name: node.addresses for node in project.containers()}


@pytest.mark.more
def test_a_container_keeps_its_address(project: Project) -> None:
    before = start(project)
    assert len(set(before.values())) == len(SERVICES) + 2
    nodes = [project.container(name) for name in ("c1", "c2")]
    subprocess.run(["docker", "stop", "--time", "0", *nodes], check=True, capture_output=True)
    for node in reversed(nodes):
        subprocess.run(["docker", "start", node], check=True, capture_output=True)
    assert {node.name: node.addresses for node in project.containers()} == before


@pytest.mark.more
@pytest.mark.parametrize("after_s", [0.8, 1.2, 1.6, 2.0, 2.4])
def test_a_compose_that_was_killed_leaves_no_container_under_another_name(
    project: Project, after_s: float
) -> None:
    before = start(project)
    killed = subprocess.Popen([sys.executable, "-c", ANEW], cwd=CHECKOUT)
    time.sleep(after_s)
    killed.kill()
    killed.wait()
    assert start(project) == before
    for node in project.containers():
        assert (node.container, node.state) == (project.container(node.name), "running")
