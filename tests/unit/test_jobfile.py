"""Job descriptions: the committed files are what they render to, and mistakes are told in a line each."""

# ruff: noqa: E501 - a table with one case a line

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from infra import jobfile
from infra.errors import Mistake
from infra.paths import CHECKOUT

DDP = (CHECKOUT / "jobs/ddp.job.yaml").read_text()


def test_rendering_again_changes_nothing() -> None:
    for name, text in jobfile.everything().items():
        assert (CHECKOUT / name).read_text() == text, f"{name}: run {jobfile.COMMAND}"


def test_both_schedulers_are_asked_for_the_same() -> None:
    job = jobfile.load("ddp")
    files = jobfile.render(job)
    sbatch = files["jobs/ddp.sbatch"]
    manifest = YAML(typ="safe").load(files["k8s/pytorchjob.yaml"])
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    assert sum(each["replicas"] for each in replicas.values()) == job.nodes
    assert f"#SBATCH --nodes={job.nodes}\n" in sbatch
    for each in replicas.values():
        [container] = each["template"]["spec"]["containers"]
        asked = container["resources"]["requests"]
        assert asked == container["resources"]["limits"]
        assert asked == {"cpu": "1", "memory": "3Gi", "nvidia.com/gpu": 1}
        assert each["restartPolicy"] == "ExitCode"
        assert each["template"]["spec"]["terminationGracePeriodSeconds"] == job.warning_s
    assert manifest["spec"]["runPolicy"]["activeDeadlineSeconds"] == 15 * 60
    assert "#SBATCH --time=00:15:00\n" in sbatch
    assert "#SBATCH --signal=USR2@60 " in sbatch


def test_the_elastic_variant_has_workers_only() -> None:
    manifest = YAML(typ="safe").load(jobfile.render(jobfile.load("ddp"))["k8s/pytorchjob-elastic.yaml"])
    assert list(manifest["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    policy = manifest["spec"]["elasticPolicy"]
    assert (policy["rdzvBackend"], policy["minReplicas"], policy["maxReplicas"]) == ("c10d", 1, 2)
    assert manifest["metadata"]["name"] == "ddp-elastic"


def test_pods_have_no_rights_and_no_token() -> None:
    manifest = YAML(typ="safe").load(jobfile.render(jobfile.load("ddp"))["k8s/pytorchjob.yaml"])
    pod = manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] != 0
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    shm = next(volume for volume in pod["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


MISTAKES = {
    "unknown key": ("\nnodes: 2", "\nnodse: 2", [": nodes: missing", ": nodse: unknown key. Did you mean 'nodes'?"]),
    "no stack": ("stack: cuda13", "stack: cuda31", [":7: stack: no stack 'cuda31'. Did you mean 'cuda13'?"]),
    "no configuration": ("config: jobs/ddp.yaml", "config: jobs/dpp.yaml", [":6: config: no file jobs/dpp.yaml"]),
    "outside": ("config: jobs/ddp.yaml", "config: ../x.yaml", ["config: '../x.yaml' is not of the form"]),
    "not the file's name": ("name: ddp", "name: dpp", [":3: name: 'dpp' is not the file's name; write 'ddp'"]),
    "capitals": ("name: ddp", "name: DDP", ["name: 'DDP' is not of the form"]),
    "no nodes": ("\nnodes: 2", "\nnodes: 0", [":9: nodes: 0 is not above 0"]),
    "all warning": ("warning_s: 60", "warning_s: 900", ["warning_s: 900 s is no shorter than the whole job (15 minutes)"]),
    "all shared": ("shared_memory_gib: 1", "shared_memory_gib: 3", ["kubernetes.shared_memory_gib: 3 leaves nothing of memory_gib_per_node, 3"]),
    "elastic": ("max_nodes: 2", "max_nodes: 1", ["kubernetes.elastic.min_nodes: nodes is 2, which is not from 1 to 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_a_line_each(name: str, tmp_path: Path) -> None:
    right, wrong, said = MISTAKES[name]
    assert DDP.count(right) == 1
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/ddp.yaml").touch()
    (tmp_path / "images").symlink_to(CHECKOUT / "images")
    (tmp_path / "jobs/ddp.job.yaml").write_text(DDP.replace(right, wrong))
    with pytest.raises(Mistake) as mistake:
        jobfile.load("ddp", tmp_path)
    lines = str(mistake.value).splitlines()
    assert len(lines) == len(said), lines
    for line, part in zip(lines, said, strict=True):
        assert line.startswith("jobs/ddp.job.yaml:") and part in line
