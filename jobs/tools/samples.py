"""The proof that no sample of a run was lost or trained on twice, from its ledger (jobs/data/samples.py)."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jobs.cli.errors import Failure, Mistake, told
from jobs.data import samples
from jobs.telemetry import metrics
from jobs.tools.record import find


def prove(run: Path) -> str:
    """A line that says what holds. Raises Failure with the first thing that does not.

    The places of the global order that the records cover are 0, 1, 2, ... without a gap or an overlap, each epoch
    has no sample twice, a whole one has all, and the order is that of the seed, whatever number of ranks trained.
    """
    paths = sorted((run / "samples").glob("rank-*.bin"))
    if not paths:
        raise Mistake(f"{run}: has no samples/rank-*.bin; give the folder of a run, such as runs/latest")
    read_ones = [samples.read(path) for path in paths]
    order = next((header for header, _ in read_ones if header), {})
    if any(header and header != order for header, _ in read_ones):
        raise Failure(f"{run}: ledgers of several orders: {[header for header, _ in read_ones]}")
    if not order:
        raise Failure(f"{paths[0]}: has no header")
    by_step: dict[int, list[samples.Record]] = {}
    for _, records in read_ones:
        for record in records:
            by_step.setdefault(record.step, []).append(record)
    last = _last_step(run, by_step)
    count, batch = int(order["samples"]), int(order["batch"])
    sequence: list[int] = []
    shapes: list[int] = []
    for step in range(1, last + 1):
        parts = sorted(by_step.get(step, []), key=lambda record: record.position)
        for record in parts:
            if record.position > len(sequence):
                raise Failure(
                    f"{run}: step {step}: samples {len(sequence)} to {record.position - 1} were lost"
                )
            if record.position < len(sequence):
                raise Failure(
                    f"{run}: step {step}: sample {record.position} of the order was trained on twice"
                )
            sequence += record.samples
        if len(sequence) < step * batch:
            raise Failure(f"{run}: step {step}: samples {len(sequence)} to {step * batch - 1} were lost")
        if len(sequence) > step * batch:
            raise Failure(f"{run}: step {step} has more than {batch} samples")
        if not shapes or shapes[-1] != len(parts):
            shapes.append(len(parts))
    _permutations(run, sequence, count, int(order["seed"]))
    ranks = ", then ".join(map(str, shapes))
    skipped = _skipped(run)
    return (
        f"{run}: {last} steps of {batch} samples on {ranks} rank{'s' if shapes != [1] else ''}: "
        f"none lost, none repeated, in the order of seed {order['seed']}; "
        f"{len(sequence) / count:.3g} epochs of {count} samples"
        + (f"; read, but not learned from: steps {', '.join(map(str, skipped))} (guard)" if skipped else "")
    )


def _permutations(run: Path, sequence: list[int], count: int, seed: int) -> None:
    """Each epoch holds no sample twice (a whole one therefore all), and is the permutation of the seed."""
    from jobs.data.shards import Order  # numpy, not before the ledger is whole

    for epoch, start in enumerate(range(0, len(sequence), count)):
        part = sequence[start : start + count]
        if len(set(part)) != len(part) or not all(0 <= number < count for number in part):
            raise Failure(f"{run}: epoch {epoch}: a sample was trained on twice, or is none of {count}")
        if part != Order(count, seed).between(start, start + len(part)):
            raise Failure(f"{run}: epoch {epoch}: not in the order of seed {seed}")


def _last_step(run: Path, by_step: dict[int, list[samples.Record]]) -> int:
    """The last step of the record, which the ledger must reach; steps of a start that was killed may be beyond."""
    path = run / "metrics.jsonl"
    lines = metrics.read(path) if path.exists() else []
    last = int(lines[-1]["step"]) if lines else max(by_step, default=0)
    if last and last not in by_step:
        raise Failure(f"{run}: metrics.jsonl has step {last}, the ledger does not")
    return last


def _skipped(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    return [line["step"] for line in metrics.read(path) if line.get("skipped")] if path.exists() else []


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs samples",
        description=__doc__,
        epilog="examples:\n  python -m jobs samples latest\n  python -m jobs samples 17 runs/18",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders, or names in runs/")
    try:
        for run in parser.parse_args(arguments).runs:
            print(prove(Path(run) if Path(run).is_dir() else find(run).folder))
    except (Mistake, Failure) as error:
        return told(error)
    return 0
