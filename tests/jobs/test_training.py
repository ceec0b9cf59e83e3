"""The run as a whole: it learns, it is the same every time, and it survives what ends it."""

import json
import math
import os
import re
import signal
from pathlib import Path

import pytest

from jobs import config
from jobs.cli.errors import Failure
from tests.jobs.conftest import Trainer

TESTED = {"real": ["training on one node"]}


def test_it_learns_and_leaves_a_complete_run_folder(undisturbed: Trainer) -> None:
    summary = json.loads((undisturbed.folder / "summary.json").read_text())
    bits = summary["bits_per_byte"]
    assert bits["bigram"] < bits["unigram"]
    assert bits["validation"] < bits["unigram"]  # a bigger model beats the bigram one: see jobs/ddp.yaml
    assert undisturbed.losses()[0] == pytest.approx(math.log(256), abs=1e-3)
    assert (summary["state"], summary["step"], summary["world_size"]) == ("completed", 400, 2)
    assert {"agent", "import", "rendezvous", "data", "model", "first_step", "train", "checkpoint"} <= set(
        summary["phases"]
    )
    # code.diff is there when the checkout has changes.
    assert {path.name for path in undisturbed.folder.iterdir()} - {"code.diff"} == {
        "attempts.jsonl",
        "checkpoints",
        "config.yaml",
        "ends.jsonl",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "samples",
        "summary.json",
    }
    first = json.loads((undisturbed.folder / "metrics.jsonl").read_text().splitlines()[0])
    ours = {"step", "loss", "time", "tokens_per_s", "step_s", "data_s", "memory_mib"}
    assert set(first) == ours | {"mfu", "allreduce_share", "checkpoint_s", "goodput", "joules"}
    again = config.load([f"--config={undisturbed.folder / 'config.yaml'}"])
    assert again.train.steps == 400
    assert (undisturbed.folder / "report.html").read_text().count("<svg") == 4


def test_a_repeated_run_has_the_same_losses_to_the_last_bit(trainer: Trainer, undisturbed: Trainer) -> None:
    trainer.spread(2)
    assert trainer.losses() == undisturbed.losses()


def test_another_seed_has_other_losses(trainer: Trainer, undisturbed: Trainer) -> None:
    trainer.here(train__seed=2, train__steps=3)
    assert trainer.losses() != undisturbed.losses()[:3]


def test_two_ranks_compute_what_one_computes_on_the_same_global_batch(
    trainer: Trainer, undisturbed: Trainer
) -> None:
    """Sums in another order: equal to 1e-5 at first; small differences grow with the steps."""
    trainer.here()
    assert trainer.losses()[:20] == pytest.approx(undisturbed.losses()[:20], rel=1e-5)
    assert trainer.losses() == pytest.approx(undisturbed.losses(), rel=0.05)
    assert trainer.losses() != undisturbed.losses()


@pytest.mark.parametrize("has_worker", [False, True])
def test_a_warning_during_the_start_is_kept_until_the_worker_can_act_on_it(
    trainer: Trainer, has_worker: bool
) -> None:
    """It comes while torchrun, or already its worker, still imports torch: not lost, and not deadly."""
    process = trainer.start(1, fresh=True)
    while not (trainer.workers(process) if has_worker else blocks_the_warning(process.pid)):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGUSR2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    stopped = re.search(r"agreed to stop after step (\d+);", output)
    assert stopped and int(stopped[1]) < 10, output  # a worker that is forked takes its first steps at once


def blocks_the_warning(process: int) -> bool:
    """Whether a process blocks SIGUSR2: torchrun's first act. Before it is a program of its own it blocks all."""
    status = Path(f"/proc/{process}/status").read_text()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
    mask = int(blocked.split()[1], 16)
    return bool(mask >> (signal.SIGUSR2 - 1) & 1) and not mask >> (signal.SIGTERM - 1) & 1


def test_one_rank_told_to_end_takes_the_others_with_it_after_a_save(trainer: Trainer) -> None:
    """SIGTERM to torchrun, as scancel and kubectl delete do: it passes it on and gives workers the time for it."""
    process = trainer.start(2)
    trainer.reaches(20, process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    stopped = len(trainer.losses())
    assert f"SIGTERM: all 2 ranks agreed to stop after step {stopped}; saved in" in output
    assert (trainer.folder / "checkpoints" / f"step-{stopped:06d}" / "manifest.json").exists()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in output


@pytest.mark.parametrize("victim", [pytest.param("worker", marks=pytest.mark.more), "all"])
def test_killed_without_warning_it_resumes_and_ends_bit_by_bit_the_same(
    trainer: Trainer, undisturbed: Trainer, victim: str
) -> None:
    process = trainer.start(2)
    trainer.reaches(130, process)
    workers = trainer.workers(process)
    if victim == "all":  # as when a node loses its power
        process.kill()
    os.kill(workers[-1], signal.SIGKILL)
    if victim == "all":
        os.kill(workers[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    if victim == "worker":
        assert "ended first, with SIGKILL" in output

    output = trainer.spread(2)
    summary = json.loads((trainer.folder / "summary.json").read_text())
    assert summary["resumed_from"] in (50, 100, 150, 200, 250, 300, 350)
    assert trainer.losses() == undisturbed.losses()
    assert len((trainer.folder / "attempts.jsonl").read_text().splitlines()) == 2


def test_in_a_pod_every_end_but_success_and_mistakes_asks_for_another_start(
    trainer: Trainer, undisturbed: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """143 from the pod that was told to end, and from one whose ranks were told by their peers."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    process = trainer.start(2)
    trainer.reaches(60, process)
    os.kill(trainer.workers(process)[-1], signal.SIGTERM)  # to torchrun it is as if it came from elsewhere
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "to be started again, if the job is still wanted" in output

    process = trainer.start(2)
    trainer.reaches(200, process)
    os.kill(trainer.workers(process)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output

    assert "start 3" in trainer.spread(2)
    assert trainer.losses() == undisturbed.losses()
    assert json.loads((trainer.folder / "summary.json").read_text())["restarts"] == 2

    process = trainer.start(3)  # which do not split the batch
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert not list(trainer.folder.parent.glob("run-until-*"))  # a mistake moves nothing aside


def test_a_mistake_ends_with_one_line_and_exit_code_2(trainer: Trainer) -> None:
    process = trainer.start(2, train__batch=7)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output.splitlines()[0] == "train.batch: 7 sequences do not split evenly over 2 ranks"
    assert "Traceback" not in output
    assert not trainer.folder.exists()


def test_simulated_gpus_are_told_as_such(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has real GPUs")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    node = trainer.folder.parent / "node.json"
    monkeypatch.setenv("SLIPWAY_NODE", str(node))
    with pytest.raises(Failure, match=r"CUDA_VISIBLE_DEVICES=0, but no GPU can be used: .*no NVIDIA driver"):
        trainer.here(train__steps=1)
    assert not trainer.folder.exists()
    node.write_text('{"simulated": true}')
    trainer.here(train__steps=1)
    assert json.loads((trainer.folder / "summary.json").read_text())["gpus_simulated"]
