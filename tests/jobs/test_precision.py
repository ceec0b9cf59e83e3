"""Each way to compute a step: what is exact stays exact, what rounds stays near, what cannot be is one line."""

import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from jobs import config
from jobs.cli.errors import Mistake
from jobs.model import float8, precision
from jobs.model.contract import VOCABULARY
from jobs.parallel.mesh import Mesh
from jobs.parallel.ranks import Ranks
from jobs.tools import preflight
from tests.jobs.test_parallel import TOLERANCE, alone, compare, load, make, named, rows_of, train
from tests.jobs.world import World

__all__ = ["alone"]  # the fixture: one process

TESTED = {"real": ["training on one node"]}

EXACT = [
    (1, {"compute.accumulate": 4}),
    (2, {"compute.accumulate": 2}),
    (2, {"compute.accumulate": 2, "mesh.form": "fsdp"}),
    (2, {"compute.accumulate": 2, "mesh.tensor": 2}),
    (2, {"compute.recompute": "true"}),
    (2, {"compute.recompute": "true", "mesh.form": "fsdp"}),
    (2, {"compute.recompute": "true", "mesh.context": 2}),
    (2, {"compute.recompute": "true", "mesh.pipeline": 2}),
    (2, {"compute.fused": "false", "mesh.form": "fsdp"}),
]


@pytest.mark.parametrize(
    ("ranks", "options"), EXACT, ids=lambda value: named(value) if isinstance(value, dict) else None
)
def test_how_a_step_is_computed_does_not_change_what(
    world: Callable[[int], World], alone: dict[str, Any], ranks: int, options: dict[str, Any]
) -> None:
    """Accumulated or at once, kept or computed again, in one kernel or in many."""
    compare(world(ranks).run(train, options, "fp64"), alone["fp64"], TOLERANCE["fp64"])


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "options", [{"mesh.replicate": 2}, {"mesh.form": "fsdp"}, {"mesh.tensor": 2}], ids=named
)
def test_half_precision_stays_near(
    world: Callable[[int], World], alone: dict[str, Any], options: dict[str, Any], kind: str
) -> None:
    """Within 1 %: bf16 has 7 bits of mantissa, so a product is off by up to 0.4 %, and errors average out."""
    found = world(2).run(train, {**options, "compute.precision": kind}, "fp32")
    assert found[0]["losses"] == pytest.approx(alone["fp32"]["losses"], rel=0.01)
    assert found[0]["losses"] != alone["fp32"]["losses"]
    assert found[0]["norms"] == pytest.approx(alone["fp32"]["norms"], rel=0.05)


def overflow(ranks: Ranks, options: dict[str, Any]) -> list[Any]:
    """Two steps at a scale of the loss that is far too large."""
    asked, mesh, trained = make(ranks, {**options, "compute.precision": "fp16"}, "fp32")
    trained.scaler.scale = 2.0**120
    before = [each.detach().clone() for each in trained.model.parameters()]
    trained.step_loss(rows_of(0, asked, mesh, ranks.rank))
    norm = trained.clip(1.0)
    trained.step()
    same = all(map(torch.equal, before, (each.detach() for each in trained.model.parameters())))
    return [bool(torch.isfinite(norm)), same, trained.scaler.scale]


@pytest.mark.parametrize("options", [{"mesh.replicate": 2}, {"mesh.pipeline": 2}], ids=named)
def test_a_gradient_that_overflows_is_left_out_on_all_ranks_and_the_scale_halved(
    world: Callable[[int], World], options: dict[str, Any]
) -> None:
    assert world(2).run(overflow, options) == [[False, True, 2.0**119]] * 2


def test_the_scale_doubles_after_enough_good_steps() -> None:
    scaler = precision.Scaler(enabled=True, scale=4.0, patience=3)
    assert [scaler.good_step(torch.tensor(1.0)) for _ in range(3)] == [True] * 3
    assert scaler.scale == 8.0
    assert not scaler.good_step(torch.tensor(float("nan")))
    assert (scaler.scale, scaler.good) == (4.0, 0)


@pytest.mark.parametrize("kind", ["tf32", "fp8"])
def test_what_the_device_cannot_do_is_one_line(kind: str) -> None:
    compute = config.Compute(precision=kind)
    with pytest.raises(
        Mistake, match=rf"^compute\.precision: {kind} needs a GPU; on a CPU use fp32, bf16, fp16$"
    ):
        precision.check(compute, torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "has", "works"),
    [
        ("bf16", (7, 5), False),
        ("fp16", (7, 0), True),
        ("tf32", (8, 0), True),
        ("fp8", (8, 0), False),
        ("fp8", (8, 9), True),
    ],
)
def test_a_gpu_is_asked_for_its_compute_capability(
    kind: str, has: tuple[int, int], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    compute = config.Compute(precision=kind)
    if works:
        precision.check(compute, torch.device("cuda"))
    else:
        with pytest.raises(Mistake, match=r"needs compute capability 8\.[09]; a card has"):
            precision.check(compute, torch.device("cuda"))


def test_compiling_on_a_cpu_without_a_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Mistake, match=r"compute\.compile: on a CPU it needs a C\+\+ compiler"):
        precision.check(config.Compute(compile=True), torch.device("cpu"))


