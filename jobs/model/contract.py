"""What the rest of jobs/ asks of a model: a folder whose `MODEL` is a Contract. No torch until a network is built.

`section` and `build` are all that a model must give; what else stands here holds for any network that reads bytes and
says the next one. A model that can be cut gives the method that does it; what it does not give is refused in a line.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from jobs.cli.options import option

VOCABULARY = 256  # a token is a byte

# The options that need a method of the model. Data parallelism (ddp, fsdp, both) needs none.
METHODS = {
    "mesh.tensor": "cut_matrices",
    "mesh.context": "cut_sequences",
    "mesh.pipeline": "stages",
    "compute.recompute": "blocks",
}


@dataclass(frozen=True)
class Shape:
    """The section `model` of a configuration; a model adds what it is shaped by."""

    name: str = option("gpt", "folder in jobs/model/, or a Python package with the same contract")
    context: int = option(128, "bytes that the model sees", 2)


@dataclass(frozen=True)
class Weight:
    """A parameter, as large as a rank that splits matrices has it."""

    shape: tuple[int, ...]
    block: int | None = None  # which one it is in; None: outside of all
    along: int = 0  # the dimension that fsdp splits
    whole_gradient: int = 1  # so many times larger its gradient is under ddp

    @property
    def numbers(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Kept:
    """Bytes that autograd keeps of a token for the backward pass."""

    block: float  # in each block
    stream: float = 0  # what goes into a block: all that is kept of it with recomputation
    first: float = 0  # before the blocks
    last: float = 0  # after them, with the loss


class Contract:
    """A model as the rest of jobs/ knows it."""

    section: type[Any] = Shape  # of the configuration
    fp8 = False  # every weight in its blocks is a matrix that is multiplied with, without a bias (float8.py)

    # -- before anything starts: no torch ------------------------------------------------------------------

    def offers(self, option: str) -> bool:
        """Whether this model has the method that an option of METHODS needs."""
        method = METHODS[option]
        return getattr(type(self), method) is not getattr(Contract, method)

    def rules(self, shape: Any) -> Iterable[str]:
        """What does not hold between the values of a shape, a line each."""
        return ()

    def misfits(self, shape: Any, mesh: Any) -> Iterable[str]:
        """Why it cannot be cut like a mesh (jobs/parallel/mesh.py) that it offers, a line each."""
        return ()

    def pieces(self, shape: Any) -> int:
        """How many blocks there are: the most stages of a pipeline."""
        return 1

    # -- the network, with torch ---------------------------------------------------------------------------

    def build(self, shape: Any) -> Any:
        """The network with its first weights: inputs (samples, context) to logits (samples, context, 256)."""
        raise NotImplementedError

    def batch(self, rows: Any) -> tuple[Any, Any]:
        """What the network reads and what it is to say, of rows (samples, context + 1) of bytes."""
        return rows[:, :-1], rows[:, 1:]

    def loss(self, outputs: Any, targets: Any) -> Any:
        """The mean over a batch that is averaged over ranks; in nats a byte for the report to be right."""
        import torch
        from torch.nn import functional

        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def decays(self, name: str, weight: Any) -> bool:
        """Whether a weight is decayed: matrices are; an embedding, whose rows are rarely visited, is not."""
        return weight.ndim > 1 and "embedding" not in name

    def blocks(self, network: Any) -> Sequence[Any]:
        """Modules that follow each other: fsdp gathers one after the other, and each is compiled, or computed again."""
        return ()

    def shard_along(self, weight: Any) -> int:
        """The dimension of a weight that fsdp splits; one that is not the first has to divide."""
        return 0

    def cut_matrices(self, network: Any, tensor: Any) -> None:
        """Give each rank of a device mesh of one dimension its part of every matrix, in place."""
        raise NotImplementedError

    def cut_sequences(self, network: Any, positions: Any, attend: Any) -> None:
        """Let this rank have these positions of every sequence; `attend` is attention to those of all ranks."""
        raise NotImplementedError

    def stages(self, network: Any, shape: Any, stages: Mapping[int, range], last: int) -> list[Any]:
        """Networks with the blocks of some stages each, by number; `network` keeps only what is in them."""
        raise NotImplementedError

    # -- how much it is: counted from the network; a formula is faster and needs no torch ------------------

    def flops_per_token(self, shape: Any) -> float:
        """Operations to train on one token: those of the forward pass, and twice as many backward.

        Counted by torch from the products of the network, on the meta device, where nothing is computed. A product
        has two gradients, so it is three in all; what recomputation adds is not the model's (PaLM, arXiv:2204.02311).
        """
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.device("meta"):
            network = self.build(shape)
            inputs, _ = self.batch(torch.zeros(1, shape.context + 1, dtype=torch.long))
        with FlopCounterMode(display=False) as counter:
            network(inputs)
        return 3 * counter.get_total_flops() / shape.context

    def weights(
        self, shape: Any, tensor: int, blocks: Iterable[int], first: bool, last: bool
    ) -> Iterator[Weight]:
        """The parameters of a stage with these blocks, and with what is before the first or after the last."""
        import torch

        with torch.device("meta"):
            network = self.build(shape)
        numbers = {
            id(weight): at for at, block in enumerate(self.blocks(network)) for weight in block.parameters()
        }
        for weight in network.parameters():
            yield Weight(tuple(weight.shape), numbers.get(id(weight)), self.shard_along(weight))

    def kept(self, shape: Any, precision: str, tensor: int) -> Kept:
        """Of one sequence, divided by its length. Counted in a step with tensors that have no numbers."""
        from jobs.model import count

        return Kept(block=count.kept(self, shape, precision) / shape.context / self.pieces(shape))
