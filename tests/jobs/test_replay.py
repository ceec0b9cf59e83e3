"""The same inputs give the same losses to the last bit, on every mesh; another input is named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import config
from jobs.parallel.mesh import Mesh
from jobs.parallel.ranks import Ranks
from jobs.tools.record import Record
from jobs.trainable import Trainable
from tests.jobs.conftest import CHECKOUT, TINY, Trainer, clean
from tests.jobs.world import World

TESTED = {"real": ["training on one node"]}

SMALL = {"model.layers": 4, "model.heads": 2, "model.width": 32, "model.context": 32, "train.batch": 8}
MESHES: list[dict[str, Any]] = [
    {"mesh.replicate": 2},
    {"mesh.form": "fsdp"},
    {"mesh.tensor": 2},
    {"mesh.context": 2},
    {"mesh.pipeline": 2},
    {"mesh.pipeline": 2, "mesh.schedule": "interleaved"},
    {"compute.accumulate": 2, "compute.recompute": True},
]


def trained(ranks: Ranks, options: dict[str, Any], steps: int) -> tuple[list[float], float]:
    """Losses of some steps, and the sum of all of this rank's weights after them: every bit of each counts."""
    chosen = config.load([f"--{name}={value}" for name, value in (SMALL | options).items()])
    mesh = Mesh.of(chosen, ranks.size)
    torch.manual_seed(chosen.train.seed)
    subject = Trainable(chosen, mesh, ranks)
    source = torch.Generator().manual_seed(7)
    losses = []
    for _ in range(steps):
        rows = torch.randint(256, (chosen.train.batch, chosen.model.context + 1), generator=source)
        mine = rows.chunk(mesh.data)[mesh.data_rank(ranks.rank)]
        loss = subject.step_loss(mine)
        subject.clip(1.0)
        subject.step()
        losses.append(ranks.agree([loss.item()])[0])
    weights = [
        getattr(weight, "to_local", lambda weight=weight: weight)() for weight in subject.model.parameters()
    ]
    return losses, sum(weight.detach().double().sum().item() for weight in weights)


@pytest.mark.parametrize("options", MESHES, ids=str)
def test_a_mesh_gives_the_same_bits_every_time(
    world: Callable[[int], World], options: dict[str, Any]
) -> None:
    first, second = (world(2).run(trained, options, steps=4) for _ in range(2))
    assert first == second
    assert len(set(first[0][0])) == 4  # it learned something: these are no constants


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A repository with jobs/ and a change that is not committed, and a run of it on two ranks in runs/first."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(CHECKOUT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("runs/\n__pycache__/\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    change(folder, "nn.init.normal_(weight)", "nn.init.normal_(weight, std=0.9)")
    options = TINY | {"train.steps": 40, "run.folder": "runs/first", "data.folder": corpus}
    launch = ["-m", "jobs.torchrun", "--standalone", "--nproc-per-node=2", "-m", "jobs.train"]
    done = python(folder, *launch, *(f"--{name}={value}" for name, value in options.items()))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def change(folder: Path, before: str, after: str) -> None:
    path = folder / "jobs/model/gpt/network.py"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def python(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = clean()
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


def test_a_run_is_the_same_when_it_is_run_again(checkout: Path) -> None:
    dry = python(checkout, "-m", "jobs", "replay", "first", "--dry-run")
    assert (dry.returncode, dry.stdout.strip()) == (0, "nothing that was recorded has changed"), dry.stderr
    done = python(checkout, "-m", "jobs", "replay", "first", "--steps=15")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "first and first-replay: identical: the losses of 15 steps are the same to the last bit"
        in done.stdout
    )
    assert len(Record(checkout / "runs/first-replay").lines) < 40  # it was told to stop


def test_the_very_code_runs_again_when_the_checkout_went_on(checkout: Path) -> None:
    change(checkout, "std=0.9", "std=0.5")
    dry = python(checkout, "-m", "jobs", "replay", "first", "--dry-run")
    assert dry.returncode == 1
    (line,) = dry.stdout.splitlines()
    assert line.split()[:2] == ["changed", "code"]

    now = python(checkout, "-m", "jobs", "replay", "first", "--steps=3")
    assert now.returncode == 1, now.stdout + now.stderr
    assert "changed  code" in now.stdout
    assert "first and first-replay-2: differs from step" in now.stdout

    then = python(checkout, "-m", "jobs", "replay", "first", "--steps=3", "--code=recorded")
    assert then.returncode == 0, then.stdout + then.stderr
    assert "nothing that was recorded has changed" in then.stdout
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=checkout, capture_output=True, text=True)
    assert len(worktrees.stdout.splitlines()) == 1  # none is left behind
    change(checkout, "std=0.5", "std=0.9")


def test_changed_inputs_are_named_one_by_one(checkout: Path) -> None:
    changes = ("--train.seed=2", "--train.threads=2", "--data.validation=0.2")
    done = python(
        checkout, "-m", "jobs", "replay", "first", "--dry-run", *(f"--change={each}" for each in changes)
    )
    assert done.returncode == 1, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.split()[:2] == ["changed", "data"]  # another share of it is held out
    assert lines == [
        "  changed  data.validation 0.1 -> 0.2",
        "  changed  train.seed   1 -> 2",
        "  changed  train.threads 1 -> 2",
    ]


