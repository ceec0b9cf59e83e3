"""Whether a run can work, before anything is asked for: no GPU, and for the GPT no torch and under a second.

python -m jobs preflight --config jobs/ddp.yaml --ranks 2
python -m jobs preflight --config jobs/ddp.yaml --ranks 64 --gpus-per-node 8 --mesh.form=fsdp --mesh.shard=8 \\
    --profile hardware/h100-sxm-8x.yaml --warning-s 60

Checks that the mesh divides ranks, batch and model (jobs/parallel/mesh.py); that the fullest rank's memory fits the
profile's; that the checkpoints fit the disk of the run folder; and that a save is done within the warning.
Takes the options of jobs.train as well. Exit code 0: it fits; 1: it does not; 2: the options are wrong.

Bytes of a rank, where they come from:

    weights, gradients    4 each for a parameter: both stay fp32. A parameter is split by tensor, and with fsdp
                          also by shard and context; a pipeline's rank has its blocks.
    optimiser             8: Adam's two moments in fp32, split as the weights (Kingma and Ba, arXiv:1412.6980).
                          Together the 16 of ZeRO, arXiv:1910.02054, section 3.1, without a half-precision copy.
    gathered              what fsdp holds whole for a while: two blocks' weights (one computes, one comes), one
                          block's gradient, and what is outside of the blocks; with a pipeline all its blocks.
                          With half precision, ddp's copies of the weights for the products.
    activations           what autograd keeps, times the microbatches that are under way. Of the GPT by a formula
                          (jobs/model/gpt/), of a model that has none counted with torch (jobs/model/count.py).
    checkpoint            12 a parameter, once for all ranks: weights and moments.

Not counted: the CUDA context, NCCL's buffers and what the allocator cannot use; a tenth of the memory is left
for them (own estimate).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs import config as configuration
from jobs.cli.errors import Mistake, told
from jobs.config import Config
from jobs.model import of
from jobs.model.contract import Weight
from jobs.parallel.mesh import Mesh

USABLE = 0.9  # of the memory
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: int
    gradients: int
    optimiser: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.gathered + self.activations


@dataclass(frozen=True)
class Hardware:
    """What the profile and the command line say of the machines; None where neither does."""

    memory_bytes: float | None = None  # of a rank
    gpus_per_node: int | None = None


def memory(config: Config, mesh: Mesh, rank: int) -> Memory:
    """Bytes of a rank at the fullest moment of a step."""
    stages = {
        stage: mesh.blocks(stage, of(config.model).pieces(config.model)) for stage in mesh.stages_of(rank)
    }
    mine = gradients = 0
    weights = []
    for stage, blocks in stages.items():
        for weight in _weights(config, mesh.tensor, blocks, stage == 0, stage == mesh.stages - 1):
            weights.append(weight)
            mine += _share(weight, mesh)
            gradients += _share(weight, mesh) * (weight.whole_gradient if mesh.form == "ddp" else 1)
    return Memory(
        weights=4 * mine,
        gradients=4 * gradients,
        optimiser=8 * mine,
        gathered=_gathered(config, mesh, weights),
        activations=_activations(config, mesh, rank, sum(map(len, stages.values()))),
    )


def _weights(config: Config, tensor: int, blocks: range, first: bool, last: bool) -> Iterator[Weight]:
    return of(config.model).weights(config.model, tensor, blocks, first, last)


def _share(weight: Weight, mesh: Mesh) -> int:
    """Numbers of a parameter on a rank; the first rank has the most."""
    if mesh.form != "fsdp":
        return weight.numbers
    size = weight.shape[weight.along]
    return -(-size // (mesh.shard * mesh.context)) * (weight.numbers // size)


def _half(config: Config) -> bool:
    return config.compute.precision in ("bf16", "fp16", "fp8")


def _gathered(config: Config, mesh: Mesh, weights: Sequence[Weight]) -> int:
    """Bytes of weights and gradients that a rank has beside its own."""
    size = 2 if _half(config) else 4
    whole = sum(weight.numbers for weight in weights)
    if mesh.form != "fsdp":
        return 2 * whole if _half(config) else 0
    blocks: Counter[int] = Counter()
    for weight in weights:
        if weight.block is not None:
            blocks[weight.block] += weight.numbers
    block, outside = max(blocks.values(), default=0), whole - blocks.total()
    if mesh.pipeline > 1:
        return size * (whole + block)
    return size * (2 * block + outside) + size * max(block, outside)


def _activations(config: Config, mesh: Mesh, rank: int, blocks: int) -> int:
    """Bytes that autograd keeps for the backward pass."""
    sequences = config.train.batch // mesh.data // config.compute.accumulate // mesh.microbatches
    tokens = sequences * config.model.context // mesh.context
    each = of(config.model).kept(config.model, config.compute.precision, mesh.tensor)
    kept = each.block * blocks
    if config.compute.recompute:
        kept = each.stream * blocks + each.block  # the input of each, and one block anew
    under_way = 1.0
    if mesh.interleaved:  # of twice as many, half as long microbatches: arXiv:2104.04473, section 2.2
        ahead = mesh.pipeline + 2 * (mesh.pipeline - 1 - mesh.coordinates(rank)["pipeline"]) + 1
        under_way = min(ahead, 2 * mesh.microbatches) / 2
    elif mesh.pipeline > 1:
        under_way = min(mesh.pipeline - mesh.coordinates(rank)["pipeline"], mesh.microbatches)
    stages = mesh.stages_of(rank)
    found = under_way * kept
    if 0 in stages:
        found += under_way * each.first
    if mesh.stages - 1 in stages:
        found += each.last
    return round(tokens * found)


def checkpoint_bytes(config: Config) -> int:
    """A checkpoint's tensors, all ranks together."""
    blocks = range(of(config.model).pieces(config.model))
    return 12 * sum(weight.numbers for weight in _weights(config, 1, blocks, True, True))


