"""The jobs of jobs/*.job.yaml as this cluster runs them.

In the lab the pods run a small image with the stack mounted, as k8s/pytorchjob.yaml says, and as the person at this
machine, so that what they write belongs to that person. Elsewhere they run the stack's image.
"""

from infra import jobfile
from infra.cluster import Cluster


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/jobs/<name>.yaml for every job whose team and priority this cluster has."""
    return {}
