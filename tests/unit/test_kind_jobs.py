"""A job file of Kubernetes: what is wrong in it is one line; whose job is followed, replaced, or left alone."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from infra.base.errors import Failure, Mistake
from infra.base.progress import Plain, Step
from infra.model.load import load_cluster
from infra.places.kind import job as jobs
from infra.places.kind import look, manifests
from infra.places.kind.cluster import Container, Kind
from infra.proof import run as proof
from tests.apiserver import LAST_APPLIED, Served, kubeconfig, serving
from tests.checkout import LAPTOP

JOB = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: mine}
spec:
  pytorchReplicaSpecs:
    Master:
      template:
        spec:
          containers:
            - {name: pytorch, args: [-m, jobs.train, --run.folder=runs/mine]}
"""
PATH = "/apis/kubeflow.org/v1/namespaces/research/pytorchjobs/{}"


@dataclass(frozen=True)
class Elsewhere(Kind):
    """The cluster of clusters/kind.yaml, with another folder."""

    there: Path = Path()

    @property
    def folder(self) -> Path:
        return self.there


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as there:
        yield there


@pytest.fixture
def kind(tmp_path: Path) -> Kind:
    return Elsewhere(load_cluster("clusters/kind.yaml", host=LAPTOP), tmp_path)


def wanted(kind: Kind, text: str) -> jobs.Wanted:
    file = kind.folder / "job.yaml"
    file.write_text(text)
    return jobs.described(file, kind)


def as_state(served: Served, name: str, condition: str) -> None:
    there = served.cluster.objects[PATH.format(name)]
    there["status"] = {"conditions": [{"type": condition, "status": "True"}]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (JOB.replace("name: mine", "labels: {a: b}"), "document 1: metadata: neither name nor generateName"),
        (JOB.replace("name: mine", "name: 7"), "document 1: metadata.name: 7 is no text; put it in quotes"),
        (JOB.replace("metadata: {name: mine}", "name: mine"), "document 1: metadata: missing"),
        (JOB.replace("kubeflow.org/v1", "1"), "document 1: apiVersion: 1 is no text"),
        (JOB.replace("kubeflow.org/v1", "kubeflow.org/v2"), "kubeflow.org/v2 is not kubeflow.org/v1"),
        (JOB + "spec: {}\n", "job.yaml:11: spec: there twice, of which one would be dropped"),
        (JOB.replace("{name: mine}", "{{ .Values.meta }}"), "job.yaml:3: a template ({{ ... }})"),
        (JOB.replace("    Master", "\tMaster"), "job.yaml:6: not YAML: found character '\\t'"),
        (JOB.replace("mine}", "mine"), "job.yaml:4: not YAML"),
        (JOB + "---\n" + JOB, "2 PyTorchJobs; a job file has one"),
        ("", "0 PyTorchJobs; a job file has one"),
        ("- 1\n", "document 1: no object of Kubernetes"),
        ("a: &a [*a]\n", "not YAML"),
        ("a: .inf\n", "not YAML"),
        ("a: \0\n", "not YAML"),
    ],
)
def test_what_is_wrong_in_a_job_file_is_one_line(kind: Kind, text: str, says: str) -> None:
    with pytest.raises(Mistake) as mistake:
        wanted(kind, text)
    assert says in str(mistake.value)
    assert "\n" not in str(mistake.value)


@given(st.one_of(st.text(), st.text(alphabet="ab:-?[]{},&*!|>'\"%@`# \n\t0.")))
def test_no_text_has_a_traceback(text: str) -> None:
    try:
        json.dumps(manifests.objects(text, "file"))
    except Mistake as mistake:
        assert "\n" not in str(mistake)


def test_a_file_that_cannot_be_read_is_one_line(kind: Kind) -> None:
    (kind.folder / "folder.yaml").mkdir()
    (kind.folder / "binary.yaml").write_bytes(b"\xff")
    for name in ("folder.yaml", "binary.yaml", "nothing.yaml"):
        with pytest.raises(Mistake, match="not readable"):
            jobs.described(kind.folder / name, kind)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("0644", 420),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1e3", 1000.0),
        ("0o17", "0o17"),
    ],
)
def test_values_are_those_of_kubectls_reader(text: str, value: Any) -> None:
    assert manifests.documents(f"a: {text}", "file") == [{"a": value}]


def test_a_list_is_what_is_in_it(kind: Kind) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": manifests.documents(JOB, "file")}
    assert wanted(kind, json.dumps(listed)).job.name == "mine"


def test_kustomizes_documents_are_sent_as_they_are() -> None:
    deployment = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  labels:\n    a: b\n\n  name: d\n  namespace: space\n"
        "spec:\n  name: no\n  template:\n    metadata:\n      name: neither\n"
    )
    space = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: space\n"
    found = manifests.built(f"{deployment}---\n{space}")
    assert [(each.resource.name, each.name, each.namespace) for each in found] == [
        ("Deployment", "d", "space"),
        ("Namespace", "space", ""),
    ]
    assert [each.body for each in found] == [deployment, space]


def test_the_job_is_applied_as_kubectl_would(served: Served, kind: Kind) -> None:
    config = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: beside}\n"
    run = jobs.start(kind, wanted(kind, JOB + config))
    assert (run.id, run.folder) == ("mine", kind.runs / "mine")
    assert "/api/v1/namespaces/research/pods/beside" in served.cluster.objects
    (asked,) = [each for each in served.cluster.asked if "PATCH" in each and "pytorchjobs" in each]
    assert "fieldManager=kubectl" in asked and "fieldValidation=Strict" in asked
    noted = served.cluster.objects[PATH.format("mine")]["metadata"]["annotations"][LAST_APPLIED]
    assert json.loads(noted)["spec"] == manifests.documents(JOB, "file")[0]["spec"]


