"""A NaN on one rank only: all ranks skip the same step, or all stop before it is in the weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.world import World

TESTED = {"real": ["training on one node"]}

BAD = 3  # the step, from 1


def bad_gradient(ranks: Any, policy: str, victim: int) -> list[Any]:
    """Five steps of train.py's own order of calls; the loss of rank `victim` is NaN in step 3."""
    import torch

    from jobs import config
    from jobs.parallel.mesh import Mesh
    from jobs.resilience.guard import Act, Guard, signs
    from jobs.trainable import Trainable

    options = [
        "--model.layers=1",
        "--model.heads=2",
        "--model.width=32",
        "--model.context=32",
        "--train.batch=4",
    ]
    settings = config.load([*options, f"--guard.nonfinite={policy}"])
    trained = Trainable(settings, Mesh.of(settings, ranks.size), ranks)
    guard = Guard(settings.guard, ranks.size)
    told: list[Any] = []
    for step in range(1, 6):
        torch.manual_seed(step)
        rows = torch.randint(256, (4, 33)).chunk(ranks.size)[ranks.rank]
        weight = next(trained.model.parameters())
        if step == BAD and ranks.rank == victim:
            hook = weight.register_hook(lambda gradient: gradient * math.nan)
        loss = trained.step_loss(rows).item()
        if step == BAD and ranks.rank == victim:
            hook.remove()
            loss = math.nan
        norm = trained.clip(1.0).item()
        total, *sums = ranks.agree([loss, *signs(ranks.rank, loss, norm)])
        verdict = guard.judge(total / ranks.size, sums)
        if verdict.act is Act.STOP:
            told.append(verdict.why)
            break
        before = weight.detach().clone()
        if verdict.act is Act.GO:
            trained.step()
        else:
            trained.optimizer.zero_grad(set_to_none=True)
        told.append((verdict.why, bool(torch.equal(before, weight)), bool(torch.isfinite(weight).all())))
    return [told, [p.detach().double().sum().item() for p in trained.model.parameters()]]


@pytest.mark.parametrize("victim", [0, 1])
def test_all_ranks_skip_the_step_of_one_ranks_nan(world: Callable[[int], World], victim: int) -> None:
    (told, weights), (other, others) = world(2).run(bad_gradient, "skip", victim)
    assert told == other
    assert weights == others
    assert told[BAD - 1] == (f"the loss is not finite on rank {victim} alone", True, True)
    assert all(why == "" and finite for why, _, finite in told[: BAD - 1] + told[BAD:])
    assert not told[-1][1]  # and go on learning


def test_all_ranks_stop_before_the_nan_is_in_the_weights(world: Callable[[int], World]) -> None:
    (told, weights), (other, _) = world(2).run(bad_gradient, "stop", 1)
    assert told == other
    assert told[-1] == "the loss is not finite on rank 1 alone"
    assert len(told) == BAD
    assert all(math.isfinite(each) for each in weights)


def test_without_the_guard_it_would_be_in_all_of_them(world: Callable[[int], World]) -> None:
    """What the tests above prevent really happens."""
    (told, _), _ = world(2).run(bad_gradient, "off", 1)
    assert not told[BAD - 1][2]


def test_the_program_records_what_was_skipped(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """jobs/train.py itself on one rank: the loss of its second step is NaN. TensorBoard is told a figure of it."""
    import torch

    from jobs.cli.errors import Mistake
    from jobs.telemetry import metrics
    from jobs.tools import samples
    from jobs.trainable import Trainable

    real, calls = Trainable.step_loss, [0]

    def step_loss(trained: Trainable, rows: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return real(trained, rows) * (math.nan if calls[0] == 2 else 1)

    monkeypatch.setattr(Trainable, "step_loss", step_loss)
    trainer.here(train__steps=4, checkpoint__every=0, guard__nonfinite="skip", run__tensorboard="true")
    lines = metrics.read(Path(trainer.folder) / "metrics.jsonl")
    assert [line.get("skipped") for line in lines] == [
        None,
        "the loss is not finite on 1 of 1 ranks",
        None,
        None,
    ]
    assert all(math.isfinite(lines[number]["loss"]) for number in (0, 2, 3))
    assert "step 2 skipped: the loss is not finite" in capsys.readouterr().out
    assert "read, but not learned from: steps 2 (guard)" in samples.prove(trainer.folder)
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found]
        EventAccumulator,
    )

    board = EventAccumulator(str(trainer.folder / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("skipped")] == [0, 1, 0, 0]

    calls[0] = 0  # the run goes on from step 4
    with pytest.raises(
        Mistake, match="step 6: the loss is not finite on 1 of 1 ranks; nothing of it is in the"
    ):
        trainer.here(train__steps=8, checkpoint__every=0)
