"""One job in Kubernetes by every launcher: TorchX makes the PyTorchJob that kubectl would; the TrainJob is valid."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.progress import Step
from infra.images import golang, targets
from infra.places.kind import job as jobs
from tests.kind.conftest import TEAM, Trial, docker, until
from tests.training import TRAIN, History, history

TESTED = {"real": ["Kubernetes", "training on two nodes"]}

TRAINER = "github.com/kubeflow/trainer/v2"
OPERATOR_IS_NOT_DEPLOYED = ("v2.2.0", "v2.3.0")  # the API server knows its objects, nobody acts on them


def torchx(kind: Trial, *words: str) -> str:
    """What `python -m jobs.torchx` prints, with the stack's Python, in a container beside this cluster."""
    tags = targets.current(["base", "cuda13"])
    assert tags, "cluster-up has built them"
    stack = Path(tags["cuda13"])
    kubectl = (kind.kind.folder / "kubectl").resolve().parent  # a link into the cache
    env = {
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "KUBECONFIG": kind.env["KUBECONFIG"],
        "SLIPWAY_CLUSTER": kind.kind.cluster.name,
        "PATH": f"{CHECKOUT}/bin:/usr/bin:/bin",
    }
    return docker(
        *("run", "--rm", "--init", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"),
        *(word for name, value in env.items() for word in ("--env", f"{name}={value}")),
        *("--volume", f"{stack}:/opt/stack/{stack.name}:ro", "--volume", f"{CHECKOUT}:{CHECKOUT}:ro"),
        *("--volume", f"{kubectl}:{kubectl}:ro", "--workdir", str(CHECKOUT), tags["base"]),
        *(f"/opt/stack/{stack.name}/bin/python", "-m", "jobs.torchx", *words),
    )


def submit(kind: Trial, *options: str) -> str:
    """The name of the PyTorchJob that TorchX has made: it prints pytorchjob://torchx/research:ddp-x1y2."""
    printed = torchx(kind, "run", "-s", "pytorchjob", "jobs.job", "--name", "ddp", "--", *options)
    (handle,) = [line for line in printed.splitlines() if line.startswith("pytorchjob://")]
    where, _, name = handle.removeprefix("pytorchjob://torchx/").partition(":")
    assert where == TEAM
    return name


@pytest.mark.more
def test_a_pytorchjob_by_torchx_has_the_losses_of_two_plain_processes(
    kind: Trial, reference: History
) -> None:
    name = submit(kind, *TRAIN)
    run = jobs.run_of(kind.kind, name)
    pods = kind.placed(name)
    kind.finish(run)
    assert history(run) == reference  # bit for bit: JSON keeps every digit of a float
    assert run.summary["world_size"] == 2
    assert len({each["spec"]["nodeName"] for each in pods}) == 2
    assert "SUCCEEDED" in torchx(kind, "status", f"pytorchjob://torchx/{TEAM}:{name}")


@pytest.mark.more
def test_torchx_shows_logs_lists_and_cancels_pytorchjobs(kind: Trial) -> None:
    name = submit(kind, "--train.steps=100000")
    handle = f"pytorchjob://torchx/{TEAM}:{name}"
    run = jobs.run_of(kind.kind, name)
    until("its first step", run.metrics, timeout_s=180)
    shown = torchx(kind, "status", handle)
    assert "RUNNING" in shown
    until("its log", lambda: "first step" in torchx(kind, "log", f"{handle}/node"), timeout_s=60)
    assert handle in torchx(kind, "list", "-s", "pytorchjob")
    torchx(kind, "cancel", handle)
    until("its removal", lambda: jobs.find(kind.kind, TEAM, name) is None, timeout_s=120)
    summary = run.folder / "summary.json"
    until("its pods, which end after it, to save", summary.exists, timeout_s=60)
    assert json.loads(summary.read_text())["state"] == "interrupted"


def test_what_the_queue_refuses_torchx_tells(kind: Trial) -> None:
    with pytest.raises(Failure, match="memory"):
        torchx(kind, "run", "-s", "pytorchjob", "jobs.job", "--name", "ddp", "--memMB", "921600")


@pytest.fixture(params=OPERATOR_IS_NOT_DEPLOYED)
def trainer(kind: Trial, request: pytest.FixtureRequest) -> Iterator[str]:
    """The custom resources of the Kubeflow Trainer of one version, from its Go module, in the cluster."""
    go, env = golang.ensure(golang.wanted(CHECKOUT / "programs/kubernetes/go.mod"), Step("go", None))
    words = [str(go), "mod", "download", "-json", f"{TRAINER}@{request.param}"]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    folder = Path(json.loads(done.stdout)["Dir"]) / "manifests/base/crds"
    files = sorted(folder.glob("trainer.kubeflow.org_*.yaml"))
    assert len(files) >= 3
    named = " ".join(f"--filename {file}" for file in files)
    kind.ok(f"kubectl create {named}")  # not apply: they are too big for its annotation
    kind.ok(f"kubectl wait --for=condition=Established --timeout=60s {named}")
    yield request.param
    kind.ok(f"kubectl delete {named}")


def test_the_trainjob_is_one_to_the_api_server(kind: Trial, trainer: str) -> None:
    """Its operator is not deployed here: this proves fields and values, and not that it runs."""
    check = "kubectl create --dry-run=server --validate=strict --filename"
    assert kind.ok(f"{check} k8s/trainjob.yaml").count("created (server dry run)") == 2
    runtime, train_job = YAML(typ="safe").load_all((CHECKOUT / "k8s/trainjob.yaml").read_text())
    train_job["spec"]["podTemplateOverrides"] = []  # of 2.1
    wrong = kind.kind.folder / "trainjob.json"
    wrong.write_text(json.dumps(train_job))
    refused = kind.sh(f"{check} {wrong}")
    assert refused.returncode != 0 and "podTemplateOverrides" in refused.stderr
    train_job["spec"].pop("podTemplateOverrides")
    train_job["spec"]["trainer"]["numProcPerNode"] = "auto"  # of 2.1
    wrong.write_text(json.dumps(train_job))
    assert "numProcPerNode" in kind.sh(f"{check} {wrong}").stderr
    assert runtime["kind"] == "TrainingRuntime"
