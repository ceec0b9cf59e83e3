"""A real cluster for the tests of this folder: brought up once, by the command that a person types.

It has another name than the user's own lab, so that neither disturbs the other. SLIPWAY_KEEP=1 leaves it
running, so that the next run of a single test starts at once.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.lab import job
from infra.lab.compose import Project
from infra.paths import CHECKOUT

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
        return job.follow(self.project, run, timeout_s=timeout_s)

    def state(self, run: job.Run) -> str:
        job.refresh(self.project, run)
        return run.state


def until(what: str, true: Callable[[], object], timeout_s: float = 180, every_s: float = 0.5) -> float:
    """Wait until `true()`; returns the seconds that took. Fails the test, naming `what`, when it never is."""
    start = time.monotonic()
    while not true():
        if time.monotonic() - start > timeout_s:
            pytest.fail(f"still waiting for {what} after {timeout_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - start


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    project = Project(NAME)
    file = CHECKOUT / "build" / f"{NAME}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text((CHECKOUT / "clusters" / "lab.yaml").read_text().replace("name: lab", f"name: {NAME}", 1))
    env = {
        **os.environ,
        "CLUSTER": str(file),
        "PATH": f"{CHECKOUT / 'bin'}:{os.environ['PATH']}",
        "SLIPWAY_CLUSTER": NAME,
    }
    env.pop("SLIPWAY_STARTED", None)  # of the `make test` around us
    env.pop("MAKEFLAGS", None)
    first = subprocess.run(
        ["make", "cluster-up"],
        cwd=CHECKOUT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(first.stdout)
    assert first.returncode == 0, first.stdout
    yield Lab(project, file, env, first)
    if not os.environ.get("SLIPWAY_KEEP"):
        subprocess.run(["make", "cluster-down", "PURGE=1"], cwd=CHECKOUT, env=env, check=True)


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a job behind for the next one."""
    yield
    if "lab" in request.fixturenames:
        running: Lab = request.getfixturevalue("lab")
        if any(node.state == "running" and node.name == "login" for node in running.project.containers()):
            running.sh("scancel --user ml")
            until("an empty queue", lambda: running.ok("squeue -h") == "", timeout_s=60)
