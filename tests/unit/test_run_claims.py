"""Which folder a run gets: its own, whatever else is started beside it, before it or in its place. No torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.base import paths
from infra.base.paths import CHECKOUT
from infra.places.lab.compose import Project
from jobs import config
from jobs.cli import options
from jobs.cli.errors import Failure, Mistake
from jobs.telemetry import claim


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, outside Slurm, Kubernetes and torchrun."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "SLIPWAY_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    return tmp_path


def job(
    number: int, *, start: int = 1000, restart: int = 0, cluster: str = "lab", step: int = 0
) -> dict[str, str]:
    """What Slurm tells a step of a job."""
    return {
        "SLURM_JOB_ID": str(number),
        "SLURM_CLUSTER_NAME": cluster,
        "SLURM_STEP_ID": str(step),
        "SLURM_JOB_START_TIME": str(start),
        "SLURM_RESTART_COUNT": str(restart),
    }


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> "Started":
    return Started(monkeypatch)


class Started:
    """Starts runs, each with an environment of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, named: str = "", **environment: str) -> str:
        with self.monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            return str(claim.choose(named))


def test_a_requeued_job_goes_on_in_its_folder(started: Started) -> None:
    assert started(**job(1)) == "runs/1"
    Path("runs/1/kept").touch()
    assert started(**job(1, start=2000, restart=1)) == "runs/1"
    assert started(**job(1, start=3000, restart=2)) == "runs/1"
    assert Path("runs/1/kept").exists()


def test_a_new_cluster_of_the_same_name_does_not_train_on_in_the_olds_folder(started: Started) -> None:
    started(**job(1))
    Path("runs/1/kept").touch()
    for start in (5000, 6000):
        assert started(**job(1, start=start)) == "runs/1"
        assert not Path("runs/1/kept").exists()
    assert len(list(Path("runs").glob("1-until-*"))) == 2
    assert len(list(Path("runs").glob("1-until-*/kept"))) == 1


def test_two_clusters_in_one_checkout_have_a_folder_each_for_the_same_number(started: Started) -> None:
    assert started(**job(201)) == "runs/201"
    assert started(**job(201, cluster="other", start=1001)) == "runs/201-2"
    assert started(**job(201, cluster="other", start=2000, restart=1)) == "runs/201-2"
    assert started(**job(201, start=2001, restart=1)) == "runs/201"


def test_what_another_cluster_has_left_under_a_number_is_moved_aside(started: Started) -> None:
    assert started(**job(5, cluster="other")) == "runs/5"
    assert started(**job(5, start=2000)) == "runs/5-2"  # it may be at work
    Path("runs/6").mkdir()
    Path("runs/6/metrics.jsonl").touch()
    for path in (Path("runs/6/metrics.jsonl"), *Path("runs/5").iterdir()):
        os.utime(path, (1, 1))
    assert started(**job(5, start=3000)) == "runs/5"
    assert started(**job(6)) == "runs/6"
    assert started(**job(7, cluster="other")) == "runs/7"
    Path("runs/7/summary.json").touch()  # it is at its end
    assert started(**job(7, start=2000)) == "runs/7"
    assert len(list(Path("runs").glob("*-until-*"))) == 3


def test_steps_of_one_allocation_have_a_folder_each(started: Started) -> None:
    assert started(**job(7)) == "runs/7"
    Path("runs/7/summary.json").touch()
    assert started(**job(7, step=1)) == "runs/7-2"


def test_two_runs_that_one_step_starts_have_a_folder_each_also_when_it_is_requeued(started: Started) -> None:
    assert [started(**job(7)), started(**job(7))] == ["runs/7", "runs/7-2"]
    assert [started(**job(7, start=9, restart=1)), started(**job(7, start=9, restart=1))] == [
        "runs/7",
        "runs/7-2",
    ]


def test_workers_that_torchrun_starts_again_go_on_where_they_were(started: Started) -> None:
    run = {"TORCHELASTIC_RUN_ID": "7-0"}
    again = {**run, "TORCHELASTIC_RESTART_COUNT": "1"}
    assert started(**job(7), **run) == "runs/7"
    assert started(**job(7), **again) == "runs/7"
    other = {"SLIPWAY_RUN": "20260101-000000", "SLIPWAY_AGENT_ID": "a", "TORCHELASTIC_RUN_ID": "none"}
    assert started(**other) == "runs/20260101-000000"
    assert started(**other, SLIPWAY_ROUND="1") == "runs/20260101-000000"


def test_the_tasks_of_an_array_have_a_folder_each(started: Started) -> None:
    """The job number of one of them is the array's."""
    array = {"SLURM_ARRAY_JOB_ID": "9"}
    assert started(**job(10), **array, SLURM_ARRAY_TASK_ID="1") == "runs/9_1"
    assert started(**job(9), **array, SLURM_ARRAY_TASK_ID="2") == "runs/9_2"
    assert started(**job(9, start=2, restart=1), **array, SLURM_ARRAY_TASK_ID="2") == "runs/9_2"


@pytest.mark.parametrize("same_agent_second", [False, True])
def test_runs_of_one_second_have_a_folder_each(elsewhere: Path, same_agent_second: bool) -> None:
    """Eight processes at once, as a shell loop with & starts them."""
    program = (
        "from jobs.telemetry import claim; claim.moment = lambda: '20260101-000000'; print(claim.choose(''))"
    )
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    if same_agent_second:
        environment["SLIPWAY_RUN"] = "20260101-000000"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**environment, **({"SLIPWAY_AGENT_ID": str(number)} if same_agent_second else {})},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    folders = [run.communicate(timeout=60)[0].strip() for run in runs]
    stem = "runs/20260101-000000"
    assert sorted(folders) == [stem, *(f"{stem}-{number}" for number in range(2, 9))]
    assert {path.name for path in Path("runs").iterdir()} == {Path(folder).name for folder in folders}