def hardware(path: Path | None, memory_gib: float | None, gpus_per_node: int | None) -> Hardware:
    """From a profile (hardware/*.yaml) and the command line, which wins. Raises Mistake."""
    if path is None:
        return Hardware(memory_gib * GIB if memory_gib else None, gpus_per_node)
    import yaml  # type: ignore[import-untyped]

    try:
        profile = yaml.safe_load(path.read_text())
    except OSError as error:
        raise Mistake(f"--profile: {path}: {error.strerror}; profiles are hardware/*.yaml") from error
    except yaml.YAMLError as error:
        raise Mistake(f"--profile: {path}: not YAML: {str(error).splitlines()[0]}") from error
    try:
        cards = profile.get("accelerators")
        count = gpus_per_node or (int(cards["count"]) if cards else None)
        found = float(cards["memory_gib"] if cards else profile["memory"]["capacity_gib"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Mistake(
            f"--profile: {path}: needs accelerators.count and accelerators.memory_gib, or memory.capacity_gib"
        ) from error
    return Hardware((memory_gib or found) * GIB, count)


def write_rate(folder: Path, at_most_s: float = 0.2) -> float:
    """Bytes a second that this disk takes, written and synced, measured for a moment."""
    block, written = os.urandom(1 << 20), 0
    with tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        while time.perf_counter() - start < at_most_s:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
            written += len(block)
        return written / (time.perf_counter() - start)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--ranks", type=int, required=True, help="world size: all GPUs of the job")
    parser.add_argument("--gpus-per-node", type=int, help="default: the profile's")
    parser.add_argument("--profile", type=Path, help="hardware/<type>.yaml: memory of a GPU, GPUs of a node")
    parser.add_argument("--memory-gib", type=float, help="of a rank; default: the profile's")
    parser.add_argument("--warning-s", type=float, help="seconds between the warning and the end")
    parser.add_argument("--write-gb-per-s", type=float, help="of the disk; default: measured for 0.2 s")
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    chosen, rest = parser.parse_known_args(arguments)
    try:
        for name in ("ranks", "gpus_per_node", "memory_gib", "warning_s", "write_gb_per_s"):
            value = getattr(chosen, name)
            if value is not None and not value > 0:
                raise Mistake(f"--{name.replace('_', '-')}: {value} is too small; use one above 0")
        config = configuration.load(rest)
        mesh = Mesh.of(config, chosen.ranks)
        machine = hardware(chosen.profile, chosen.memory_gib, chosen.gpus_per_node)
        if machine.gpus_per_node and chosen.ranks > machine.gpus_per_node:
            _nodes(mesh, machine.gpus_per_node)
        found = check(config, mesh, machine, chosen.warning_s, chosen.write_gb_per_s)
    except Mistake as mistake:
        return told(mistake)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        why = f"model {config.model.name} is counted with torch, which is not here: use the stack's Python"
        return told(Mistake(f"preflight: {why}"))
    print(json.dumps(found) if chosen.json else "\n".join(_lines(found)))
    return 0 if found["fits"] else 1


def _nodes(mesh: Mesh, gpus: int) -> None:
    if mesh.world % gpus:
        raise Mistake(f"--ranks: {mesh.world} ranks do not fill nodes of {gpus} GPUs; use a multiple")
    if gpus % mesh.tensor:
        raise Mistake(f"mesh.tensor: groups of {mesh.tensor} would cross nodes of {gpus} GPUs; use a divisor")


def check(
    config: Config, mesh: Mesh, machine: Hardware, warning_s: float | None, write_gb_per_s: float | None
) -> dict[str, Any]:
    """Everything found, as --json prints it; `problems` has a line for each thing that does not fit."""
    problems = []
    each = [memory(config, mesh, rank) for rank in range(mesh.world)[:: max(1, mesh.world // mesh.pipeline)]]
    fullest = max(range(len(each)), key=lambda stage: each[stage].total)
    need = each[fullest].total
    if machine.memory_bytes and need > USABLE * machine.memory_bytes:
        problems.append(
            f"memory: a rank needs {size(need)}, {USABLE:.0%} of {size(machine.memory_bytes)} are "
            f"{size(USABLE * machine.memory_bytes)}; {_advice(config, mesh, each[fullest])}"
        )
    folder = existing(Path(config.run.folder or "runs"))
    one, free = checkpoint_bytes(config), shutil.disk_usage(folder).free
    copies = config.checkpoint.keep + 1  # a new one is whole before the oldest goes
    if one * copies > free:
        problems.append(
            f"checkpoint.keep: {copies} checkpoints at once are {size(one * copies)}; {size(free)} are free in "
            f"{folder}; make room, or keep fewer"
        )
    rate, how = (write_gb_per_s * 1e9, "given") if write_gb_per_s else (write_rate(folder), "measured")
    save_s = one / rate
    if warning_s is not None and save_s > warning_s:
        problems.append(
            f"--warning-s: a save takes {save_s:.1f} s at {rate / 1e9:.2f} GB/s ({how}), longer than the "
            f"{warning_s:g} s of warning; ask for more, or a faster disk"
        )
    return {
        "fits": not problems,
        "problems": problems,
        "ranks": mesh.world,
        "mesh": asdict(mesh),
        "sequences_per_rank": config.train.batch // mesh.data,
        "parameters": one // 12,
        "memory": {**asdict(each[fullest]), "total": need, "limit": machine.memory_bytes},
        "fullest_stage": fullest,
        "checkpoint": {"bytes": one, "at_once": copies, "free": free, "folder": str(folder)},
        "save": {"seconds": save_s, "write_bytes_per_s": rate, "rate": how, "warning_s": warning_s},
    }


def _advice(config: Config, mesh: Mesh, used: Memory) -> str:
    """What would lower the largest part."""
    if used.activations > used.total / 2:
        if not config.compute.recompute:
            return "most are activations: compute.recompute=true, compute.accumulate, or mesh.context"
        return "most are activations: compute.accumulate or mesh.context"
    if mesh.form == "ddp":
        return "most are weights and what belongs to them: mesh.form=fsdp splits them"
    return "most are weights and what belongs to them: raise mesh.shard, mesh.tensor or mesh.pipeline"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    mesh, used, saved, save = found["mesh"], found["memory"], found["checkpoint"], found["save"]
    split = [f"{name} {mesh[name]}" for name in ("pipeline", "replicate", "shard", "context", "tensor")]
    shown = [each for each in split if not each.endswith(" 1")]
    each = f"{found['sequences_per_rank']} of the batch's sequences each"
    yield f"mesh        {mesh['form']}: {' x '.join(shown) or '1 rank'}; {each}"
    parts = [f"{name} {size(used[name])}" for name in Memory.__annotations__ if used[name]]
    limit = f" of {size(used['limit'])}" if used["limit"] else "; give --profile or --memory-gib to compare"
    yield f"memory      {' + '.join(parts)} = {size(used['total'])}{limit} (estimated)"
    yield (
        f"checkpoint  {size(saved['bytes'])}, {saved['at_once']} at once; {size(saved['free'])} free in "
        f"{saved['folder']}"
    )
    warned = f", {save['warning_s']:g} s of warning" if save["warning_s"] is not None else ""
    rate = f"{save['write_bytes_per_s'] / 1e9:.2f} GB/s, {save['rate']}"
    yield f"save        {save['seconds']:.2f} s ({rate}), after the step under way{warned}"
    yield from found["problems"] or ["fits"]


def size(count: float) -> str:
    """1536 as 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
