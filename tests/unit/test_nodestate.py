"""What a state of Slurm means is said once: who is heard, who takes jobs, whom a person keeps from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.model import nodestate
from infra.model.nodestate import Node, parse

# state, by, reason -> heard, takes, kept, well
MEANINGS = [
    ("idle", "", "", (True, True, False, True)),
    ("mixed-", "", "", (True, True, False, True)),  # planned by backfill
    ("allocated+", "", "", (True, True, False, True)),
    ("completing", "", "", (True, True, False, True)),
    ("planned", "", "", (True, True, False, True)),
    ("reserved", "", "", (True, True, False, True)),
    ("drained", "root", "disk", (True, False, True, True)),
    ("draining", "ada", "disk", (True, False, True, True)),
    ("draining@", "ada", "reboot", (True, False, True, True)),
    ("drained", "root", "health: GPU 3", (True, False, True, False)),
    ("drained", "slurm", "Low RealMemory", (False, False, False, False)),
    ("inval", "slurm", "gres/gpu count", (False, False, False, False)),
    ("idle*", "", "", (False, False, False, False)),
    ("drained*", "root", "disk", (False, False, False, False)),
    ("down", "slurm", "Not responding", (False, False, False, False)),
    ("down*", "slurm", "Not responding", (False, False, False, False)),
    ("unknown*", "", "", (False, False, False, False)),
    ("powered_down~", "", "", (False, False, False, False)),
    ("something new", "", "", (False, False, False, False)),
]


@pytest.mark.parametrize(("state", "by", "reason", "meaning"), MEANINGS)
def test_a_state_means_one_thing(
    state: str, by: str, reason: str, meaning: tuple[bool, bool, bool, bool]
) -> None:
    node = Node("c1", state, reason, by)
    assert (node.heard, node.takes, node.kept, node.well) == meaning


def test_a_node_that_slurm_does_not_know_is_silent() -> None:
    assert [node.name for node in nodestate.silent(["c1", "c2"], parse("c1|idle|Unknown|none"))] == ["c2"]


@given(
    reason=st.text(
        st.characters(exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="\x85"), min_size=1
    )
)
def test_a_reason_may_hold_anything(reason: str) -> None:
    known = parse(f"c1|drained|root|{reason}\nc2|idle|Unknown|none\nc2|idle|Unknown|none")
    assert known["c1"] == Node("c1", "drained", "" if reason == "none" else reason, "root")
    assert known["c2"] == Node("c2", "idle")


def test_people_are_told_who_and_why() -> None:
    assert Node("c1", "drained", "a [b|c]", "root").why == "c1 is drained: a [b|c] (by root)"
    assert Node("c1", "down*").why == "c1 is down*"
