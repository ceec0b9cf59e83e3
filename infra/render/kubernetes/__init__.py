"""Kubernetes: the kind cluster of a lab, and what a cluster needs beyond k8s/: teams, queues, volumes, capacity.

build/<cluster>/kubernetes/ is a kustomization on top of k8s/overlays/lab or gpu; queues/ is applied after it, when
Kueue answers.
"""

from infra.model.cluster import REGISTRY, Cluster, registry
from infra.render.text import origin, yaml

CAPACITY = "kubernetes/capacity.yaml"
IMAGES = ("kueue", "prometheus", "training-operator")  # of services that are deployed from k8s/ everywhere
TOOLS = "tools"  # what worker pods wait in until the first pod has an address; the operator is told of it


def render(cluster: Cluster) -> dict[str, str]:
    """Every file below build/<cluster>/ that only Kubernetes has."""
    from infra.render.kubernetes import jobs, kind, nodes, operator, queues, teams, volumes

    files = nodes.render(cluster) | teams.render(cluster) | volumes.render(cluster) | jobs.render(cluster)
    files |= operator.render(cluster)
    listed = sorted(name for name in (*teams.NAMES, *volumes.NAMES, CAPACITY) if name in files)
    files["kubernetes/kustomization.yaml"] = _kustomization(cluster, listed)
    if not cluster.where.lab:
        files["kubernetes/registry.yaml"] = f"# {origin(cluster)}\n{yaml(_init_image(cluster))}"
    files |= queues.render(cluster)
    if cluster.where.lab:
        files |= kind.render(cluster)
    return files


def _kustomization(cluster: Cluster, files: list[str]) -> str:
    """What `kubectl apply --server-side -k build/<cluster>/kubernetes` puts into the cluster."""
    overlay = "lab" if cluster.where.lab else "gpu"
    content: dict[str, object] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [
            # upstream/ comes from the modules that the programs are built from: `make manifests`, or the lab's `up`
            "upstream/training-operator/base/crds/kubeflow.org_pytorchjobs.yaml",
            "upstream/kueue/default",
            *(name.removeprefix("kubernetes/") for name in files),
        ],
        "components": [f"../../../k8s/overlays/{overlay}"],
    }
    if overlay == "gpu":
        content["images"] = [
            {"name": f"{REGISTRY}/{name}", "newName": f"{registry(cluster)}/{name}"} for name in IMAGES
        ]
        content["patches"] = [{"path": "registry.yaml"}]
    return f"# {origin(cluster)}\n{yaml(content)}"


def _init_image(cluster: Cluster) -> dict[str, object]:
    """A patch of the operator's deployment: kustomize finds images in pods, not in variables."""
    from infra.images import programs  # with all that builds need; few clusters are rendered with a registry

    image = f"{registry(cluster)}/{TOOLS}:{programs.version('kubernetes')}"
    container = {"name": "training-operator", "env": [{"name": "INIT_IMAGE", "value": image}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "training-operator", "namespace": "kubeflow"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
