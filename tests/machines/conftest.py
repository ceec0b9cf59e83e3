"""Real machines for the tests of this folder: clusters/site.yaml, brought up once by the command a person types.

It has another name and other addresses than the user's own, so that neither disturbs the other. SLIPWAY_KEEP=1
leaves it running, and the next run of a test starts on it at once.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT, build
from infra.base.wait import until as until
from infra.bench import trial
from infra.bench.trial import INTERRUPTIBLE as INTERRUPTIBLE  # tests take these from here
from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from infra.places.site.site import Site
from tests.machines import leaks

NAME, CIDR = "testsite", "10.83.0.0/24"
FILE = CHECKOUT / "build" / f"{NAME}.yaml"
FIRST = build(NAME) / "first.json"  # what the first run said, for the sessions after it
UP_S = 1500  # the longest that one command may take on a busy host
LEAVING = "test_site_down.py"  # it ends the cluster, so it comes last
FOREIGN = ("REQUEUE", "JSON", "FOLLOW")  # beside trial.FOREIGN: switches of verbs


def write(count: int = 2, **top: Any) -> None:
    """The cluster file, with another number of GPU machines or other top-level keys.

    Cores and memory are fixed: a fair share of this host would change with their number.
    """
    data = YAML(typ="safe").load(CHECKOUT / "clusters" / "site.yaml")
    data["name"], data["machines"]["cidr"], data["pools"]["gpu"]["count"] = NAME, CIDR, count
    data["pools"]["gpu"] |= {"lab_cores": 1, "lab_memory_gib": 4}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(data | top, indent=2) + "\n")  # JSON is YAML


@dataclass(frozen=True)
class Machines:
    """The cluster under test, and what a person does with it."""

    file: Path
    env: dict[str, str]
    first: subprocess.CompletedProcess[str]
    leaked: list[str]  # secrets that were seen in a process of this host during the first run
    looked: int  # processes that were looked at then

    @property
    def cluster(self) -> Cluster:
        """As its file is now."""
        return load_cluster(self.file)

    @property
    def site(self) -> Site:
        return Site(self.cluster)

    @cached_property
    def folder(self) -> Path:
        return build(NAME)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on while the test does, in a process group as a terminal would make it."""
        return subprocess.Popen(
            [*INTERRUPTIBLE, *words],
            cwd=CHECKOUT,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *words: str | Path, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            cwd=CHECKOUT,
            env=self.env | (env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
        )

    def make(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.run("make", *words, stdin=stdin)

    def infra(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A verb without make, whose exit code is then the verb's own."""
        return self.run(CHECKOUT / ".venv/bin/python", "-m", "infra", *words)

    @cached_property
    def shell(self) -> str:
        """What `make env CLUSTER=...` prints; asked once, for it is the same every time."""
        done = self.make("env", f"CLUSTER={self.file}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command line in the user's own shell, after `eval "$(make env CLUSTER=...)"`."""
        return self.run("bash", "-c", f"{self.shell}\n{command}")

    def ok(self, command: str) -> str:
        """What `command` prints in the user's shell; the test fails when the command does."""
        done = self.sh(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def up(self, *words: str) -> str:
        """What `make cluster-up` without a job says; the test fails when it does."""
        done = self.make("cluster-up", "JOB=", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def plan(self) -> tuple[int, dict[str, Any]]:
        """Exit code and report of `plan --json`."""
        done = self.infra("plan", str(self.file), "--json")
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    def on(self, host: str, *words: str, user: str = "root") -> str:
        """What `words` print on machine `host`, by SSH."""
        return self.site.run(host, *words, user=user)

    def container(self, host: str) -> str:
        return f"slipway-{NAME}-{host}"

    def inside(self, host: str, command: str) -> str:
        """A line of shell on `host` through the engine, for when SSH is what is broken."""
        words = ["docker", "exec", self.container(host), "bash", "-c", command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def hang_up(self, host: str) -> None:
        """End the connection that ssh keeps open, so that the next one is a new one."""
        words = [*self.site.ssh(host)[:-1], "-O", "exit", host]
        subprocess.run(words, capture_output=True, timeout=30, check=False)

    def log(self) -> list[str]:
        """Lines of the last run of Ansible: `time state host role : task`."""
        return (self.folder / "logs" / "ansible.log").read_text().splitlines()

    def changed(self) -> dict[str, list[str]]:
        """Machine -> the tasks that changed something there in the last run."""
        found: dict[str, list[str]] = {}
        for line in self.log():
            said = re.match(r"\d\d:\d\d:\d\d changed +(\S+) +(.*)", line)
            if said:
                found.setdefault(said[1], []).append(said[2])
        return found

    def starts(self) -> dict[str, str]:
        """When each machine, and each service on it that runs, was started."""
        found = {}
        for name in (machine.name for machine in self.site.machines):
            words = ["docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", self.container(name)]
            found[name] = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
            shown = self.on(name, "systemctl", "show", "*.service", "-p", "Id,SubState,ActiveEnterTimestamp")
            for block in shown.split("\n\n"):
                facts = dict(line.split("=", 1) for line in block.splitlines())
                if facts["SubState"] == "running" and not facts["Id"].startswith(COMING_AND_GOING):
                    found[f"{name}: {facts['Id']}"] = facts["ActiveEnterTimestamp"]
        return found


# Services that systemd starts for someone's question or session, and ends when they are idle.
COMING_AND_GOING = ("user@", "systemd-hostnamed", "systemd-timedated", "systemd-localed", "packagekit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name == LEAVING)
    for item in items:
        if "site" in getattr(item, "fixturenames", ()) and item.path.stem.startswith(
            ("test_site", "test_docs")
        ):
            item.add_marker("site")


@pytest.fixture(scope="session")
def site() -> Iterator[Machines]:
    env = {key: value for key, value in trial.environment(NAME, FILE).items() if key not in FOREIGN} | {
        "PYTHONUNBUFFERED": "1"
    }
    if not FIRST.is_file():
        write()
        FIRST.parent.mkdir(parents=True, exist_ok=True)
        _first(env)
    said = json.loads(FIRST.read_text())
    first = subprocess.CompletedProcess(["make", "cluster-up"], said["code"], said["stdout"], "")
    print(first.stdout)
    assert first.returncode == 0, first.stdout
    yield Machines(FILE, env, first, said["leaked"], said["looked"])
    if not os.environ.get("SLIPWAY_KEEP") and build(NAME).exists():
        subprocess.run(["make", "cluster-down", "PURGE=1"], cwd=CHECKOUT, env=env, check=True, timeout=UP_S)
    if not os.environ.get("SLIPWAY_KEEP"):
        FILE.unlink(missing_ok=True)


def _first(env: dict[str, str]) -> None:
    """The first run, watched for secrets in processes; the next session finds what it said."""
    with leaks.watch() as seen:
        done = subprocess.run(
            ["make", "cluster-up"],
            cwd=CHECKOUT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * UP_S,
            check=False,
        )
    found = leaks.search(leaks.values(build(NAME)), seen)
    facts = {"code": done.returncode, "stdout": done.stdout, "leaked": found, "looked": len(seen)}
    if done.returncode == 0:
        FIRST.write_text(json.dumps(facts, indent=2) + "\n")
    else:
        pytest.fail(f"the first cluster-up failed; the next session goes on with it:\n{done.stdout}")


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a job behind for the next one."""
    yield
    if "site" in request.fixturenames and request.path.name != LEAVING:
        running = request.getfixturevalue("site")
        # a file of tests may have machines of its own by that name
        if isinstance(running, Machines):
            done = running.sh("scancel --user ml && squeue -h")
            if done.returncode == 0 and done.stdout:
                until("an empty queue", lambda: running.ok("squeue -h") == "", timeout_s=60)
