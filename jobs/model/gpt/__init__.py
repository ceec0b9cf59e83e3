"""A small byte-level GPT: its shape, how it is cut, how much it is. The network is in network.py."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.cli.options import option
from jobs.model import contract
from jobs.model.contract import VOCABULARY, Contract, Kept, Weight


@dataclass(frozen=True)
class Shape(contract.Shape):
    layers: int = option(4, "transformer blocks", 1)
    heads: int = option(4, "attention heads; divide the width", 1)
    width: int = option(128, "size of the residual stream", 8)


class Model(Contract):
    section = Shape
    fp8 = True

    def rules(self, shape: Shape) -> Iterator[str]:
        if shape.width % (2 * shape.heads):
            yield (
                f"model.heads: {shape.heads} heads do not split a width of {shape.width} evenly; "
                "width must be a multiple of 2 x heads"
            )

    def misfits(self, shape: Shape, mesh: Any) -> Iterator[str]:
        if shape.heads % mesh.tensor:
            yield f"mesh.tensor: {mesh.tensor} ranks do not split model.heads {shape.heads} evenly"
        if VOCABULARY % mesh.tensor:
            yield f"mesh.tensor: {mesh.tensor} ranks do not split {VOCABULARY} bytes evenly; use a power of 2"
        if mesh.context > 1 and shape.context % (2 * mesh.context):
            yield (
                f"mesh.context: each of {mesh.context} ranks has two pieces of a sequence, so model.context must "
                f"be a multiple of {2 * mesh.context}; it is {shape.context}"
            )
        elif shape.context % (mesh.context * mesh.tensor):
            yield (
                f"mesh.tensor: between the blocks {mesh.tensor} ranks split a sequence of "
                f"{shape.context // mesh.context}, which is not a multiple"
            )
        if mesh.form == "fsdp" and shape.width % (mesh.shard * mesh.context):
            yield (
                f"mesh.shard: {mesh.shard} x mesh.context {mesh.context} does not split model.width "
                f"{shape.width} evenly"
            )
        if mesh.pipeline > 1 and shape.layers < mesh.stages:
            yield f"mesh.pipeline: {mesh.stages} stages need as many blocks; model.layers is {shape.layers}"

    def pieces(self, shape: Shape) -> int:
        return shape.layers

    def build(self, shape: Shape) -> Any:
        from jobs.model.gpt.network import GPT

        return GPT(shape)

    def blocks(self, network: Any) -> Sequence[Any]:
        return list(network.blocks.values())

    def shard_along(self, weight: Any) -> int:
        return 2 if weight.ndim == 3 else 0  # the first dimension of q, k and v counts to three

    def cut_matrices(self, network: Any, tensor: Any) -> None:
        from jobs.model.gpt import cuts

        cuts.matrices(network, tensor)

    def cut_sequences(self, network: Any, positions: Any, attend: Any) -> None:
        from jobs.model.gpt import cuts

        cuts.sequences(network, positions, attend)

    def stages(self, network: Any, shape: Shape, stages: Mapping[int, range], last: int) -> list[Any]:
        from jobs.model.gpt import cuts

        return cuts.stages(network, shape, stages, last)

    def flops_per_token(self, shape: Shape) -> float:
        """6 N + 12 L H Q T: 2 for each weight forward and 4 backward; attention's two products of `width` x

        `context`, forward and backward, counted in full although a causal kernel skips half of them: so figures
        compare with published ones. Looking up is no product. It is what torch counts, known without torch.
        """
        products = 12 * shape.layers * shape.width**2 + VOCABULARY * shape.width
        return 6 * products + 12 * shape.layers * shape.width * shape.context

    def weights(
        self, shape: Shape, tensor: int, blocks: Iterable[int], first: bool, last: bool
    ) -> Iterator[Weight]:
        width = shape.width
        if first:  # its gradient comes whole on each rank
            yield Weight((VOCABULARY // tensor, width), whole_gradient=tensor)
        for block in blocks:
            yield Weight((3, width // tensor, width), block, along=2)
            yield Weight((width, width // tensor), block)
            yield Weight((4 * width // tensor, width), block)
            yield Weight((width, 4 * width // tensor), block)
        if last:
            yield Weight((VOCABULARY // tensor, width))

    def kept(self, shape: Shape, precision: str, tensor: int) -> Kept:
        """19 width + 3 heads + 2 numbers in fp32 of a block; in half precision 50 width bytes for the 76.

        Counted from the network's operations as Korthikanti et al. do, arXiv:2205.05198, section 4.1, and measured
        by tests/jobs/test_precision.py. Flash attention: nothing grows with the square of the context.
        """
        half = precision in ("bf16", "fp16", "fp8")
        # In units of width: the residual stream twice, normalised twice, and what lies between the products.
        stream, normalised, between = (8, 4, 38) if half else (8, 8, 60)
        block = (stream + between) * shape.width // tensor + normalised * shape.width
        return Kept(
            block=block + 4 * (2 + 3 * shape.heads) // tensor,
            stream=4 * shape.width // tensor,
            first=4 * shape.width + 8,
            last=8 * shape.width + 3 * 4 * VOCABULARY + 8,  # logits, their logarithms, and their gradient
        )


MODEL = Model()
