"""Kubernetes: the kind cluster of a lab, and what a cluster needs beyond k8s/: teams, queues, volumes, capacity.

build/<cluster>/kubernetes/ is a kustomization on top of k8s/overlays/lab or gpu; queues/ is applied after it, when
Kueue answers.
"""

from infra.cluster import Cluster
from infra.render.text import origin, yaml

CAPACITY = "kubernetes/capacity.yaml"


def render(cluster: Cluster) -> dict[str, str]:
    """Every file below build/<cluster>/ that only Kubernetes has."""
    from infra.render.kubernetes import jobs, kind, nodes, operator, queues, teams, volumes

    files = nodes.render(cluster) | teams.render(cluster) | volumes.render(cluster) | jobs.render(cluster)
    files |= operator.render(cluster)
    listed = sorted(name for name in (*teams.NAMES, *volumes.NAMES, CAPACITY) if name in files)
    files["kubernetes/kustomization.yaml"] = _kustomization(cluster, listed)
    files |= queues.render(cluster)
    if cluster.place == "lab":
        files |= kind.render(cluster)
    return files


def _kustomization(cluster: Cluster, files: list[str]) -> str:
    """What `kubectl apply --server-side -k build/<cluster>/kubernetes` puts into the cluster."""
    overlay = "lab" if cluster.place == "lab" else "gpu"
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [
            # upstream/ is copied beside this file from the modules that the programs are built from
            "upstream/training-operator/base/crds/kubeflow.org_pytorchjobs.yaml",
            "upstream/kueue/default",
            *(name.removeprefix("kubernetes/") for name in files),
        ],
        "components": [f"../../../k8s/overlays/{overlay}"],
    }
    return f"# {origin(cluster)}\n{yaml(content)}"