def test_a_generated_name_is_the_one_that_came_back(served: Served, kind: Kind) -> None:
    text = JOB.replace("name: mine", "generateName: mine-").replace("runs/mine", "runs/$(JOB)")
    run = jobs.start(kind, wanted(kind, text))
    assert (run.id, run.folder) == ("mine-x7k2p", kind.runs / "mine-x7k2p")
    again = jobs.start(kind, wanted(kind, text), submitted=run.id)
    assert again.id == run.id
    assert sum("POST" in each for each in served.cluster.asked) == 1, "the one of before Ctrl-C is followed"
    as_state(served, run.id, "Failed")
    jobs.start(kind, wanted(kind, text), submitted=run.id)
    assert sum("POST" in each for each in served.cluster.asked) == 2


def test_the_run_folder_is_the_one_of_the_arguments(served: Served, kind: Kind) -> None:
    run = jobs.start(kind, wanted(kind, JOB.replace("runs/mine", "runs/elsewhere")))
    assert run.folder == kind.runs / "elsewhere"


def test_the_same_job_that_runs_is_followed(served: Served, kind: Kind) -> None:
    jobs.start(kind, wanted(kind, JOB))
    as_state(served, "mine", "Running")
    assert jobs.start(kind, wanted(kind, JOB)).id == "mine"
    assert sum("PATCH" in each for each in served.cluster.asked) == 1


def test_another_job_of_that_name_that_runs_is_left_alone(served: Served, kind: Kind) -> None:
    jobs.start(kind, wanted(kind, JOB))
    as_state(served, "mine", "Running")
    with pytest.raises(Failure, match="another job research/mine is running") as failure:
        jobs.start(kind, wanted(kind, JOB.replace("jobs.train", "jobs.other")), submitted="mine")
    assert "\n" not in str(failure.value)
    assert not any("DELETE" in each for each in served.cluster.asked)


def test_one_that_has_ended_goes_first(served: Served, kind: Kind) -> None:
    jobs.start(kind, wanted(kind, JOB))
    as_state(served, "mine", "Succeeded")
    jobs.start(kind, wanted(kind, JOB))
    changed = [each.split()[0] for each in served.cluster.asked if not each.startswith("GET")]
    assert changed == ["PATCH", "DELETE", "PATCH"]


def test_one_that_ended_while_we_were_stopped_is_not_repeated(served: Served, kind: Kind) -> None:
    jobs.start(kind, wanted(kind, JOB))
    as_state(served, "mine", "Succeeded")
    jobs.start(kind, wanted(kind, JOB), submitted="mine")
    assert sum("PATCH" in each for each in served.cluster.asked) == 1


def test_words_in_brackets_are_words(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(look, "console", Plain(file=out, width=400))
    node = {
        "name": "c1",
        "state": "running",
        "ready": False,
        "gpus": 0,
        "cpu": "2",
        "address": "",
        "ok": False,
    }
    found = {
        "cluster": "kind",
        "unknown": "",
        "nodes": [{**node, "reason": "taint [/b] of [red]"}],
        "jobs": [
            {"namespace": "n", "name": "j", "state": "PENDING", "nodes": (), "waits": "quota: [/a] needs [8]"}
        ],
        "waiting": [{"namespace": "n", "job": "[x]", "queue": "q", "why": "[/why]"}],
        "disk": {"free_gib": 1, "cache_gib": 1, "runs_gib": 1},
    }
    look.show(kind, found)
    for word in ("taint [/b] of [red]", "quota: [/a] needs [8]", "n/[x] waits in queue q: [/why]"):
        assert word in out.getvalue()


def test_jobs_that_are_not_known_are_not_called_none(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an API server that is gone."""
    out = io.StringIO()
    monkeypatch.setattr(look, "console", Plain(file=out, width=400))
    monkeypatch.setattr(
        Kind, "containers", lambda self: [Container("slipway-kind-worker", "running", "", ("10.0.0.1",))]
    )
    kubeconfig(kind.kubeconfig, 1)
    found = look.collect(kind)
    assert (found["unknown"], found["nodes"][0]["ok"]) == (
        "the API server (https://127.0.0.1:1) does not answer: connection refused",
        False,
    )
    look.show(kind, found)
    assert "no node or job is known: the API server (https://127.0.0.1:1)" in out.getvalue()
    assert "no jobs" not in out.getvalue()


def test_a_step_that_is_shown_live_takes_every_word() -> None:
    out = io.StringIO()
    live = Console(file=out, force_terminal=True, width=200)
    with live.status("") as status:
        Step("job", status).doing("waiting for quota: [/x] of [red]")
    assert "[/x] of [red]" in out.getvalue()


@pytest.mark.parametrize(("started", "seconds"), [("90", 10.0), ("110", None), ("", None)])
def test_a_job_that_was_there_already_did_not_start_before_the_command(
    started: str, seconds: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ddp").mkdir()
    (tmp_path / "ddp" / "attempts.jsonl").write_text('{"first_step_unix": 100}\n')
    monkeypatch.setenv("SLIPWAY_STARTED", started)
    assert proof.since_start(proof.Run("ddp", runs=tmp_path)) == seconds
