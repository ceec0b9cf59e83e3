"""What every place makes machines from: no machine lost or doubled, names and tags that the places take."""

import json
import re
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from infra.model import ports, shape
from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from tests.checkout import LAPTOP, checkout, small_cluster
from tests.strategies import clusters, schedulable

ROOMY = replace(LAPTOP, memory_mib=10_000_000)


def load(root: Path, data: dict[str, Any]) -> Cluster:
    path = root / "clusters" / f"{data['name']}.yaml"
    path.write_text(json.dumps(data))
    return load_cluster(path, root=root, host=ROOMY)


def on_docker(**changes: Any) -> dict[str, Any]:
    return small_cluster(place="docker", **changes)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(clusters(schedulable()))
def test_every_host_is_one_machine(data: dict[str, Any]) -> None:
    data = data | {"place": "docker"}
    for pool in data["pools"].values():
        pool["count"] = min(pool["count"], 40)
    with tempfile.TemporaryDirectory() as folder:
        cluster = load(checkout(Path(folder)), data)
    made = shape.machines(cluster)
    assert [spec.name for spec in made] == [*cluster.service_hosts, *cluster.nodes]
    assert [spec.index for spec in made] == list(range(len(made)))
    assert {part for spec in made for part in spec.parts} == set(ports.PARTS)
    for spec in made:
        assert (spec.parts == ("compute",)) == (spec.group in cluster.spec.pools)
        name = shape.resource_name(cluster, spec.name)
        assert re.fullmatch(r"slipway-[a-z0-9-]+", name)
        labels = shape.tags(cluster, spec, form="label")
        # GCP: keys begin with a lower-case letter, both are of these characters, 63 at most
        assert all(re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) for key in labels)
        assert all(re.fullmatch(r"[a-z0-9_-]{0,63}", value) for value in labels.values())


def test_growing_the_last_pool_moves_no_machine(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    two = shape.machines(load(root, on_docker()))
    pool = {"hardware": "h100-sxm-8x", "count": 3, "partition": "gpu"}
    three = shape.machines(load(root, on_docker(pools={"gpu": pool})))
    assert three[: len(two)] == two
    assert [spec.name for spec in three[len(two) :]] == ["gpu-3"]


def test_a_small_site_puts_all_services_onto_one_machine(tmp_path: Path) -> None:
    one = {"hardware": "cpu-epyc-2s", "controller": "s", "accounting": "s", "database": "s", "login": "s"}
    made = shape.machines(load(checkout(tmp_path), on_docker(services=one)))
    assert made[0].parts == ("db", "slurmdbd", "slurmctld", "login")
    assert sum(spec.group == shape.SERVICES for spec in made) == 1


def test_docker_machines_have_cores_and_memory_of_their_own(tmp_path: Path) -> None:
    made = shape.machines(load(checkout(tmp_path), on_docker()))
    nodes = [spec for spec in made if spec.group == "gpu"]
    assert all(spec.memory_mib and spec.memory_mib > shape.OVERHEAD_MIB for spec in nodes)
    assert len({spec.cpuset for spec in nodes}) == len(nodes)
    assert all(spec.simulated for spec in nodes)


def test_tags_say_whose_and_what(tmp_path: Path) -> None:
    cluster = load(checkout(tmp_path), on_docker())
    assert shape.tags(cluster) == {"slipway:cluster": "small", "managed-by": "slipway"}
    tags = shape.tags(cluster, shape.machines(cluster)[-1])
    assert tags["slipway:group"] == "gpu" and tags["slipway:hardware"] == "h100-sxm-8x"


@pytest.mark.parametrize(("to", "source"), list(product(ports.PARTS, ports.PARTS)))
def test_every_rule_names_parts_that_exist_and_none_opens_everything(to: str, source: str) -> None:
    open_ = [
        row
        for row in ports.PORTS
        if to in ports.MEMBERS[row.to] and source in ports.MEMBERS.get(row.source, ())
    ]
    everything = [row for row in open_ if row.number == 1 and row.last == 65535]
    assert bool(everything) == (to == source == "compute")
    database = [row for row in open_ if row.number == 3306]
    assert bool(database) == ((to, source) == ("db", "slurmdbd"))


def test_only_the_admins_reach_a_machine_from_outside() -> None:
    outside = [row for row in ports.PORTS if row.source not in ports.MEMBERS]
    assert [(row.service, row.number, row.source) for row in outside] == [("ssh", 22, "admin")]


def test_storage_opens_its_ports_only_where_it_is_used(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    assert ports.table(load(root, on_docker())) == ports.PORTS
    nfs = load(root, on_docker(storage={"kind": "nfs"}))
    assert set(ports.table(nfs)) - set(ports.PORTS) == set(ports.NFS)
    assert ports.file_server(nfs) == "slurmctld"
    lustre = load(root, on_docker(storage={"kind": "lustre", "source": "mgs@tcp:/fs"}))
    assert set(ports.table(lustre)) - set(ports.PORTS) == set(ports.LUSTRE)
    assert ports.file_server(lustre) is None
