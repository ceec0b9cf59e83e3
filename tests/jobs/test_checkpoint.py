"""Checkpoints: the newest whole one of this run is used, and each other one is refused by name and reason."""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.errors import Failure, Mistake
from jobs.resilience import interval
from jobs.telemetry import metrics
from jobs.tools import record
from jobs.trainable import Trainable
from tests.jobs.conftest import CHECKOUT, Trainer

TESTED = {"real": ["training on one node"]}

STEPS = {"train__steps": 30, "checkpoint__every": 10}


@pytest.fixture
def trained(trainer: Trainer) -> Trainer:
    """A finished run with checkpoints of steps 10, 20 and 30."""
    trainer.here(**STEPS, checkpoint__keep=3)
    return trainer


def checkpoints(trainer: Trainer) -> list[str]:
    return sorted(path.name for path in (trainer.folder / "checkpoints").iterdir())


def resumed_from(trainer: Trainer) -> int:
    step: int = json.loads((trainer.folder / "summary.json").read_text())["resumed_from"]
    return step


def newest(trainer: Trainer, file: str) -> Path:
    return trainer.folder / "checkpoints" / "step-000030" / file


def truncate(trainer: Trainer) -> str:
    file = newest(trainer, "__0_0.distcp")
    size = file.stat().st_size
    with file.open("r+b") as content:
        content.truncate(size - 1)
    return f"torn: __0_0.distcp has {size - 1} bytes, should have {size}"


def flip_a_bit(trainer: Trainer) -> str:
    file = newest(trainer, "__0_0.distcp")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return "torn: __0_0.distcp: sha256 "


def remove_a_file(trainer: Trainer) -> str:
    newest(trainer, ".metadata").unlink()
    return "torn: .metadata: No such file or directory"


def remove_the_manifest(trainer: Trainer) -> str:
    newest(trainer, "manifest.json").unlink()
    return "manifest.json: No such file or directory"


def cut_the_manifest(trainer: Trainer) -> str:
    file = newest(trainer, "manifest.json")
    file.write_text(file.read_text()[:100])
    return "manifest.json: "


