"""How long ranks wait for each other: a minute in a step, half an hour where one of them may take long."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from jobs.parallel.ranks import Ranks

TESTED = {"real": ["training on one node"]}

QUICK_S, LATE_S = 1, 2.5


def late(ranks: Ranks) -> list[str]:
    """Rank 1 comes late to three things that all do: as in validation, with an object, and in a step."""
    ranks = replace(ranks, quick=timedelta(seconds=QUICK_S), slow=timedelta(seconds=60))
    said = []
    things: dict[str, tuple[Callable[[], None], Callable[[], Any]]] = {
        "validation": (ranks.patient, lambda: ranks.agree([1.0])),
        "object": (ranks.hurry, lambda: ranks.told("data")),
        "step": (ranks.hurry, lambda: ranks.agree([1.0])),
    }
    for name, (pace, together) in things.items():
        pace()
        if ranks.rank:
            time.sleep(LATE_S)
        try:
            together()
        except RuntimeError:
            said.append(f"{name}: given up")
        else:
            said.append(f"{name}: done")
    return said


def test_who_is_late_is_waited_for_where_that_may_be_and_given_up_in_a_step(world: Any) -> None:
    waiting, _ = world(2).run(late)
    assert waiting == ["validation: done", "object: done", "step: given up"]