def test_products_in_8_bits_are_near_and_their_gradients_too() -> None:
    """torch._scaled_mm on a CPU: the same operation as on a GPU. Within 5 % of the largest: 3 bits of mantissa."""
    torch.manual_seed(0)
    x = torch.randn(4, 16, 32, requires_grad=True)
    weight = torch.randn(48, 32, requires_grad=True)
    near, exact = float8.Product.apply(x, weight), torch.nn.functional.linear(x, weight)
    assert not torch.equal(near.float(), exact)
    assert (near - exact).abs().max() < 0.05 * exact.abs().max()
    towards = torch.randn_like(exact)
    found = torch.autograd.grad(near, (x, weight), towards.bfloat16())
    for mine, right in zip(found, torch.autograd.grad(exact, (x, weight), towards), strict=True):
        assert mine.shape == right.shape
        assert (mine - right).abs().max() < 0.1 * right.abs().max()


def local(tensor: Any) -> Any:
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return tensor.trigger_wait() if hasattr(tensor, "trigger_wait") else tensor  # it is still on its way


class Kept:
    """A tensor that autograd keeps for the backward pass, until it drops this."""

    def __init__(self, tensor: torch.Tensor, dropped: Callable[[], None]) -> None:
        self.tensor, self.dropped = tensor, dropped

    def __del__(self) -> None:
        self.dropped()


class Activations:
    """Bytes that autograd keeps at once, weights aside: `most` is the peak. Each storage counts once."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.users: Counter[int] = Counter()  # by address of the storage
        self.now = self.most = 0

    def keep(self, tensor: torch.Tensor) -> Kept:
        storage = local(tensor).untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        # asked each time: fsdp gathers weights, and a module has other tensors meanwhile
        fixed = {local(each).untyped_storage().data_ptr() for each in self.model.parameters()}
        if at in fixed | {each.untyped_storage().data_ptr() for each in self.model.buffers()}:
            return Kept(tensor, lambda: None)
        self.now += 0 if self.users[at] else size
        self.most = max(self.most, self.now)
        self.users[at] += 1

        def dropped() -> None:
            self.users[at] -= 1
            self.now -= 0 if self.users[at] else size

        return Kept(tensor, dropped)


def measured(ranks: Ranks, options: dict[str, Any]) -> list[int]:
    """Bytes of this rank after a step: weights, gradients, optimiser, and the most that autograd kept at once."""
    asked, mesh, trained = make(ranks, options, "fp32")
    rows = rows_of(0, asked, mesh, ranks.rank)
    trained.step_loss(rows)  # a pipeline's first step learns shapes besides
    kept = Activations(trained.model)
    with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda held: held.tensor):
        trained.step_loss(rows)
    assert kept.now == 0, "all of it was dropped"
    weights = [local(each) for each in trained.model.parameters()]
    gradients = [local(each.grad) for each in trained.model.parameters()]
    trained.step()
    states = trained.optimizer.state.values()
    moments = [local(each) for state in states for name, each in state.items() if name != "step"]
    sizes = [
        sum(each.numel() * each.element_size() for each in some) for some in (weights, gradients, moments)
    ]
    return [*sizes, kept.most]


@pytest.mark.parametrize(
    ("ranks", "options", "kind"),
    [
        (1, {}, "fp32"),
        (1, {}, "bf16"),
        (2, {"mesh.tensor": 2}, "fp32"),
        (2, {"mesh.form": "fsdp"}, "fp32"),
        (2, {"mesh.context": 2}, "fp32"),
        (4, {"mesh.pipeline": 4}, "fp32"),
        (2, {"mesh.pipeline": 2, "mesh.schedule": "interleaved"}, "fp32"),
        (4, {"mesh.pipeline": 2, "mesh.form": "fsdp"}, "fp32"),
        (4, {"mesh.tensor": 2, "mesh.form": "fsdp"}, "fp32"),
        (4, {"mesh.context": 2, "mesh.form": "fsdp"}, "fp32"),
    ],
    ids=str,
)
def test_preflight_estimates_what_a_rank_is_measured_to_need(
    world: Callable[[int], World], ranks: int, options: dict[str, Any], kind: str
) -> None:
    """Weights, gradients and moments to the byte; activations at their peak within 6 %."""
    shape = {"model.width": 64, "model.context": 64, "compute.precision": kind}
    asked = load({**options, **shape})
    mesh = Mesh.of(asked, ranks)
    for rank, found in enumerate(world(ranks).run(measured, {**options, **shape})):
        estimate = preflight.memory(asked, mesh, rank)
        assert found[:3] == [estimate.weights, estimate.gradients, estimate.optimiser]
        kept = estimate.activations + (estimate.gathered if mesh.form == "ddp" else 0)
        if mesh.stages - 1 in mesh.stages_of(rank):
            # two of the estimate's three are not autograd's: the logits themselves and their gradient
            tokens = asked.train.batch * asked.model.context // mesh.data // mesh.context // mesh.microbatches
            kept -= 2 * 4 * VOCABULARY * tokens
        assert found[3] == pytest.approx(kept, rel=0.06)
