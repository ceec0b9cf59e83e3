"""Kubernetes: what a cluster with real GPUs is given, taken by a real API server; nothing of it is started."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT
from infra.base.process import output
from tests.checkout import small_cluster
from tests.kind.conftest import TEAM, Trial

TESTED = {"text": ["Kubernetes"]}
REGISTRY = "registry.example.org/slipway"


@pytest.fixture(scope="module")
def manifests(kind: Trial) -> Iterator[Path]:
    """build/<cluster>/kubernetes of a cluster that someone else has made."""
    file = CHECKOUT / "build/testgpu.yaml"
    file.write_text(
        json.dumps(small_cluster(name="testgpu", schedulers=["kubernetes"], software={"registry": REGISTRY}))
    )
    folder = CHECKOUT / "build/testgpu"
    try:
        kind.ok(f"make manifests CLUSTER={file}")
        yield folder / "kubernetes"
    finally:
        output(["rm", "-rf", folder, file])


def test_what_a_gpu_cluster_is_given_is_taken_by_an_api_server(kind: Trial, manifests: Path) -> None:
    """As `kubectl apply -k` would send it, with the server's own checks; the lab's own objects stay as they are."""
    objects = list(YAML(typ="safe").load_all(kind.ok(f"kubectl kustomize {manifests}")))
    images = {
        container["image"]
        for each in objects
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images, "operators are deployed"
    assert all(image.startswith(f"{REGISTRY}/") for image in images), images
    for each in objects:
        if each["kind"] == "PersistentVolumeClaim":  # the lab's cannot be changed: asked for once more
            each["metadata"]["name"] += "-gpu"
    file = manifests / "all.json"
    file.write_text("\n".join(json.dumps(each) for each in objects))
    said = kind.ok(f"kubectl apply --server-side --force-conflicts --dry-run=server -f {file}")
    assert "deployment.apps/training-operator serverside-applied (server dry run)" in said
    queues = kind.ok(f"kubectl apply --server-side --force-conflicts --dry-run=server -k {manifests}/queues")
    assert f"clusterqueue.kueue.x-k8s.io/{TEAM} serverside-applied (server dry run)" in queues


def test_its_job_runs_the_image_of_the_stack(kind: Trial, manifests: Path) -> None:
    """A job of the lab's team that asks for what the lab's nodes announce; the image is all that differs."""
    said = kind.sh(f"kubectl apply --dry-run=server -f {manifests}/jobs/ddp.yaml")
    assert said.returncode == 0, said.stderr
    assert f"{REGISTRY}/stack-cuda13:" in (manifests / "jobs/ddp.yaml").read_text()
