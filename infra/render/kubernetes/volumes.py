"""The volumes of jobs, one of each in every team's namespace: `stack` to read, `workspace` to work in.

In the lab both are folders that every worker has mounted from this machine. Elsewhere the workspace is asked of the
storage class that the site has for shared file systems, and the stack is in the image.
"""

from typing import Any

from infra.model.cluster import Cluster
from infra.render.text import origin, yaml

NAMES = ("kubernetes/volumes.yaml",)
SHARED = "shared"  # the storage class of the site's file system that all nodes mount
WORKSPACE = "/slipway/workspace"  # on the lab's workers: jobs/ of the checkout, runs/ of the cluster


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/volumes.yaml."""
    objects: list[dict[str, Any]] = []
    for team in cluster.accounts:
        if cluster.where.lab:
            objects += _folder(team, "stack", "/opt/stack", "ReadOnlyMany")
            objects += _folder(team, "workspace", WORKSPACE, "ReadWriteMany")
        else:
            size = f"{cluster.spec.storage.capacity_gib}Gi"
            objects.append(_claim(team, "workspace", "ReadWriteMany", size, {"storageClassName": SHARED}))
    text = "---\n".join(yaml(each) for each in objects)
    return {"kubernetes/volumes.yaml": f"# {origin(cluster)}\n{text}"}


def _folder(team: str, name: str, path: str, mode: str) -> list[dict[str, Any]]:
    """A folder of the node as a volume, and the team's claim of just this one."""
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{team}-{name}"},
        "spec": {
            "capacity": {"storage": "1Gi"},  # of a folder nobody measures it
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {"namespace": team, "name": name},
            "hostPath": {"path": path, "type": "Directory"},
        },
    }
    return [volume, _claim(team, name, mode, "1Gi", {"storageClassName": "", "volumeName": f"{team}-{name}"})]


def _claim(team: str, name: str, mode: str, size: str, source: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": team},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": size}}, **source},
    }
