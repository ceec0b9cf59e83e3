"""What a run can be told: one tree of dataclasses, which is also the YAML file and the command line.

    python -m jobs.train --config jobs/ddp.yaml --train.steps=10

`python -m jobs.config` with the same arguments only checks them: no torch, a tenth of a second, exit code 2
with a line for each mistake. A YAML scalar and a command-line value are read by the same rules, from the
field's type. Sections of what shapes the weights (`model`, `data`, `train`) are kept in each checkpoint.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from functools import cache
from typing import Any, TypeVar, cast

from jobs.cli import options
from jobs.cli.options import option
from jobs.model import contract, gpt, named, of
from jobs.model.contract import Shape

AUTO = -1  # `checkpoint.every: auto`
Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Data:
    folder: str = option(
        "runs/data", "where token shards are prepared; shared by all nodes, or local to each"
    )
    shard_bytes: int = option(4 << 20, "size of a token shard", 1024)
    validation: float = option(0.1, "share of the files that is held out, below 1", 0)


@dataclass(frozen=True)
class Train:
    steps: int = option(300, "optimiser steps", 1)
    batch: int = option(32, "sequences in a step, over all ranks; the world size divides it", 1)
    learning_rate: float = option(0.01, "at its highest, after the warm-up", 0)
    warmup: int = option(20, "steps from 0 to the highest learning rate", 0)
    weight_decay: float = option(0.1, "of matrices; gains are not decayed", 0)
    clip: float = option(1.0, "largest norm of the gradient", 0)
    seed: int = option(1, "of the weights and of the order of the data", 0)
    threads: int = option(1, "CPU threads of a rank; another number may change the last bits of the loss", 1)


@dataclass(frozen=True)
class Mesh:
    """How the work is split over the ranks (jobs/parallel/mesh.py); sizes multiply to the world size."""

    form: str = option(
        "ddp",
        "ddp: whole weights on each rank, least talk, while they fit; "
        "fsdp: split over `shard` ranks, gathered block by block: half more talk",
        among=("ddp", "fsdp"),
    )
    replicate: int = option(0, "copies that average their gradients; 0: the ranks that are left", 0)
    shard: int = option(
        0, "fsdp: ranks that share one copy, best inside a node; 0: the ranks that are left", 0
    )
    tensor: int = option(1, "ranks that split each matrix: talks in every block, so only inside a node", 1)
    pipeline: int = option(1, "ranks that have some of the blocks each: talks least, waits in a bubble", 1)
    context: int = option(1, "ranks that split each sequence: for contexts that do not fit", 1)
    schedule: str = option(
        "1f1b",
        "of a pipeline; interleaved: two stages on each rank, half the bubble, twice the messages",
        among=("1f1b", "interleaved"),
    )
    microbatches: int = option(
        0, "of a pipeline: more of them wait less and compute smaller products; 0: twice its ranks", 0
    )


@dataclass(frozen=True)
class Compute:
    """How a step is computed, not what: each may change between two starts of a run."""

    precision: str = option(
        "fp32",
        "of products; weights and moments stay fp32. tf32: 10 bits of mantissa, NVIDIA from 8.0 on; "
        "bf16: half the bytes, 7 bits; fp16: 10 bits, a small range, so the loss is scaled; "
        "fp8: from 8.9 on, products of the blocks, 2-3 bits",
        among=("fp32", "tf32", "bf16", "fp16", "fp8"),
    )
    accumulate: int = option(
        1, "parts of a rank's batch, one after the other: less memory, smaller products", 1
    )
    recompute: bool = option(False, "blocks' activations again in backward: less memory, a third more work")
    compile: bool = option(False, "each block by torch.compile: faster steps, a first one that takes minutes")
    deterministic: bool = option(
        True, "on GPUs only kernels that give the same bits each time; false: faster, other last digits"
    )
    fused: bool = option(True, "one kernel for the optimiser: faster; false: one for each operation")


@dataclass(frozen=True)
class Checkpoint:
    every: int = option(
        50,
        "steps between two checkpoints; 0: only when interrupted; auto: what loses least time (resilience/interval.py)",
        0,
        words={"auto": AUTO},
    )
    keep: int = option(2, "how many of the last ones stay", 1)
    # 419 unexpected interruptions in 54 days of 2048 nodes: The Llama 3 Herd of Models, arXiv:2407.21783, 3.3.4
    node_mtbf_h: float = option(6000.0, "for auto: a node's mean time between failures, in hours", 0.001)


@dataclass(frozen=True)
class Guard:
    """What happens when the loss is no number or jumps (jobs/resilience/guard.py); on all ranks the same."""

    nonfinite: str = option(
        "stop",
        "NaN or infinity in loss or gradient. stop: end before the update; skip: leave the step out",
        among=("stop", "skip", "off"),
    )
    spike: str = option(
        "off", "a loss far above the last ones: the same choices", among=("off", "skip", "stop")
    )
    spike_sigmas: float = option(6.0, "how far: standard deviations above the mean of the window", 0)
    window: int = option(100, "how many of the last losses a spike is told from", 10)
    skips: int = option(10, "most steps to skip in a row; one more stops the run", 0)


@dataclass(frozen=True)
class Run:
    folder: str = option("", "run folder; an existing one is gone on with. Default: runs/<job id or time>")
    log_every: int = option(20, "steps between two progress lines", 1)
    validate: int = option(1024, "validation sequences that the summary's bits per byte are measured on", 1)
    peer_timeout_s: int = option(60, "seconds until a step's collective that waits for a peer fails", 1)
    slow_timeout_s: int = option(
        1800, "the same where one rank may take long: data, the first step, saves, validation", 1
    )
    heartbeat_s: float = option(
        4.0,
        "seconds of silence until a rank counts as dead; 0: nobody watches (jobs/resilience/heartbeat.py)",
        0,
    )
    tensorboard: bool = option(False, "figures of each step for TensorBoard too (jobs/telemetry/board.py)")
    profile_every: int = option(
        0, "steps between two that are profiled for allreduce_share, on any mesh; 0: DDP's own times", 0
    )
    samples: bool = option(True, "keep a ledger of sample numbers for each step (jobs/data/samples.py)")


@dataclass(frozen=True)
class Config:
    model: Shape = field(default_factory=gpt.Shape)  # or another model's: see `variant`
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    mesh: Mesh = field(default_factory=Mesh)
    compute: Compute = field(default_factory=Compute)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    guard: Guard = field(default_factory=Guard)
    run: Run = field(default_factory=Run)

    def trajectory(self) -> dict[str, Any]:
        """What the weights at a step depend on, as `section.key: value`: a checkpoint of another is foreign.

        But for MAY_CHANGE. Where the data lies is left out; what it is, is known by its own checksum.
        """
        return {
            f"{section}.{key}": value
            for section in ("model", "data", "train")
            for key, value in asdict(getattr(self, section)).items()
            if (section, key) != ("data", "folder")
        }


OPTIONS = options.table(Config)
# Of the trajectory: what a run may go on with otherwise than it began. Not `batch` and `seed`, which say when
# each sample comes: some would come twice and some never.
MAY_CHANGE = frozenset(
    f"train.{key}" for key in ("steps", "learning_rate", "warmup", "weight_decay", "clip", "threads")
)
to_yaml = options.to_yaml


def variant(kind: type[Tree], words: options.Words) -> tuple[type[Tree], options.Words]:
    """The same tree with the section `model` of the model that the last word on it names. Raises Mistake.

    What a file says of one model is left out when the command line names another.
    """
    said = [(where, text) for where, name, text in words if name == "model.name"]
    in_files = [text for where, text in said if not where.startswith("--")]
    of_files, name = [Shape().name, *in_files][-1], [Shape().name, *(text for _, text in said)][-1]
    if name != of_files:
        words = [word for word in words if word[0].startswith("--") or not word[1].startswith("model.")]
    return _with(cast(Any, kind), cast(Any, named(name).section)), words


@cache
def _with(kind: Any, shape: Any) -> Any:
    """One class for each model, so that equal configurations are equal."""
    if shape is gpt.Shape:
        return kind
    part = ("model", Shape, field(default_factory=shape))
    return make_dataclass(kind.__name__, [part], bases=(kind,), frozen=True)


def load(arguments: Sequence[str]) -> Config:
    """The configuration of a command line: defaults, then `--config FILE`, then `--section.key=value`.

    Raises Mistake with one line for each thing that is wrong.
    """
    return options.read(Config, arguments, rules, variant)


def rules(config: Config) -> Iterator[str]:
    """What does not hold between the values, a line each."""
    yield from of(config.model).rules(config.model)
    yield from _not_offered(config)
    if config.data.validation >= 1:
        yield f"data.validation: {config.data.validation} is a share of the files; use one below 1"


def _not_offered(config: Config) -> Iterator[str]:
    """What the model does not offer, a line each."""
    model, name = of(config.model), config.model.name
    for key, method in contract.METHODS.items():
        section, _, part = key.partition(".")
        if getattr(getattr(config, section), part) > 1 - (section == "compute") and not model.offers(key):
            yield (
                f"{key}: model {name} does not offer this, it has no `{method}` (jobs/model/contract.py); leave it "
                f"at {str(OPTIONS[key].default).lower()}"
            )
    if config.compute.precision == "fp8" and not model.fp8:
        yield f"compute.precision: model {name} does not offer fp8 (jobs/model/contract.py); use bf16"


def help_text(arguments: Sequence[str] = ()) -> str:
    """Every option, of the model that the arguments name."""
    return options.help_text(options.kind_of(Config, arguments, variant))


def main(arguments: Sequence[str]) -> int:
    return options.check(Config, load, arguments, variant)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
