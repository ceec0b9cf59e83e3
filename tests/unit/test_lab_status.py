"""What `make status` says of a lab's nodes: nothing is called well that was not asked."""

import pytest

from infra.model.nodestate import Node as Slurm
from infra.places.lab.compose import Node
from infra.places.lab.status import _row


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
