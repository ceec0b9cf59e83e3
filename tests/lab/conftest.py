"""A real cluster for the tests of this folder: brought up once, by the command that a person types.

It has another name than the user's own lab, so that neither disturbs the other. SLIPWAY_KEEP=1 leaves it
running, so that the next run of a single test starts at once.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.base.wait import until as until
from infra.bench import trial
from infra.bench.trial import INTERRUPTIBLE as INTERRUPTIBLE  # tests take these from here
from infra.places.lab.compose import Project
from infra.proof import run as job
from tests import trials
from tests.training import TRAIN, at_step

NAME = "test"


@dataclass(frozen=True)
class Lab:
    """The cluster under test, and what a person does with it."""

    project: Project
    file: Path
    env: dict[str, str]
    first: subprocess.CompletedProcess[str]
    user: str = "ml"

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *words], cwd=CHECKOUT, env=self.env, capture_output=True, text=True, check=False
        )

    def sh(
        self, command: str, *, cwd: Path = CHECKOUT, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command line in the user's own shell, with bin/ on PATH."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=cwd,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def ok(self, command: str, **how: str) -> str:
        """What `command` prints; the test fails when the command does."""
        done = self.sh(command, **how)  # type: ignore[arg-type]
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def on(self, node: str, *words: str, user: str = "root") -> str:
        return self.project.run(node, *words, user=user)

    def submit(self, *words: str) -> job.Run:
        return job.Run(self.ok(f"sbatch --parsable {' '.join(words)}").split(";")[0])

    def finish(self, run: job.Run, timeout_s: float = 600) -> job.Run:
        return job.watch(lambda: job.refresh(self.project, run), run, timeout_s=timeout_s, every_s=0.5)

    def state(self, run: job.Run) -> str:
        job.refresh(self.project, run)
        return run.state


def restarts(lab: Lab, run: job.Run) -> int:
    text = lab.ok(f"scontrol -o show job {run.id}")
    return int(text.split("Restarts=", 1)[1].split()[0])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that end the cluster come last."""
    last = ("test_interrupted.py", "test_down.py")
    items.sort(key=lambda item: last.index(item.path.name) if item.path.name in last else -1)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    project = Project(NAME)
    file = trial.cluster_file(NAME)
    env = trial.environment(NAME, file)
    first = trials.first_up(env)
    yield Lab(project, file, env, first)
    trials.down(env)


@pytest.fixture(scope="session")
def undisturbed(lab: Lab) -> job.Run:
    """TRAIN by sbatch, to its end. Tests look at what it left, and compare others with it."""
    return lab.finish(lab.submit("jobs/ddp.sbatch", *TRAIN))


@pytest.fixture(scope="session")
def warned(lab: Lab) -> job.Run:
    """The same, with the warning that Slurm gives before the time is over; Slurm has started it twice."""
    run = lab.submit("jobs/ddp.sbatch", *TRAIN)
    until("step 15", at_step(run, 15))
    lab.ok(f"scancel --signal=USR2 {run.id}")
    until("the requeue", lambda: restarts(lab, run) == 1)
    return lab.finish(run)


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a job behind for the next one."""
    yield
    if "lab" in request.fixturenames:
        running: Lab = request.getfixturevalue("lab")
        done = running.sh("scancel --user ml && squeue -h")
        # it fails where a test has ended the cluster
        if done.returncode == 0 and done.stdout:
            until("an empty queue", lambda: running.ok("squeue -h") == "", timeout_s=60)
