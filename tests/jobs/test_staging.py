"""What a save writes is the state of its moment, whatever the training does meanwhile, on every mesh."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jobs.parallel.ranks import Ranks
from jobs.resilience.staging import Stage
from tests.jobs.test_parallel import make, named, rows_of
from tests.jobs.world import World

TESTED = {"real": ["training on one node"]}


def whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def staged(ranks: Ranks, options: dict[str, Any]) -> list[bool]:
    """Whether a copy is the state, stays so over a step that changes it, and is made in the same memory again."""
    asked, mesh, trained = make(ranks, options, "fp32")
    stage = Stage(gpu=False)

    def step() -> None:
        trained.step_loss(rows_of(0, asked, mesh, ranks.rank))
        trained.clip(asked.train.clip)
        trained.step()

    def parts(state: Any) -> list[torch.Tensor]:
        return [each for part in state.values() for each in part.values() if isinstance(each, torch.Tensor)]

    step()
    copy = stage.copy(trained.state())
    before = [whole(each).clone() for each in parts(trained.state())]
    same = [torch.equal(whole(mine), theirs) for mine, theirs in zip(parts(copy), before, strict=True)]
    alike = [
        getattr(mine, "placements", ()) == getattr(theirs, "placements", ())
        for mine, theirs in zip(parts(copy), parts(trained.state()), strict=True)
    ]
    step()
    stays = [torch.equal(whole(mine), theirs) for mine, theirs in zip(parts(copy), before, strict=True)]
    moved = [
        not torch.equal(whole(each), old) for each, old in zip(parts(trained.state()), before, strict=True)
    ]
    places = [getattr(each, "_local_tensor", each).data_ptr() for each in parts(copy)]
    again = [getattr(each, "_local_tensor", each).data_ptr() for each in parts(stage.copy(trained.state()))]
    numbers = {
        name: value for name, value in copy["optimizer"].items() if not isinstance(value, torch.Tensor)
    }
    others = {name: trained.state()["optimizer"][name] for name in numbers}
    return [
        all(same),
        all(alike),
        all(stays),
        any(moved),
        places == again,
        bool(numbers) and numbers == others,
    ]


@pytest.mark.parametrize("options", [{}, {"mesh.form": "fsdp"}, {"mesh.tensor": 2}], ids=named)
def test_a_copy_is_the_state_of_its_moment(world: Callable[[int], World], options: dict[str, Any]) -> None:
    for found in world(2).run(staged, options):
        assert found == [True] * 6
