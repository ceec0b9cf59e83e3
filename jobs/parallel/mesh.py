"""How the ranks of a run are arranged: a mesh of five dimensions, checked before anything starts. No torch.

    pipeline x replicate x shard x context x tensor        from the outermost to the innermost

Neighbouring ranks are in the same tensor group, which talks most and so belongs inside one machine; stages of
a pipeline talk least and may be far apart. The order is that of torchtitan's ParallelDims. Ranks that differ
in `replicate` or `shard` read different samples; those that differ only in the other three read the same ones.

    replicate  whole copies of what the other dimensions split; gradients are averaged between them
    shard      weights, gradients and optimiser state are split (mesh.form fsdp); gathered block by block
    context    each rank has a part of every sequence; keys and values are gathered
    tensor     each rank has a part of every matrix, and between the blocks a part of every sequence
    pipeline   each rank has some of the blocks; microbatches pass through
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from jobs.cli.errors import Mistake
from jobs.config import Config
from jobs.model import of

DIMENSIONS = ("pipeline", "replicate", "shard", "context", "tensor")


@dataclass(frozen=True)
class Mesh:
    """Sizes of the dimensions, and how a pipeline is run. `Mesh.of` makes one that is known to work."""

    form: str = "ddp"
    pipeline: int = 1
    replicate: int = 1
    shard: int = 1
    context: int = 1
    tensor: int = 1
    schedule: str = "1f1b"
    microbatches: int = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.pipeline, self.replicate, self.shard, self.context, self.tensor)

    @property
    def world(self) -> int:
        return self.pipeline * self.data * self.context * self.tensor

    @property
    def data(self) -> int:
        """In how many parts the global batch is split."""
        return self.replicate * self.shard

    @property
    def stages(self) -> int:
        """Parts that the blocks are split into; an interleaved schedule gives each rank two of them."""
        return self.pipeline * (2 if self.interleaved else 1)

    @property
    def interleaved(self) -> bool:
        return self.pipeline > 1 and self.schedule == "interleaved"

    @property
    def plain(self) -> bool:
        """Whether each rank has all weights and whole sequences: what DistributedDataParallel does."""
        return self.form == "ddp" and self.world == self.data

    @classmethod
    def of(cls, config: Config, world: int) -> "Mesh":
        """The mesh that a configuration asks for on `world` ranks. Raises Mistake with a line for each reason."""
        asked = config.mesh
        inner = asked.pipeline * asked.context * asked.tensor
        sizes = f"mesh.pipeline {asked.pipeline} x mesh.context {asked.context} x mesh.tensor {asked.tensor}"
        if world % inner:
            raise Mistake(f"mesh: {sizes} = {inner} does not divide {_ranks(world)}")
        left = world // inner
        if asked.form == "ddp" and asked.shard > 1:
            raise Mistake(f"mesh.shard: {asked.shard}, but ddp splits no weights; use mesh.form fsdp")
        rest = max(1, left // (asked.replicate or 1))
        shard = 1 if asked.form == "ddp" else asked.shard or rest
        replicate = asked.replicate or max(1, left // shard)
        if replicate * shard != left:
            raise Mistake(
                f"mesh: {sizes} leaves {left} of {_ranks(world)}, but mesh.replicate {asked.replicate or 'rest'}"
                f" x mesh.shard {asked.shard or 'rest'} does not make {left}"
            )
        mesh = cls(
            form=asked.form,
            pipeline=asked.pipeline,
            replicate=replicate,
            shard=shard,
            context=asked.context,
            tensor=asked.tensor,
            schedule=asked.schedule,
            microbatches=(asked.microbatches or 2 * asked.pipeline) if asked.pipeline > 1 else 1,
        )
        mistakes = list(mesh._mistakes(config))
        if mistakes:
            raise Mistake("\n".join(mistakes))
        return mesh

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where a rank is in each dimension."""
        found = {}
        for name, size in zip(reversed(DIMENSIONS), reversed(self.sizes), strict=True):
            rank, found[name] = divmod(rank, size)
        return found

    def data_rank(self, rank: int) -> int:
        """Which of the `data` parts of the global batch a rank reads."""
        at = self.coordinates(rank)
        return at["replicate"] * self.shard + at["shard"]

    def groups(self, *names: str) -> list[list[int]]:
        """Ranks that differ only in the named dimensions, group by group."""
        fixed = [name for name in DIMENSIONS if name not in names]
        found: dict[tuple[int, ...], list[int]] = {}
        for rank, at in enumerate(product(*map(range, self.sizes))):
            where = dict(zip(DIMENSIONS, at, strict=True))
            found.setdefault(tuple(where[name] for name in fixed), []).append(rank)
        return list(found.values())

    def blocks(self, stage: int, layers: int) -> range:
        """The blocks of a stage. The first stages have one more where they do not split evenly."""
        each, more = divmod(layers, self.stages)
        first = stage * each + min(stage, more)
        return range(first, first + each + (stage < more))

    def stages_of(self, rank: int) -> list[int]:
        """The stages of a rank, in order; interleaved, its second one comes after every rank's first."""
        return list(range(self.coordinates(rank)["pipeline"], self.stages, self.pipeline))

    def line(self) -> str:
        """As a person reads it, such as `fsdp: replicate 2 x shard 4`; empty for DDP alone."""
        split = [f"{name} {size}" for name, size in zip(DIMENSIONS, self.sizes, strict=True) if size > 1]
        return "" if self.plain else f"{self.form}: {' x '.join(split) or 'alone'}"

    def _mistakes(self, config: Config) -> Iterator[str]:
        """Why a model or a batch cannot be split like this, and what does not go together."""
        train, compute = config.train, config.compute
        pieces = self.data * compute.accumulate * self.microbatches
        if train.batch % pieces:
            how = [f"{_ranks(self.data)}"]
            how += [f"{compute.accumulate} accumulated parts"] if compute.accumulate > 1 else []
            how += [f"{self.microbatches} microbatches"] if self.pipeline > 1 else []
            over = " x ".join(how)
            yield f"train.batch: {train.batch} sequences do not split evenly over {over}"
        yield from of(config.model).misfits(config.model, self)
        if self.pipeline > 1 and self.microbatches < self.pipeline:
            yield f"mesh.microbatches: {self.microbatches} do not fill a pipeline of {self.pipeline}"
        if self.interleaved and self.microbatches % self.pipeline:
            yield (
                f"mesh.microbatches: {self.microbatches} must be a multiple of mesh.pipeline {self.pipeline} "
                "when interleaved"
            )
        if self.pipeline > 1 and compute.accumulate > 1:
            yield "compute.accumulate: a pipeline accumulates over its microbatches; raise mesh.microbatches"
        if compute.precision == "fp8" and self.tensor > 1:
            yield "compute.precision: fp8 with mesh.tensor above 1 is not supported; use bf16, or mesh.form fsdp"


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"
