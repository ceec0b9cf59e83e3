"""The jobs of jobs/*.job.yaml as this cluster runs them, where they differ from k8s/.

In the lab the pods are those of k8s/pytorchjob.yaml, but run as the person at this machine, so that what they write
belongs to that person. Elsewhere they run the stack's image, from the registry that the cluster file names.
"""

from infra.model import job as jobfile
from infra.model.cluster import Cluster, registry
from infra.model.stacks import Stack
from infra.render import launchers


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/jobs/<name>.yaml for every job whose team, priority and stack this cluster has."""
    files: dict[str, str] = {}
    stacks = {pool.stack.name: pool.stack for pool in cluster.pools if pool.stack}
    for name in jobfile.names():
        job = jobfile.load(name)
        wanted = job.kubernetes
        account = cluster.accounts.get(wanted.team) if wanted else None
        stack = stacks.get(job.stack)
        if wanted is None or account is None or stack is None or wanted.priority not in account.qos:
            continue
        files[f"kubernetes/jobs/{name}.yaml"] = _manifest(cluster, job, stack, elastic=False)
        if wanted.elastic:
            files[f"kubernetes/jobs/{name}-elastic.yaml"] = _manifest(cluster, job, stack, elastic=True)
    return files


def _manifest(cluster: Cluster, job: jobfile.JobFile, stack: Stack, *, elastic: bool) -> str:
    if cluster.where.lab:
        person = cluster.users[0]
        uid, gid = person.uid or launchers.UID, person.gid or launchers.UID
        return launchers.manifest(job, elastic=elastic, pods=launchers.Pods(stack.folder, uid=uid, gid=gid))
    image = f"{registry(cluster)}/stack-{stack.name}:{stack.lock_hash}"
    return launchers.manifest(job, elastic=elastic, pods=launchers.Pods(stack.folder, image, mounted=False))
