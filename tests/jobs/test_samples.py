"""The ledger of samples: it proves that none was lost or repeated, and notices when one was."""

import json
import random
from pathlib import Path

import pytest

from jobs.cli.errors import Failure
from jobs.data import samples, shards
from jobs.tools.samples import main, prove

TESTED = {"real": ["training on one node"]}

ORDER = {"samples": 50, "seed": 3, "batch": 12}


def train(run: Path, begin: int, end: int, ranks: int) -> None:
    """Steps begin + 1 to end on so many ranks, as train.py writes them."""
    samples.drop(run / "samples", begin)
    order = shards.Order(ORDER["samples"], ORDER["seed"])
    ledgers = [samples.Ledger(run / "samples", rank, ranks, ORDER) for rank in range(ranks)]
    for step in range(begin, end):
        for rank, ledger in enumerate(ledgers):
            ledger.write(step + 1, order.batch(step, ORDER["batch"], rank=rank, ranks=ranks))
    for ledger in ledgers:
        ledger.sync()
        ledger.close()
    record = [{"step": step + 1, "loss": 1.0} for step in range(end)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in record))


def test_a_run_that_changes_its_ranks_and_throws_steps_away_is_whole(tmp_path: Path) -> None:
    train(tmp_path, 0, 9, ranks=4)
    train(tmp_path, 5, 14, ranks=3)
    train(tmp_path, 14, 17, ranks=1)
    train(tmp_path, 16, 20, ranks=2)
    line = prove(tmp_path)
    assert "20 steps of 12 samples on 4, then 3, then 1, then 2 ranks: none lost, none repeated" in line
    assert "4.8 epochs of 50 samples" in line
    assert main([str(tmp_path)]) == 0


def test_a_start_from_nothing_begins_the_ledger_anew(tmp_path: Path) -> None:
    train(tmp_path, 0, 5, ranks=4)
    train(tmp_path, 0, 3, ranks=2)
    assert "3 steps of 12 samples on 2 ranks" in prove(tmp_path)


def test_a_record_that_was_cut_off_by_a_crash_is_dropped_on_resume(tmp_path: Path) -> None:
    train(tmp_path, 0, 9, ranks=2)
    path = tmp_path / "samples" / "rank-0001.bin"
    path.write_bytes(path.read_bytes()[:-3])
    train(tmp_path, 5, 10, ranks=2)
    assert "10 steps" in prove(tmp_path)


def test_what_a_dying_machine_wrote_after_the_checkpoint_may_be_anything(tmp_path: Path) -> None:
    train(tmp_path, 0, 9, ranks=2)
    path = tmp_path / "samples" / "rank-0000.bin"
    content = bytearray(path.read_bytes())
    content[-2] ^= 255
    path.write_bytes(content)
    with pytest.raises(Failure, match="damaged at byte"):
        prove(tmp_path)
    train(tmp_path, 5, 10, ranks=2)
    assert "10 steps" in prove(tmp_path)


def rewrite(run: Path, rank: int, change: object) -> None:
    """The ledger of a rank with its records changed by `change(records)`, checksums in order."""
    path = run / "samples" / f"rank-{rank:04d}.bin"
    header, records = samples.read(path)
    assert callable(change)
    path.write_bytes(
        json.dumps(header).encode() + b"\n" + b"".join(record.packed() for record in change(records))
    )


def swapped(records: list[samples.Record]) -> list[samples.Record]:
    first, *rest = records
    mixed = list(first.samples)
    random.Random(0).shuffle(mixed)
    return [samples.Record(first.step, first.position, tuple(mixed)), *rest]


def repeated(records: list[samples.Record]) -> list[samples.Record]:
    one, two, *rest = records
    return [one, samples.Record(two.step, two.position, one.samples), *rest]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda records: records[:3] + records[4:], "step 4: samples 42 to 47 were lost"),
        (lambda records: [*records, records[4]], "step 5: sample 54 of the order was trained on twice"),
        (lambda records: records[:-1], "step 9: samples 102 to 107 were lost"),
        (repeated, "epoch 0: a sample was trained on twice"),
        (swapped, "epoch 0: not in the order of seed 3"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, change: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, 0, 9, ranks=2)
    rewrite(tmp_path, 1, change)
    assert main([str(tmp_path)]) == 1
    assert said in capsys.readouterr().err


def test_a_folder_without_a_ledger_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "has no samples/rank-*.bin" in capsys.readouterr().err
