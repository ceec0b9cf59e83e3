"""Checks of every node of a running cluster, by testinfra: `pytest tests/nodes --cluster clusters/lab.yaml`.

They ask nothing that depends on how a node was made, so that they serve containers and real machines alike.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from infra.cluster import Cluster
from infra.load import load_cluster
from infra.machine import read_machine

SERVICES = ("db", "slurmdbd", "slurmctld", "login")


@dataclass(frozen=True)
class Node:
    """One node and what it is: db, slurmdbd, slurmctld, login or compute."""

    name: str
    role: str
    pool: str
    host: Host


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cluster", default="clusters/lab.yaml", help="the cluster file of the running cluster")


@cache
def _cluster(path: str) -> Cluster:
    return load_cluster(Path(path), machine=read_machine())


def _nodes(cluster: Cluster) -> list[Node]:
    named = [(name, name, "") for name in SERVICES]
    named += [(name, "compute", pool.name) for pool in cluster.pools for name in pool.nodes]
    return [
        Node(name, role, pool, testinfra.get_host(f"docker://{cluster.name}-{name}"))
        for name, role, pool in named
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`node`: every node; `slurm_node`: where munge runs; `user_node`: where users work; `compute`."""
    roles = {
        "node": {*SERVICES, "compute"},
        "slurm_node": {"slurmdbd", "slurmctld", "login", "compute"},
        "user_node": {"login", "compute"},
        "compute": {"compute"},
    }
    wanted = set(roles) & set(metafunc.fixturenames)
    nodes = _nodes(_cluster(metafunc.config.getoption("--cluster"))) if wanted else []
    for fixture in wanted:
        chosen = [node for node in nodes if node.role in roles[fixture]]
        metafunc.parametrize(fixture, chosen, ids=[node.name for node in chosen])


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return _cluster(request.config.getoption("--cluster"))
