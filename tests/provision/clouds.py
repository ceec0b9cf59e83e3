"""Clusters in clouds: the shapes whose graphs are kept, and random ones. Loaded from a temporary checkout."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from infra.provision.graph import Resource, graph
from tests.checkout import checkout, small_cluster

AWS = {"region": "us-east-1", "zone": "us-east-1a"}
GCP = {"project": "example", "region": "europe-west4", "zone": "europe-west4-b"}
SERVICES = {"hardware": "cloud-services"}
ONE_HOST = {**SERVICES, "controller": "ctl", "accounting": "ctl", "database": "ctl"}
TRAIN = {"train": {"default": True}}


def _cluster(place: str, hardware: str, count: int, **more: Any) -> dict[str, Any]:
    machines = (AWS if place == "aws" else GCP) | more.pop("machines", {})
    pool = {"hardware": hardware, "count": count, "partition": "train"} | more.pop("pool", {})
    return small_cluster(
        **{
            "place": place,
            "services": SERVICES,
            "machines": machines,
            "pools": {"gpu": pool},
            "partitions": TRAIN,
            **more,
        }
    )


# Three real shapes in each cloud that rents them, and Google's TPUs.
SHAPES: dict[str, dict[str, Any]] = {
    "aws-h100": _cluster("aws", "h100-sxm-8x", 2),
    "aws-gb200": _cluster(
        "aws",
        "gb200-nvl72-tray",
        36,
        services=ONE_HOST,
        pool={"reservation": "block:cr-0123456789abcdef0"},
        storage={"kind": "nfs", "source": "10.20.0.5:/export"},
    ),
    "aws-cpu": _cluster(
        "aws",
        "cpu-epyc-2s",
        3,
        machines={"ssh_from": ["203.0.113.0/24"], "image": "debian-12"},
        pool={"spot": True, "zone": "us-east-1b"},
        storage={"kind": "nfs"},
    ),
    "gcp-h100": _cluster("gcp", "h100-sxm-8x", 2, pool={"reservation": "ours"}),
    "gcp-gb200": _cluster("gcp", "gb200-nvl72-tray", 36, services=ONE_HOST, storage={"kind": "none"}),
    "gcp-cpu": _cluster(
        "gcp",
        "cpu-epyc-2s",
        3,
        machines={"ssh_from": ["203.0.113.0/24"], "image": "debian-12"},
        pool={"spot": True},
        storage={"kind": "nfs"},
    ),
    "gcp-tpu": _cluster(
        "gcp",
        "tpu-v5e-8",
        2,
        schedulers=["kubernetes"],
        services=ONE_HOST,
        pool={"partition": None, "spot": True},
        partitions={},
    ),
}
for shape in SHAPES.values():
    shape["pools"]["gpu"] = {key: value for key, value in shape["pools"]["gpu"].items() if value is not None}


def load(root: Path, data: dict[str, Any], name: str = "small") -> Cluster:
    """A cluster of the data, from the checkout in `root`."""
    path = root / "clusters" / f"{name}.yaml"
    path.write_text(json.dumps(data | {"name": name}))
    return load_cluster(path, root=root)


@functools.cache
def made(shape: str) -> tuple[Cluster, list[Resource]]:
    """A shape's cluster, called small, and its graph: a second or two, once for all tests that look at it."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = load(checkout(Path(folder)), SHAPES[shape])
    return cluster, graph(cluster)


def in_cloud(data: dict[str, Any], place: str) -> dict[str, Any]:
    """A random cluster of tests.strategies, moved to a cloud. Pools are cut: rules do not depend on their size."""
    pools = {
        name: pool | {"count": min(pool["count"], 3), "spot": pool["weight"] % 2 == 0}
        for name, pool in data["pools"].items()
    }
    named = data["qos"] and len(data["accounts"]) > 1
    machines = (AWS if place == "aws" else GCP) | {"ssh_from": ["198.51.100.0/25"] if named else []}
    storage = {"kind": ("place", "nfs", "none")[len(pools) % 3]}
    return data | {
        "place": place,
        "services": SERVICES,
        "pools": pools,
        "machines": machines,
        "storage": storage,
    }
