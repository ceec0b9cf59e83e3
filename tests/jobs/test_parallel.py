"""Every mesh computes what one process computes on the same global batch: losses, gradients and their norm."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from jobs import config
from jobs.mesh import Mesh
from jobs.model import GPT
from jobs.ranks import Ranks
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


def rows_of(step: int, settings: config.Config, mesh: Mesh, rank: int) -> torch.Tensor:
    """This rank's part of a step's global batch."""
    source = torch.Generator().manual_seed(step)
    batch, time = settings.train.batch, settings.model.context
    every = torch.randint(256, (batch, time + 1), generator=source)
    return every.chunk(mesh.data)[mesh.data_rank(rank)]


def train(ranks: Ranks, options: dict[str, Any], kind: str, steps: int = 3) -> dict[str, Any]:
    """A few steps. Gradients are those of the first one, whole, of the parameters that this rank has."""
    settings = load(options)
    mesh = Mesh.of(settings, ranks.size)
    with exactly(kind):
        trained = Trainable(settings, mesh, ranks)
    losses, norms, gradients = [], [], {}
    for step in range(steps):
        loss = trained.step_loss(rows_of(step, settings, mesh, ranks.rank))
        losses.append(ranks.agree([loss.item()])[0] / ranks.size)
        if step == 0:
            for name, weight in trained.model.named_parameters():
                whole = weight.grad.full_tensor() if hasattr(weight.grad, "full_tensor") else weight.grad
                gradients[name] = whole.clone().double().numpy()
        norms.append(trained.clip(settings.train.clip).item())
        trained.step()
    held_out = trained.evaluate(rows_of(99, settings, mesh, ranks.rank))
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


@pytest.mark.parametrize("kind", TOLERANCE)
@pytest.mark.parametrize("options", ON_FOUR, ids=named)
def test_four_ranks_compute_what_one_computes(
    world: Callable[[int], World], alone: dict[str, Any], options: dict[str, Any], kind: str
) -> None:
    compare(world(4).run(train, options, kind), alone[kind], TOLERANCE[kind])
