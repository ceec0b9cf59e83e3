"""Checks of every node of a running cluster, by testinfra: `pytest tests/nodes --cluster clusters/lab.yaml`.

They ask nothing that depends on how a node was made, so that they serve containers and real machines alike.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from infra.base.paths import build
from infra.model.cluster import Cluster
from infra.model.host import read_host
from infra.model.load import load_cluster
from infra.model.shape import parts

PARTS = ("db", "slurmdbd", "slurmctld", "login", "compute")


@dataclass(frozen=True)
class Node:
    """One node and what it is: some of db, slurmdbd, slurmctld, login and compute."""

    name: str
    parts: tuple[str, ...]
    pool: str
    host: Host


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster", default="clusters/lab.yaml", help="the cluster file of the running cluster")


@cache
def _cluster(path: str) -> Cluster:
    return load_cluster(Path(path), host=read_host())


def connect(cluster: Cluster, name: str) -> Host:
    """A node of the lab is a container; a machine is reached by SSH, as its admin, who becomes root."""
    if cluster.place == "lab":
        return testinfra.get_host(f"docker://{cluster.name}-{name}")
    config = build(cluster.name) / "ssh" / "config"
    return testinfra.get_host(f"ssh://{name}", ssh_config=str(config), sudo=True)


def _nodes(cluster: Cluster) -> list[Node]:
    named = [(name, held, "") for name, held in parts(cluster).items()]
    named += [(name, ("compute",), pool.name) for pool in cluster.pools for name in pool.nodes]
    return [Node(name, held, pool, connect(cluster, name)) for name, held, pool in named]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`node`: every node; `slurm_node`: where munge runs; `user_node`: where users work; `compute`."""
    roles = {
        "node": {*PARTS},
        "slurm_node": {"slurmdbd", "slurmctld", "login", "compute"},
        "user_node": {"login", "compute"},
        "compute": {"compute"},
        "machine": {*PARTS},
    }
    wanted = set(roles) & set(metafunc.fixturenames)
    cluster = _cluster(metafunc.config.getoption("--cluster"))
    nodes = _nodes(cluster) if wanted else []
    for fixture in wanted:
        chosen = [node for node in nodes if roles[fixture] & set(node.parts)]
        if fixture == "machine" and cluster.place == "lab":
            chosen = []  # what holds for machines that Ansible configured, beyond the lab's containers
        metafunc.parametrize(fixture, chosen, ids=[node.name for node in chosen])


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return _cluster(request.config.getoption("--cluster"))
