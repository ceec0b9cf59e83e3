"""A run goes on at any number of ranks: every N to M in 1..4 sees the same samples and comes to the same losses.

On as many ranks the losses are the same to the last bit. On others they are sums in another order: fp32 rounding,
which three steps of training make no larger than 1e-5 of the loss.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.data import samples
from jobs.tools.samples import prove
from tests.jobs.world import World

TESTED = {"real": ["training on one node"]}

SIZES = (1, 2, 3, 4)
SAVED, STEPS = 4, 7
OPTIONS = (
    "--model.layers=1",
    "--model.heads=2",
    "--model.width=32",
    "--model.context=32",
    "--train.batch=12",
)


def train(ranks: Any, run: Path, corpus: Path) -> list[float]:
    """Go on from the newest checkpoint to the last step, saving one at step SAVED. Returns the losses."""
    import torch

    from jobs import config
    from jobs.data import shards
    from jobs.model import optim
    from jobs.parallel.mesh import Mesh
    from jobs.resilience.checkpoint import Checkpoints
    from jobs.trainable import Trainable

    settings = config.load(OPTIONS)
    torch.manual_seed(settings.train.seed)
    trained = Trainable(settings, Mesh.of(settings, ranks.size), ranks)
    (folder,) = corpus.iterdir()
    training = shards.Split(folder, "train", settings.model.context)
    order = shards.Order(len(training), settings.train.seed)
    facts = {"samples": len(training), "seed": settings.train.seed, "batch": settings.train.batch}
    saves = Checkpoints(run / "checkpoints", keep=1, facts=settings.trajectory(), ranks=ranks, say=print)
    step = saves.load(trained)
    if ranks.first:
        samples.drop(run / "samples", step)
    ranks.wait()
    ledger = samples.Ledger(run / "samples", ranks.rank, ranks.size, facts)
    losses = []
    while step < STEPS:
        numbers = order.batch(step, settings.train.batch, rank=ranks.rank, ranks=ranks.size)
        optim.set_rate(trained.optimizer, settings.train, step)
        loss = trained.step_loss(torch.from_numpy(training.windows(numbers)).long())
        trained.clip(settings.train.clip)
        trained.step()
        step += 1
        ledger.write(step, numbers)
        losses.append(ranks.agree([loss.item()])[0] / ranks.size)
        if step == SAVED:
            ledger.sync()
            saves.save(step, trained)
    assert saves.finish()
    saves.close()
    ledger.close()
    return losses


def record(run: Path) -> None:
    """What metrics.jsonl says of a run that came to its last step."""
    lines = [{"step": step + 1, "loss": 0.0} for step in range(STEPS)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def whole(
    world: Callable[[int], World], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, list[float]]]:
    """For each number of ranks: the folder of a run, with a checkpoint of its step SAVED, and its losses."""
    found = {}
    for size in SIZES:
        run = tmp_path_factory.mktemp(f"on-{size}")
        losses, *others = world(size).run(train, run, corpus)
        assert all(other == losses for other in others)
        found[size] = (run, losses)
    return found


@pytest.mark.parametrize("after", SIZES)
@pytest.mark.parametrize("before", SIZES)
def test_a_run_goes_on_at_another_number_of_ranks(
    world: Callable[[int], World],
    corpus: Path,
    whole: dict[int, tuple[Path, list[float]]],
    tmp_path: Path,
    before: int,
    after: int,
) -> None:
    run, losses = whole[before]
    again = tmp_path / "run"
    shutil.copytree(run, again)
    resumed, *_ = world(after).run(train, again, corpus)
    assert len(resumed) == STEPS - SAVED
    if before == after:
        assert resumed == losses[SAVED:]
    assert resumed == pytest.approx(losses[SAVED:], rel=1e-5)
    assert resumed == pytest.approx(whole[1][1][SAVED:], rel=1e-5)  # one process, never interrupted
    record(again)
    ranks = str(before) if before == after else f"{before}, then {after}"
    assert f"{STEPS} steps of 12 samples on {ranks} rank" in prove(again)