def test_each_input_is_compared_with_what_is_here(checkout: Path) -> None:
    """Lock, image, data, ranks, versions, processor, numeric variables: what the record says is made another."""
    other = checkout / "runs/other"
    shutil.copytree(checkout / "runs/first", other)
    found = json.loads((other / "environment.json").read_text())
    found |= {"stack": "cuda13-0", "torch": "1.0", "data": "stdlib-0", "cpu": "i386", "cpu_vectors": "mmx"}
    found |= {"image": "a@sha256:0"}
    (other / "environment.json").write_text(json.dumps(found))
    done = python(checkout, "-m", "jobs", "replay", "other", "--dry-run")
    named = {line.split()[1] for line in done.stdout.splitlines()}
    assert named == {"lock", "torch", "data", "processor", "vectors", "image"}
    against = python(checkout, "-m", "jobs", "replay", "first", "--against=other")
    assert against.returncode == 0  # the same losses; what differs is told
    assert "changed  torch" in against.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hosts": ["a", "b"]}, "it had 2 nodes; to run it on as many:"),
        ({"git": None}, "no commit was recorded"),
        ({"diff": {"kept": False, "bytes": 9, "sha256": ""}}, "its changes, 9 bytes, were not kept"),
        ({"diff": None}, "not all of it is in git"),
    ],
)
def test_what_cannot_be_run_again_says_why(checkout: Path, change: dict[str, Any], says: str) -> None:
    other = checkout / "runs/cannot"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(checkout / "runs/first", other)
    found = json.loads((other / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps(found | change))
    done = python(checkout, "-m", "jobs", "replay", "cannot", "--code=recorded")
    assert done.returncode == 2
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_whose_starts_had_other_ranks_has_no_one_like_it(checkout: Path) -> None:
    other = checkout / "runs/elastic"
    shutil.copytree(checkout / "runs/first", other)
    (line,) = (other / "attempts.jsonl").read_text().splitlines()
    again = json.loads(line) | {"attempt": 1, "world_size": 1}
    (other / "attempts.jsonl").write_text(f"{line}\n{json.dumps(again)}\n")
    done = python(checkout, "-m", "jobs", "replay", "elastic")
    assert done.returncode == 2
    assert "its starts had 2, then 1 ranks" in done.stderr


def test_what_a_run_is_watched_with_is_in_its_record(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one rank, with a node that says what it draws and costs: energy, price, goodput, TensorBoard, Prometheus."""
    node = trainer.folder.parent / "node.json"
    cost = {"hardware": "lab-cpu", "idle_w": 10, "maximum_w": 36.0, "usd_per_hour": 3.6}
    node.write_text(json.dumps({"cpus": 1, "simulated": True, "cost": cost}))
    monkeypatch.setenv("SLIPWAY_NODE", str(node))
    trainer.here(train__steps=12, checkpoint__every=5, run__tensorboard="true")
    record = Record(trainer.folder)
    lines = record.lines
    assert all(
        line["mfu"] is None and line["allreduce_share"] is None for line in lines
    )  # a CPU, and one rank
    assert [line["step"] for line in lines if line["checkpoint_s"] > 0] == [6, 11]
    assert all(0 < line["goodput"] < 1 for line in lines)
    energies = [line["joules"] for line in lines]
    assert energies == sorted(energies)
    account = record.account
    if account.energy == "estimated":
        last = account.attempts[-1]
        seconds = last.ended - last.began
        assert account.joules == pytest.approx(36.0 * seconds, rel=0.05)
    assert account.usd == pytest.approx(3.6 / 3600 * account.wall_s, rel=0.05)
    assert account.state == "completed"
    environment = record.environment
    assert environment["data"].startswith("stdlib-")
    assert all(len(digest) == 64 for digest in environment["data_sha256"].values())
    assert len(environment["code"]) == 64

    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-not-found]
        EventAccumulator,
    )

    board = EventAccumulator(str(trainer.folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 13))
    assert {"goodput", "joules", "checkpoint_s"} <= set(board.Tags()["scalars"])
    assert "mfu" not in board.Tags()["scalars"]


def test_ranks_that_wait_for_each_other_measure_it(undisturbed: Trainer) -> None:
    shares = {line["step"]: line["allreduce_share"] for line in Record(undisturbed.folder).lines}
    assert {step for step, share in shares.items() if share is not None} == set(range(11, 401, 10))
    assert all(0 <= share <= 1 for share in shares.values() if share is not None)


def test_any_mesh_can_be_profiled(trainer: Trainer) -> None:
    trainer.spread(2, train__steps=8, mesh__form="fsdp", run__profile_every=4)
    shares = {line["step"]: line["allreduce_share"] for line in Record(trainer.folder).lines}
    assert {step for step, share in shares.items() if share is not None} == {4, 8}
    assert all(0 < share < 1 for share in shares.values() if share is not None)