def claim_another_data_set(trainer: Trainer) -> str:
    file = newest(trainer, "manifest.json")
    manifest = json.loads(file.read_text())
    mine, manifest["facts"]["data"] = manifest["facts"]["data"], "stdlib-0123456789ab"
    file.write_text(json.dumps(manifest))
    return f"foreign: made with data 'stdlib-0123456789ab', this run has '{mine}'"


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, remove_a_file, remove_the_manifest, cut_the_manifest, claim_another_data_set],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(
    trained: Trainer, damage: object, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = trained.losses()
    assert callable(damage)
    why = damage(trained)
    capsys.readouterr()
    trained.here(**STEPS, checkpoint__keep=3)
    output = capsys.readouterr().out
    assert f"checkpoint {trained.folder}/checkpoints/step-000030 refused: {why}" in output
    assert resumed_from(trained) == 20
    assert trained.losses() == losses
    # What cannot be proven to be this run's is not thrown away.
    aside = ["step-000030-aside"] if why.startswith(("manifest", "foreign")) else []
    assert checkpoints(trained) == ["step-000010", "step-000020", "step-000030", *aside]


def test_a_finished_run_goes_on_with_more_steps_at_another_rate_and_says_so(
    trained: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = trained.losses()
    capsys.readouterr()
    real, decays = Trainable.load_state, []

    def load_state(self: Trainable, state: dict[str, Any]) -> None:
        real(self, state)
        decays.append({group["weight_decay"] for group in self.optimizer.param_groups})

    monkeypatch.setattr(Trainable, "load_state", load_state)
    trained.here(train__steps=40, checkpoint__every=10, train__learning_rate=0.001, train__weight_decay=0.2)
    output = capsys.readouterr().out
    assert decays == [{0.0, 0.2}]  # the new one, not that of the checkpoint
    assert resumed_from(trained) == 30
    assert "from here on train.steps is 40; it was 30" in output
    assert "from here on train.learning_rate is 0.001; it was 0.01" in output
    assert "restart" not in output
    assert (len(trained.losses()), trained.losses()[:30]) == (40, losses)
    assert checkpoints(trained) == ["step-000030", "step-000040"]
    found = record.Record(trained.folder)
    assert found.account.restarts == 0
    assert found.attempts[-1]["changed"]["train.steps"] == [30, 40]
    assert found.config["train.steps"] == "40"
    assert not (trained.folder / "discarded.jsonl").exists()
    with pytest.raises(Mistake, match=r"train.steps: 30, but the run in .* is at step 40 already"):
        trained.here(**STEPS)


def test_another_model_is_refused_and_nothing_of_the_run_is_lost(trained: Trainer) -> None:
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    with pytest.raises(Mistake, match=r"the run in it has model.width 32, this one 64"):
        trained.here(**STEPS, model__width=64)
    (trained.folder / "config.yaml").unlink()  # the checkpoints know it, too
    with pytest.raises(Mistake, match=r"step-000030: foreign: made with model.width 32, this run has 64"):
        trained.here(**STEPS, model__width=64)
    after = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.get(path)} == {trained.folder / "config.yaml"}


def test_a_finished_run_started_again_only_reports(trained: Trainer) -> None:
    losses = trained.losses()
    trained.here(**STEPS)
    assert (resumed_from(trained), trained.losses()) == (30, losses)


def test_the_last_k_stay(trainer: Trainer) -> None:
    trainer.here(**STEPS, checkpoint__keep=2)
    assert checkpoints(trainer) == ["step-000020", "step-000030"]


def test_an_automatic_interval_first_measures_what_a_save_costs(trainer: Trainer) -> None:
    trainer.here(train__steps=30, checkpoint__every="auto", checkpoint__node_mtbf_h=5000)
    assert checkpoints(trainer) == ["step-000010", "step-000030"]  # the first, and the last step's
    found = json.loads((trainer.folder / "summary.json").read_text())["checkpoint"]
    # By the last save's cost as it was when it began; what the end waits for it is in its stall, and comes later.
    at_most = max(interval.daly(found["stall_s"][-1], 5000 * 3600), *found["write_s"])
    assert 0 < found["interval_s"] <= at_most + 0.1


def test_a_checkpoint_of_one_rank_is_gone_on_with_by_two(trainer: Trainer) -> None:
    trainer.here(train__steps=30, checkpoint__every=10)
    one = trainer.losses()
    newest(trainer, "manifest.json").unlink()
    trainer.spread(2, train__steps=30, checkpoint__every=10)
    assert resumed_from(trainer) == 20
    assert trainer.losses()[:20] == one[:20]
    assert trainer.losses() == pytest.approx(one, rel=1e-4)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(trainer: Trainer) -> None:
    with files_of_at_most(100_000):  # more than the record, less than a checkpoint
        # In a process of its own, which inherits the limit: pytest's own files must not meet it.
        run = [sys.executable, "-m", "jobs.train", *trainer.options(**STEPS)]
        output = subprocess.run(run, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout
    for step in (10, 20, 30):
        why = r"\[Errno 27\] File too large|a write was cut short: the disk is full"
        assert re.search(f"checkpoint of step {step} NOT saved: rank 0: ({why})", output), output
    assert checkpoints(trainer) == []
    assert len(trainer.losses()) == 30

    trainer.here(**STEPS)  # there is room again
    assert checkpoints(trainer) == ["step-000020", "step-000030"]


def test_a_record_that_cannot_be_written_stops_the_run_with_its_name(tmp_path: Path) -> None:
    record = metrics.Metrics(tmp_path / "metrics.jsonl", 0)
    record.write(step=1, loss=1.0)
    with files_of_at_most(20), pytest.raises(Failure, match=r"metrics\.jsonl: File too large; make room"):
        record.write(step=2, loss=1.0)


def test_a_record_keeps_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics.Metrics(path, 2).write(step=3, new=True)
    assert metrics.read(path) == [{"step": 1}, {"step": 2}, {"step": 3, "new": True}]


def test_data_with_a_wrong_checksum_stops_the_run_with_the_files_name(trainer: Trainer) -> None:
    (folder,) = trainer.data.iterdir()
    shard = folder / "train-00000.bin"
    content = shard.read_bytes()
    try:
        shard.write_bytes(b"?" + content[1:])
        with pytest.raises(Failure, match=r"train-00000\.bin: sha256 is"):
            trainer.here(train__steps=1)
    finally:
        shard.write_bytes(content)
