"""Every mesh computes what one process computes on the same global batch: losses, gradients and their norm."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from jobs import config
from jobs.cli.errors import Mistake
from jobs.model.gpt.network import GPT
from jobs.parallel.mesh import Mesh
from jobs.parallel.ranks import Ranks
from jobs.resilience.checkpoint import Checkpoints
from jobs.trainable import Trainable
from tests.jobs.world import World

TESTED = {"real": ["training on one node"]}

BATCH, TIME = 16, 32
OPTIONS = {
    "model.layers": 4,
    "model.heads": 4,
    "model.width": 32,
    "model.context": TIME,
    "train.batch": BATCH,
    "train.warmup": 0,
    "train.clip": 0.5,  # below the norm of these gradients: the losses tell whether they were clipped alike
}
# Largest difference to one process: sums in another order, so the rounding of the type times a few thousand.
TOLERANCE = {"fp32": 2e-4, "fp64": 1e-10}

ON_TWO = [
    {"mesh.replicate": 2},
    {"mesh.form": "fsdp"},
    {"mesh.tensor": 2},
    {"mesh.context": 2},
    {"mesh.pipeline": 2},
    {"mesh.pipeline": 2, "mesh.schedule": "interleaved"},
    {"mesh.pipeline": 2, "mesh.microbatches": 8},
]
ON_FOUR = [
    {"mesh.replicate": 4},
    {"mesh.form": "fsdp"},
    {"mesh.form": "fsdp", "mesh.shard": 2},  # HSDP
    {"mesh.tensor": 4},
    {"mesh.context": 4},
    {"mesh.pipeline": 4},
    {"mesh.tensor": 2},  # each of these beside two replicas
    {"mesh.context": 2},
    {"mesh.pipeline": 2},
    {"mesh.pipeline": 2, "mesh.schedule": "interleaved"},
    {"mesh.form": "fsdp", "mesh.tensor": 2},  # and beside two shards
    {"mesh.form": "fsdp", "mesh.context": 2},
    {"mesh.form": "fsdp", "mesh.pipeline": 2},
    {"mesh.form": "fsdp", "mesh.pipeline": 2, "mesh.schedule": "interleaved"},
    {"mesh.tensor": 2, "mesh.pipeline": 2},
    {"mesh.tensor": 2, "mesh.context": 2},
    {"mesh.context": 2, "mesh.pipeline": 2},
]


def named(options: dict[str, Any]) -> str:
    return ",".join(f"{name.split('.')[1]}={value}" for name, value in options.items())


def scattered(model: GPT) -> None:
    """Weights without zeros: of the real ones, whose head is zero, most first gradients are rounding errors."""
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.15)


@contextmanager
def exactly(kind: str) -> Any:
    """Models are made in this type, the same one for each seed."""
    torch.manual_seed(0)
    torch.set_default_dtype({"fp32": torch.float32, "fp64": torch.float64}[kind])
    try:
        with mock.patch.object(GPT, "initialise", scattered):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def load(options: dict[str, Any]) -> config.Config:
    return config.load([f"--{name}={value}" for name, value in {**OPTIONS, **options}.items()])


def rows_of(step: int, asked: config.Config, mesh: Mesh, rank: int) -> torch.Tensor:
    """This rank's part of a step's global batch."""
    source = torch.Generator().manual_seed(step)
    batch, time = asked.train.batch, asked.model.context
    every = torch.randint(256, (batch, time + 1), generator=source)
    return every.chunk(mesh.data)[mesh.data_rank(rank)]


def make(ranks: Ranks, options: dict[str, Any], kind: str) -> tuple[config.Config, Mesh, Trainable]:
    asked = load(options)
    mesh = Mesh.of(asked, ranks.size)
    with exactly(kind):
        return asked, mesh, Trainable(asked, mesh, ranks)


def train(ranks: Ranks, options: dict[str, Any], kind: str, steps: int = 3) -> dict[str, Any]:
    """A few steps. Gradients are those of the first one, whole, of the parameters that this rank has."""
    asked, mesh, trained = make(ranks, options, kind)
    losses, norms, gradients = [], [], {}
    for step in range(steps):
        loss = trained.step_loss(rows_of(step, asked, mesh, ranks.rank))
        losses.append(ranks.agree([loss.item()])[0] / ranks.size)
        if step == 0:
            for name, weight in trained.model.named_parameters():
                whole = weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad
                gradients[name] = whole.clone().double().numpy()
        norms.append(trained.clip(asked.train.clip).item())
        trained.step()
    held_out = trained.evaluate(rows_of(99, asked, mesh, ranks.rank))
    losses.append(ranks.agree([held_out.item()])[0] / ranks.size)
    return {"losses": losses, "norms": norms, "gradients": gradients}


@pytest.fixture(scope="module")
def alone(world: Callable[[int], World]) -> dict[str, dict[str, Any]]:
    """One process, in both types."""
    return {kind: world(1).run(train, {}, kind)[0] for kind in TOLERANCE}


def compare(found: list[dict[str, Any]], one: dict[str, Any], tolerance: float) -> None:
    gradients: dict[str, Any] = {}
    for rank in found:
        assert rank["losses"] == pytest.approx(one["losses"], rel=tolerance)
        assert rank["norms"] == pytest.approx(one["norms"], rel=tolerance)
        for name, mine in rank["gradients"].items():
            scale = abs(one["gradients"][name]).max()
            assert abs(mine - one["gradients"][name]).max() <= tolerance * scale, name
        gradients |= rank["gradients"]
    assert gradients.keys() == one["gradients"].keys()
    assert all(gradient.any() for gradient in gradients.values())
    assert all(rank["losses"] == found[0]["losses"] and rank["norms"] == found[0]["norms"] for rank in found)


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("options", ON_TWO, ids=named)
def test_two_ranks_compute_what_one_computes(
    world: Callable[[int], World], alone: dict[str, Any], options: dict[str, Any], kind: str
) -> None:
    compare(world(2).run(train, options, kind), alone[kind], TOLERANCE[kind])


@pytest.mark.parametrize(
    ("options", "kind"),
    # In fp32 one dimension at a time: it is fp64 that tells a mistake from rounding.
    [(options, "fp64") for options in ON_FOUR] + [(options, "fp32") for options in ON_FOUR[:6]],
    ids=lambda value: named(value) if isinstance(value, dict) else value,
)
def test_four_ranks_compute_what_one_computes(
    world: Callable[[int], World], alone: dict[str, Any], options: dict[str, Any], kind: str
) -> None:
    compare(world(4).run(train, options, kind), alone[kind], TOLERANCE[kind])


@pytest.mark.more
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    options=st.fixed_dictionaries(
        {
            "mesh.form": st.sampled_from(["ddp", "fsdp"]),
            "mesh.tensor": st.sampled_from([1, 2]),
            "mesh.context": st.sampled_from([1, 2]),
            "mesh.pipeline": st.sampled_from([1, 2]),
            "mesh.schedule": st.sampled_from(["1f1b", "interleaved"]),
            "compute.accumulate": st.sampled_from([1, 2]),
            "compute.recompute": st.sampled_from(["true", "false"]),
            "model.layers": st.integers(min_value=1, max_value=5),
            "model.heads": st.sampled_from([1, 2, 3]),
            "model.width": st.sampled_from([24, 48]),
            "model.context": st.sampled_from([8, 20, 24]),
            "train.batch": st.sampled_from([8, 24]),
        }
    ).filter(lambda options: works(options, 4))
)
def test_any_shape_on_any_mesh_computes_what_one_process_computes(
    world: Callable[[int], World], options: dict[str, Any]
) -> None:
    shape = {name: value for name, value in options.items() if name.startswith(("model", "train"))}
    one = world(1).run(train, shape, "fp64")[0]
    compare(world(4).run(train, options, "fp64"), one, TOLERANCE["fp64"])


def works(options: dict[str, Any], ranks: int) -> bool:
    try:
        Mesh.of(load(options), ranks)
    except Mistake:
        return False
    return True


def saved(ranks: Ranks, options: dict[str, Any], folder: Path, resume: bool) -> list[float]:
    """Losses of two steps and two more; a checkpoint lies between them, and when resumed the first two are not

    computed but loaded.
    """
    asked, mesh, trained = make(ranks, options, "fp64")
    checkpoints = Checkpoints(folder, keep=1, facts={}, ranks=ranks, say=print)
    losses = []
    first = checkpoints.load(trained) if resume else 0
    assert first == (2 if resume else 0)
    for step in range(first, 4):
        loss = trained.step_loss(rows_of(step, asked, mesh, ranks.rank))
        losses.append(ranks.agree([loss.item()])[0] / ranks.size)
        trained.clip(asked.train.clip)
        trained.step()
        if step == 1 and not resume:
            checkpoints.save(2, trained)
            assert checkpoints.finish()
    checkpoints.close()
    return losses


MOVES = [
    ((1, {}), (4, {"mesh.form": "fsdp", "mesh.tensor": 2})),
    ((2, {"mesh.pipeline": 2}), (2, {"mesh.tensor": 2})),
    ((4, {"mesh.form": "fsdp", "mesh.pipeline": 2, "mesh.schedule": "interleaved"}), (1, {})),
    ((4, {"mesh.form": "fsdp", "mesh.tensor": 2}), (2, {"mesh.form": "fsdp", "mesh.context": 2})),
]
MORE_MOVES = [
    ((2, {"mesh.form": "fsdp"}), (4, {"mesh.pipeline": 2, "mesh.schedule": "interleaved"})),
    ((4, {"mesh.tensor": 2, "mesh.pipeline": 2}), (4, {"mesh.form": "fsdp", "mesh.shard": 2})),
]


@pytest.mark.parametrize(
    ("before", "after"),
    [*MOVES, *(pytest.param(*move, marks=pytest.mark.more) for move in MORE_MOVES)],
    ids=lambda move: f"{move[0]} {named(move[1])}",
)
def test_a_checkpoint_of_one_mesh_is_gone_on_with_on_another(
    world: Callable[[int], World],
    tmp_path: Path,
    before: tuple[int, dict[str, Any]],
    after: tuple[int, dict[str, Any]],
) -> None:
    losses = world(before[0]).run(saved, before[1], tmp_path, resume=False)[0]
    resumed = world(after[0]).run(saved, after[1], tmp_path, resume=True)[0]
    assert resumed == pytest.approx(losses[2:], rel=TOLERANCE["fp64"])