@given(
    st.lists(
        st.tuples(st.sampled_from(["lab", "other"]), st.integers(1, 3), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_whoever_starts_in_whichever_order_each_job_keeps_its_folder(
    tmp_path_factory: pytest.TempPathFactory, started: Started, starts: list[tuple[str, int, int]]
) -> None:
    os.chdir(tmp_path_factory.mktemp("checkout"))
    seen: dict[tuple[str, int, int], str] = {}
    for each in starts:
        cluster, number, step = each
        restart = sum(each == before for before in starts[: len(seen)]) if each in seen else 0
        restart = max(restart, 1) if each in seen else 0
        unique = 1000 + len(list(Path().glob("runs/*/.started-*")))
        folder = started(**job(number, cluster=cluster, step=step, start=unique, restart=restart))
        assert seen.setdefault(each, folder) == folder
    assert len(set(seen.values())) == len(seen)


def test_a_link_to_the_newest_run_is_that_run(started: Started) -> None:
    claim.link_latest(claim.choose("runs/mine"))
    assert started("runs/latest") == "runs/mine"
    claim.link_latest(claim.choose("runs/latest"))
    assert Path("runs/latest").readlink() == Path("mine")


def test_a_folder_that_is_a_link_is_the_folder_behind_it(started: Started, elsewhere: Path) -> None:
    (elsewhere / "big/x").mkdir(parents=True)
    Path("runs").mkdir()
    Path("runs/x").symlink_to(elsewhere / "big/x")
    assert started("runs/x") == "runs/x"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (".", "holds all of this"),
        ("..", "holds all of this"),
        ("/", "holds all of this"),
        ("runs", "holds runs (one); name one of them"),
        ("runs/latest", "points to gone, which is not there"),
        ("other/latest", "is the link to the newest run's folder"),
        ("file", "is a file"),
    ],
)
def test_a_folder_that_cannot_be_a_run_is_refused_in_a_line(elsewhere: Path, named: str, why: str) -> None:
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/config.yaml").touch()
    Path("runs/latest").symlink_to("gone")
    Path("file").touch()
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(Mistake) as caught:
        claim.choose(named)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(elsewhere.rglob("*")) == before


def test_what_cannot_be_made_is_said_in_a_line(elsewhere: Path) -> None:
    Path("runs").write_text("")
    with pytest.raises(Failure, match="runs: File exists; a run needs a folder"):
        claim.choose("")
    with pytest.raises(Failure, match="Not a directory"):
        claim.choose("runs/17")


def test_a_persons_own_latest_stays(elsewhere: Path) -> None:
    folder = claim.choose("runs/mine")
    Path("runs/latest").mkdir()
    claim.link_latest(folder)
    assert not Path("runs/latest").is_symlink()


# -- going on -----------------------------------------------------------------------------------------------


def take(folder: str, *words: str) -> Path:
    settings = config.load(words)
    return claim.take(folder, options.to_yaml(settings), settings.trajectory(), config.MAY_CHANGE)


def test_a_run_goes_on_with_more_steps_and_another_rate(elsewhere: Path) -> None:
    folder = take("runs/x")
    (folder / "metrics.jsonl").touch()
    before = (folder / "config.yaml").read_text()
    assert take("runs/x", "--train.steps=900", "--train.learning_rate=0.001", "--mesh.tensor=2") == folder
    assert (folder / "config.yaml").read_text() == before  # until it has loaded a checkpoint


def test_another_run_is_refused_by_the_names_of_what_differs(elsewhere: Path) -> None:
    folder = take("runs/x", "--model.width=64")
    take("runs/x")  # it came to nothing: nothing is lost
    claim.keep_config(folder, options.to_yaml(config.load(["--model.width=64"])))
    (folder / "checkpoints").mkdir()
    with pytest.raises(Mistake) as caught:
        take("runs/x", "--train.seed=2", "--train.steps=900")
    assert str(caught.value) == (
        "runs/x: the run in it has model.width 64, this one 128; train.seed 1, this one 2. "
        "For a run of its own name another folder, --run.folder=FOLDER"
    )
    assert "width: 64" in (folder / "config.yaml").read_text()


@given(st.text(max_size=30))
@settings(deadline=None)
def test_words_of_a_configuration_come_back_as_they_were(text: str) -> None:
    import yaml  # type: ignore[import-untyped]

    settings = config.Config(run=config.Run(folder=text))
    written = options.to_yaml(settings)
    assert options.flat(written)["run.folder"] == text
    (folder,) = [
        value.value
        for section, body in yaml.compose(written).value
        for key, value in body.value
        if (section.value, key.value) == ("run", "folder")
    ]
    assert folder == text  # as `--config` reads it


def test_a_claim_says_whose_it_is(started: Started) -> None:
    started(**job(7))
    assert json.loads(Path("runs/7/claim.json").read_text()) == {"cluster": "lab", "job": "7", "step": "0"}


def test_the_lab_finds_its_own_run_where_another_labs_has_the_number(
    started: Started, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "CHECKOUT", elsewhere)
    started(**job(1))
    started(**job(1, cluster="other"))
    assert [Project(name).fetch("1").name for name in ("lab", "other", "third")] == ["1", "1-2", "1"]
