"""Job descriptions: the committed files are what they render to, every launcher is asked for the same, mistakes."""

# ruff: noqa: E501 - a table with one case a line

import ast
import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model import job as jobfile
from infra.render import jobdiff, launchers

DDP = (CHECKOUT / "jobs/ddp.job.yaml").read_text()


def test_rendering_again_changes_nothing() -> None:
    for name, text in launchers.everything().items():
        assert (CHECKOUT / name).read_text() == text, f"{name}: run {launchers.COMMAND}"


def test_both_schedulers_are_asked_for_the_same() -> None:
    job = jobfile.load("ddp")
    files = launchers.render(job)
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
    manifest = YAML(typ="safe").load(launchers.render(jobfile.load("ddp"))["k8s/pytorchjob-elastic.yaml"])
    assert list(manifest["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    policy = manifest["spec"]["elasticPolicy"]
    assert (policy["rdzvBackend"], policy["minReplicas"], policy["maxReplicas"]) == ("c10d", 1, 2)
    assert manifest["metadata"]["name"] == "ddp-elastic"


def test_pods_have_no_rights_and_no_token() -> None:
    manifest = YAML(typ="safe").load(launchers.render(jobfile.load("ddp"))["k8s/pytorchjob.yaml"])
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


# Every key of a description, with words that a shell, YAML and TorchX would read otherwise.
WHOLE = """
name: whole
description: Everything that a description may say.
module: jobs.train
config: jobs/ddp.yaml
arguments: ["--train.steps=50", "--say=it's $HOME: 5 %"]
data: shared/data
outputs: shared/runs
environment: {NCCL_DEBUG: "WARN", QUOTED: "it's $HOME", NUMBER: "1"}
stack: cuda13
hardware: h100-sxm-8x
nodes: 4
cpus_per_node: 16
time_limit_minutes: 90
warning_s: 120
retries: 3
torchrun: {file: jobs/whole.sh}
slurm: {file: jobs/whole.sbatch}
torchx: {file: jobs/whole.torchx.yaml, port: 29600}
submitit: {file: jobs/launch/whole_submitit.py, timeouts: 5}
kubernetes:
  file: k8s/whole.yaml
  team: research
  priority: normal
  elastic: {file: k8s/whole-elastic.yaml, min_nodes: 2, max_nodes: 8}
  train_job: {file: k8s/whole-trainjob.yaml}
"""
SAID = ["--train.steps=50", "--say=it's $HOME: 5 %"]  # to the program
OPTIONS = ["--config", "jobs/ddp.yaml", "--data.folder=shared/data", *SAID]


def checkout(folder: Path, **jobs: str) -> Path:
    """A checkout with these descriptions and no others."""
    (folder / "jobs").mkdir()
    (folder / "jobs/ddp.yaml").touch()
    for part in ("images", "hardware"):
        (folder / part).symlink_to(CHECKOUT / part)
    for name, text in jobs.items():
        (folder / f"jobs/{name}.job.yaml").write_text(text)
    return folder


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, str]:
    """The files of WHOLE by the last part of their names."""
    root = checkout(tmp_path, whole=WHOLE)
    files = launchers.render(jobfile.load("whole", root), root)
    return {name.rpartition("/")[2]: text for name, text in files.items()}


def containers(text: str, where: str) -> list[dict[str, Any]]:
    """The first container of every pod in a manifest, found by the key that their list has."""
    found: list[dict[str, Any]] = []

    def look(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == where:
                    found.append(value[0])
                else:
                    look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    for document in YAML(typ="safe").load_all(text):
        look(document)
    return found


def test_every_launcher_gives_the_program_the_same_words(whole: dict[str, str]) -> None:
    for name in ("whole.sh", "whole.sbatch"):
        last = whole[name].replace("\\\n", " ").splitlines()[-1]
        words = shlex.split(last)
        start = len(words) - words[::-1].index("jobs.train")
        assert words[start : start + len(OPTIONS)] == OPTIONS, name
        assert "--max-restarts=3" in words[:start], name
        assert words[-1] == "$@" and words[-2].startswith("--run.folder=shared/runs/"), name
    for name in ("whole.yaml", "whole-elastic.yaml", "whole-trainjob.yaml"):
        for container in containers(whole[name], "containers"):
            # No --max-restarts: a pod that is started again counts rounds from nothing, the other would wait in its own.
            folder = "shared/runs/whole-elastic" if "elastic" in name else "shared/runs/whole"
            assert container["args"] == ["-m", "jobs.train", *OPTIONS, f"--run.folder={folder}"]
    (role,) = YAML(typ="safe").load(whole["whole.torchx.yaml"])["roles"]
    command = role["args"][1].replace("$$", "$").replace("${app_id}", "17")
    assert shlex.split(command)[-len(OPTIONS) - 1 :] == [*OPTIONS, "--run.folder=shared/runs/17"]
    assert role["env"]["PET_MAX_RESTARTS"] == "3"
    assert submitit(whole)["options"] == OPTIONS


def submitit(files: dict[str, str]) -> dict[str, Any]:
    """The keywords of the Job in a rendered submitit script."""
    (call,) = [
        node
        for node in ast.walk(ast.parse(files["whole_submitit.py"]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "executor.Job"
    ]
    return {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}


def test_every_launcher_asks_for_the_same(whole: dict[str, str]) -> None:
    """A whole machine of the profile, but for what the description asks for itself: 16 CPUs."""
    memory = 1985  # GiB: 97 % of the 2048, less one, of hardware/h100-sxm-8x.yaml
    asked = {line.split()[1] for line in whole["whole.sbatch"].splitlines() if line.startswith("#SBATCH")}
    each = memory * 1024 // 8  # MiB of a GPU: with more or fewer of them a job has so much more or less
    assert asked >= {
        "--nodes=4",
        "--gres=gpu:8",
        "--cpus-per-gpu=2",
        f"--mem-per-gpu={each}M",
        "--time=01:30:00",
    }
    assert asked >= {"--signal=USR2@120", "--output=shared/runs/%j.out"}
    for name in ("whole.yaml", "whole-elastic.yaml", "whole-trainjob.yaml"):
        for container in containers(whole[name], "containers"):
            limits = container["resources"]["limits"]
            assert limits == {"cpu": "16", "memory": f"{memory}Gi", "nvidia.com/gpu": 8}, name
    torchx = YAML(typ="safe").load(whole["whole.torchx.yaml"])
    (role,) = torchx["roles"]
    assert role["resource"] == {"cpu": 16, "gpu": 8, "memMB": memory * 1024}
    assert (role["num_replicas"], role["env"]["PET_NNODES"], role["env"]["PET_NPROC_PER_NODE"]) == (
        4,
        "4",
        "8",
    )
    assert torchx["metadata"]["time_limit_minutes"] == "90"
    job = submitit(whole)
    assert (job["nodes"], job["workers_per_node"], job["gpus_per_node"], job["cpus_per_node"]) == (
        4,
        8,
        8,
        16,
    )
    assert (job["memory_gib_per_node"], job["time_limit_minutes"], job["warning_s"]) == (memory, 90, 120)
    assert job["timeouts"] == 5
    runtime, train_job = YAML(typ="safe").load_all(whole["whole-trainjob.yaml"])
    assert train_job["spec"]["trainer"] == {"numNodes": 4, "numProcPerNode": 8}
    assert train_job["spec"]["activeDeadlineSeconds"] == 90 * 60
    assert runtime["metadata"]["name"] == train_job["spec"]["runtimeRef"]["name"] == "whole"


def test_every_launcher_sets_the_same_environment(whole: dict[str, str]) -> None:
    wanted = {"NCCL_DEBUG": "WARN", "QUOTED": "it's $HOME", "NUMBER": "1"}
    for name in ("whole.sh", "whole.sbatch"):
        lines = [line for line in whole[name].splitlines() if line.startswith("export ")]
        shown = subprocess.run(
            ["bash", "-c", "\n".join([*lines, "env --null"])], capture_output=True, text=True, check=True
        ).stdout
        assert wanted.items() <= dict(line.split("=", 1) for line in shown.split("\0") if "=" in line).items()
    for name in ("whole.yaml", "whole-trainjob.yaml"):
        for container in containers(whole[name], "containers"):
            assert wanted.items() <= {each["name"]: each["value"] for each in container["env"]}.items()
    assert wanted.items() <= YAML(typ="safe").load(whole["whole.torchx.yaml"])["roles"][0]["env"].items()
    assert submitit(whole)["environment"] == wanted


def test_rendered_scripts_are_valid(whole: dict[str, str]) -> None:
    for name in ("whole.sh", "whole.sbatch"):
        done = subprocess.run(["bash", "-n"], input=whole[name], capture_output=True, text=True)
        assert done.stderr == "", name
    beside = Path(sys.executable).parent
    ruff = subprocess.run(
        [beside / "ruff", "format", "--check", "--stdin-filename=jobs/launch/x.py", "-"],
        input=whole["whole_submitit.py"], capture_output=True, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert ruff.returncode == 0, ruff.stderr


def test_a_trainjob_restarts_its_pods_together_and_not_after_a_mistake(whole: dict[str, str]) -> None:
    runtime, _ = YAML(typ="safe").load_all(whole["whole-trainjob.yaml"])
    spec = runtime["spec"]["template"]["spec"]
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    (replicated,) = spec["replicatedJobs"]
    assert replicated["template"]["metadata"]["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    job = replicated["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert (
        container["name"] == rule["onExitCodes"]["containerName"] == "node"
    )  # the operator looks for this name
    assert job["template"]["spec"]["restartPolicy"] == "Never" and job["backoffLimit"] == 0


def test_the_pods_of_both_operators_are_the_same() -> None:
    files = launchers.render(jobfile.load("ddp"))
    (one,) = {json.dumps(each) for each in containers(files["k8s/pytorchjob.yaml"], "containers")}
    (other,) = {json.dumps(each) for each in containers(files["k8s/trainjob.yaml"], "containers")}
    assert one == other.replace('"name": "node"', '"name": "pytorch"')


def test_differences_name_each_launcher_and_only_keys_that_are_used(tmp_path: Path) -> None:
    root = checkout(tmp_path, whole=WHOLE)
    found = jobdiff.differences(jobfile.load("whole", root))
    by_launcher: dict[str, set[str]] = {}
    for each in found:
        by_launcher.setdefault(each.launcher.split()[0] + each.launcher.split()[-1], set()).add(each.key)
    assert len(by_launcher) == 8
    assert (
        "retries"
        in by_launcher["submititjobs/launch/whole_submitit.py"] & by_launcher["PyTorchJobk8s/whole.yaml"]
    )
    assert "elastic" in by_launcher["TrainJobk8s/whole-trainjob.yaml"]
    assert "time_limit_minutes" in by_launcher["PyTorchJobk8s/whole.yaml"]
    assert "retries" not in {each.key for each in jobdiff.differences(jobfile.load("collectives"))}
    assert all(len(line) <= 110 for line in jobdiff.table(jobfile.load("ddp")).splitlines())


def test_rendering_every_target_needs_no_torch_and_little_beside_the_imports() -> None:
    """In seconds of processor time of a process of its own; figures are in docs/measured.md."""
    loads = "import sys; from infra.render import launchers"
    renders = f"{loads}; launchers.everything(); print([name for name in ('torch', 'numpy', 'torchx') if name in sys.modules])"

    def best(code: str) -> float:
        times = []
        for _ in range(3):
            begin = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
            )
            end = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)
            assert done.stdout in ("", "[]\n")
        return min(times)

    assert best(renders) < 2 * best(loads)


MISTAKES = {
    "unknown key": ("\nnodes: 2", "\nnodse: 2", [": nodes: missing", ": nodse: unknown key. Did you mean 'nodes'?"]),
    "no stack": ("stack: cuda13", "stack: cuda31", [":7: stack: no stack 'cuda31'. Did you mean 'cuda13'?"]),
    "no configuration": ("config: jobs/ddp.yaml", "config: jobs/dpp.yaml", [":6: config: no file jobs/dpp.yaml"]),
    "outside": ("config: jobs/ddp.yaml", "config: ../x.yaml", ["config: '../x.yaml' is not of the form"]),
    "not the file's name": ("name: ddp", "name: dpp", [":3: name: 'dpp' is not the file's name; write 'ddp'"]),
    "size missing": ("cpus_per_node: 1\n", "", [": cpus_per_node: missing; or name a machine type: hardware: h100-sxm-8x"]),
    "no machine type": ("cpus_per_node: 1\n", "hardware: h100\n", [": hardware: "]),
    "a launcher's own": ("stack: cuda13", "stack: cuda13\nenvironment: {PET_NNODES: '3'}", [": environment.PET_NNODES: a launcher sets it"]),
    "not a variable": ("stack: cuda13", "stack: cuda13\nenvironment: {A-B: '3'}", [": environment.A-B"]),
    "retries": ("retries: 3", "retries: -1", [": retries: -1 is not 0 or more"]),
    "another name": ("file: jobs/ddp.torchx.yaml", "file: jobs/x.yaml", [": torchx.file: jobs/launch/components.py looks for jobs/ddp.torchx.yaml"]),
    "not a module": ("file: jobs/launch/ddp_submitit.py", "file: jobs/ddp-submitit.py", [": submitit.file: 'jobs/ddp-submitit.py' is not of the form"]),
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
    root = checkout(tmp_path, ddp=DDP.replace(right, wrong))
    with pytest.raises(Mistake) as mistake:
        jobfile.load("ddp", root)
    lines = str(mistake.value).splitlines()
    assert len(lines) == len(said), lines
    for line, part in zip(lines, said, strict=True):
        assert line.startswith("jobs/ddp.job.yaml:") and part in line


@pytest.mark.parametrize("name", jobfile.names())
def test_the_check_of_a_job_takes_its_own_configuration_and_example(name: str) -> None:
    job = jobfile.load(name)
    assert job.check
    words = [sys.executable, "-m", job.check, *job.options]
    good = subprocess.run([*words, job.example], cwd=CHECKOUT, capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    bad = subprocess.run([*words, "--nothing.such=1"], cwd=CHECKOUT, capture_output=True, text=True)
    assert bad.returncode == 2
    assert "--nothing.such: no such option" in bad.stderr


@pytest.mark.parametrize(
    ("gpus", "cpus", "gib", "asked"),
    [
        (0, 4, 8, ["--cpus-per-task=4", "--mem=8G"]),
        (1, 1, 3, ["--cpus-per-gpu=1", "--mem-per-gpu=3G"]),
        (8, 64, 512, ["--cpus-per-gpu=8", "--mem-per-gpu=64G"]),
        (2, 1, 3, ["--cpus-per-task=1", "--mem-per-gpu=1536M"]),  # no GPU has half a CPU
    ],
)
def test_what_slurm_is_asked_for_grows_with_the_gpus(
    gpus: int, cpus: int, gib: int, asked: list[str]
) -> None:
    job = jobfile.load("ddp").model_copy(
        update={"gpus_per_node": gpus, "cpus_per_node": cpus, "memory_gib_per_node": gib}
    )
    assert job.sizes == asked
