"""Any model that keeps the contract trains, and is counted, as the one that ships."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import config
from jobs.model import gpt
from jobs.model.contract import Contract, Kept
from jobs.parallel.mesh import Mesh
from jobs.parallel.ranks import Ranks
from jobs.telemetry import flops, folder, metrics
from jobs.tools import preflight
from jobs.trainable import Trainable
from tests.jobs import rnn
from tests.jobs.conftest import Trainer
from tests.jobs.test_precision import Activations
from tests.jobs.world import World

TESTED = {"real": ["training on one node"]}

SHAPES = [
    gpt.Shape(),
    gpt.Shape(layers=3, heads=2, width=48, context=20),
    gpt.Shape(layers=1, width=8, context=2),
]
RNN = {"model.name": "tests.jobs.rnn", "model.context": 32, "train.batch": 8}


def load(**options: Any) -> config.Config:
    named = RNN | {name.replace("__", "."): value for name, value in options.items()}
    return config.load([f"--{name}={value}" for name, value in named.items()])


# -- the GPT's formulas are what is counted of its network ------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_operations_of_the_formula_are_those_that_torch_counts(shape: gpt.Shape) -> None:
    assert gpt.MODEL.flops_per_token(shape) == Contract.flops_per_token(gpt.MODEL, shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_of_the_formula_are_those_of_the_network(shape: gpt.Shape) -> None:
    blocks = range(shape.layers)
    formula = list(gpt.MODEL.weights(shape, 1, blocks, True, True))
    assert formula == list(Contract.weights(gpt.MODEL, shape, 1, blocks, True, True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_activations_of_the_formula_are_near_those_that_are_counted(shape: gpt.Shape, precision: str) -> None:
    """The counted ones have the loss, but neither the logits' gradient nor half precision's copies of weights."""
    formula, counted = (
        each(shape, precision, 1) for each in (gpt.MODEL.kept, lambda *how: Contract.kept(gpt.MODEL, *how))
    )
    assert isinstance(counted, Kept)
    ours = formula.block * shape.layers + formula.first + formula.last - 2 * 4 * 256
    if precision != "fp32":  # copies of the matrices, of which one sequence is all that has them here
        matrices = gpt.MODEL.weights(shape, 1, range(shape.layers), False, True)
        ours += 2 * sum(weight.numbers for weight in matrices) / shape.context
    assert counted.block * shape.layers == pytest.approx(ours, rel=0.06)


# -- another model ----------------------------------------------------------------------------------------


def test_another_model_trains_on_two_ranks(trainer: Trainer) -> None:
    options = {"model__layers": None, "model__heads": None, "model__width": None, "train__steps": 60}
    said = trainer.spread(2, model__name="tests.jobs.rnn", **options)
    assert "60/60" in said
    losses = trainer.losses()
    assert losses[-1] < losses[0] - 1
    assert "name: tests.jobs.rnn" in (trainer.folder / "config.yaml").read_text()
    found = json.loads((trainer.folder / "environment.json").read_text())
    assert found["model_code"] == folder.code(Path(rnn.__file__).parent)


def test_its_operations_are_counted_and_make_its_mfu(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flops, "peak", lambda *_: 1e12)
    options = {"model__layers": None, "model__heads": None, "model__width": None, "train__steps": 3}
    trainer.here(model__name="tests.jobs.rnn", model__hidden=24, **options)
    per_token = 6 * (24 * 24 + 24 * 24 + 256 * 24)  # into, on, head: 2 forward and 4 backward for each weight
    assert rnn.MODEL.flops_per_token(rnn.Shape(hidden=24, context=32)) == per_token
    for line in metrics.read(trainer.folder / "metrics.jsonl"):
        assert line["mfu"] == pytest.approx(line["tokens_per_s"] * per_token / 1e12, abs=1e-4)


def test_matrices_decay_and_nothing_else() -> None:
    network = rnn.MODEL.build(rnn.Shape())
    decayed = {name for name, weight in network.named_parameters() if rnn.MODEL.decays(name, weight)}
    assert decayed == {"into.weight", "on.weight", "head.weight"}


def modes(ranks: Ranks) -> list[bool]:
    """Whether the network trains in a step, in an evaluation, and in the step after it."""
    asked = load()
    trained = Trainable(asked, Mesh.of(asked, ranks.size), ranks)
    found: list[bool] = []
    trained.model.register_forward_pre_hook(lambda network, _: found.append(network.training))
    rows = torch.randint(256, (8, 33))
    for call in (trained.step_loss, trained.evaluate, trained.step_loss):
        call(rows)
    return found


def test_dropout_would_rest_in_the_validation(world: Callable[[int], World]) -> None:
    assert world(1).run(modes) == [[True, False, True]]


def measured(ranks: Ranks, **options: Any) -> tuple[list[int], float]:
    """Numbers of weights, bytes that autograd kept of a step, and the loss of the second step."""
    asked = load(**options)
    torch.manual_seed(0)
    trained = Trainable(asked, Mesh.of(asked, ranks.size), ranks)
    rows = torch.randint(256, (8, 33), generator=torch.Generator().manual_seed(1)).chunk(ranks.size)[
        ranks.rank
    ]
    kept = Activations(trained.model)
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda held: held.tensor):
        trained.step_loss(rows)
    trained.clip(1.0)
    trained.step()
    loss = trained.step_loss(rows).item()
    return [sum(each.numel() for each in trained.model.parameters()), kept.most], ranks.agree([loss])[
        0
    ] / ranks.size


def test_preflight_counts_what_a_rank_is_measured_to_need(world: Callable[[int], World]) -> None:
    (weights, kept), _ = world(1).run(measured)[0]
    asked = load()
    estimate = preflight.memory(asked, Mesh.of(asked, 1), 0)
    assert estimate.weights == 4 * weights
    assert preflight.checkpoint_bytes(asked) == 12 * weights
    assert estimate.activations == pytest.approx(kept, rel=0.06)


@pytest.mark.parametrize("options", [{}, {"mesh__form": "fsdp"}], ids=str)
def test_every_form_of_data_parallelism_computes_what_one_rank_computes(
    world: Callable[[int], World], options: dict[str, Any]
) -> None:
    one = world(1).run(measured)[0][1]
    assert world(2).run(measured, **options)[0][1] == pytest.approx(one, rel=2e-4)
