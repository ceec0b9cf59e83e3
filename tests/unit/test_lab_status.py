"""What `make status` says of a lab's nodes: nothing is called well that was not asked."""

import pytest

from infra.base.errors import Failure
from infra.model.load import load_cluster
from infra.model.nodestate import Node as Slurm
from infra.places.lab.compose import Node, Project
from infra.places.lab.status import _row, collect
from infra.places.place import of
from infra.proof import table
from tests.checkout import LAPTOP


def row(name: str, slurm: Slurm | None, silence: str = "", health: str = "healthy") -> tuple[bool, str]:
    node = Node(name, f"lab-{name}", "running", health, "")
    found = _row(node, {slurm.name: slurm} if slurm else {}, silence)
    return found["ok"], found["reason"]


def test_where_the_controller_is_silent_no_node_is_well() -> None:
    assert row("slurmctld", None, "does not answer: timeout") == (False, "does not answer: timeout")
    assert row("c1", None, "does not answer: timeout") == (False, "slurmctld does not answer")
    assert row("db", None, "does not answer: timeout") == (True, ""), "it was asked by its own check"


@pytest.mark.parametrize(
    ("slurm", "ok"),
    [
        (Slurm("c1", "idle"), True),
        (Slurm("c1", "drained", "disk", "root"), True),
        (Slurm("c1", "drained", "health: GPU 3", "root"), False),
        (Slurm("c1", "down*", "Not responding", "slurm"), False),
        (None, False),
    ],
)
def test_a_node_is_well_by_slurms_word_and_its_own(slurm: Slurm | None, ok: bool) -> None:
    assert row("c1", slurm)[0] is ok
    assert row("c1", slurm, health="unhealthy")[0] is False


@pytest.mark.parametrize("silent", ["slurmctld", "login"])
def test_jobs_that_are_not_known_are_not_called_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent: str
) -> None:
    def run(self: Project, node: str, *words: str, **how: object) -> str:
        if node == silent:
            raise Failure(f"{node}: no answer")
        return "c1|idle|Unknown|none" if node == "slurmctld" else ""

    monkeypatch.setattr(Project, "containers", lambda self: [Node("c1", "lab-c1", "running", "healthy", "")])
    monkeypatch.setattr(Project, "run", run)
    found = collect(Project("lab"))
    assert found["jobs"] == [] and "no answer" in found["unknown"]
    table.show(found["jobs"], found["unknown"])
    said = capsys.readouterr().out
    assert "no answer" in " ".join(said.split()) and "no jobs" not in said


@pytest.mark.parametrize(("cluster", "rows"), [("lab", "nodes"), ("kind", "nodes"), ("site", "machines")])
def test_a_cluster_of_nothing_is_not_well(cluster: str, rows: str) -> None:
    place = of(load_cluster(f"clusters/{cluster}.yaml", host=LAPTOP))
    assert not place.well({rows: []})
    assert place.well({rows: [{"ok": True}]}) and not place.well({rows: [{"ok": True}, {"ok": False}]})
