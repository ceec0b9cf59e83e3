"""A cluster's life: a dead machine replaced by name, Slurm upgraded and taken back, with jobs running meanwhile.

A cluster of its own: its head holds every service, beside two compute machines. The tests go on from each other's
state, and each brings about what it needs when it runs alone. SLIPWAY_KEEP=1 leaves the cluster running.
"""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT, build
from infra.base.wait import until
from infra.bench import trial
from infra.model import slurmrelease
from infra.places.site import exchange, release, retire
from tests.machines.conftest import FOREIGN, Machines

TESTED = {"real": ["place docker", "Slurm with accounting", "Debian 13"]}

pytestmark = pytest.mark.more

NAME, CIDR, HEAD, NODES = "life", "10.81.0.0/24", "head", ("n1", "n2")
FILE = CHECKOUT / "build" / f"{NAME}.yaml"
MACHINES = (HEAD, *NODES)
COMMAND_S = 1500  # the longest that one command may take on a busy host
# Until someone says so; in a step of its own, which must outlive its slurmd.
WAITS = "#!/bin/sh\nsrun sh -c 'while [ ! -e ~/go ]; do sleep 0.2; done; hostname'\n"
FIELDS = "JobID,JobName,User,State,Start,End,ExitCode,NodeList"


class Life(Machines):
    """The cluster of this file."""

    @property
    def folder(self) -> Path:
        return build(NAME)

    def container(self, host: str) -> str:
        return f"slipway-{NAME}-{host}"

    def submit(self, *words: str, script: str = "#!/bin/sh\nhostname\n") -> str:
        """A job of the user's, small enough to stand beside others; its number."""
        command = 'cd && cat >job.sh && sbatch --parsable -n1 --mem=64 --output=%j.out "$@" job.sh'
        return self.site.run(
            HEAD, "sh", "-c", command, "submit", *words, user="ml", stdin=script.encode()
        ).strip()

    def facts(self, job: str) -> dict[str, str]:
        words = retire.ask(self.site, "scontrol", "-o", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.facts(job)["JobState"]

    def sacct(self, job: str) -> str:
        return self.on(HEAD, "sacct", "-a", "-P", "-n", "-j", job, f"--format={FIELDS}")

    def ended(self, job: str) -> bool:
        """Whether accounting has the job's end, which comes there some time after it."""
        return all(line.split("|")[5] != "Unknown" for line in self.sacct(job).splitlines())

    def say_go(self, go: bool) -> None:
        self.on(HEAD, "sh", "-c", "touch ~/go" if go else "rm -f ~/go", user="ml")

    def releases(self) -> set[str]:
        """What is installed and runs, over all machines."""
        found = {host: exchange.look(self.site, host) for host in MACHINES}
        assert not any(each.wrong for each in found.values()), found
        return {slurmrelease.of(each.version) for each in found.values()}

    def slurms(self) -> set[str]:
        """What daemons themselves say they are."""
        shown = self.on(HEAD, "scontrol", "-o", "show", "nodes") + self.on(HEAD, "scontrol", "show", "config")
        words = shown.replace("SLURM_VERSION           = ", " Version=").split()
        return {slurmrelease.of(word.partition("=")[2]) for word in words if word.startswith("Version=")}

    def killed(self, *words: str, when: Callable[[], object]) -> None:
        """A command that is killed, with all that it has started, as soon as `when()` is true."""
        process = self.popen(*words)
        try:
            until(f"the middle of {words}", lambda: process.poll() is not None or when(), COMMAND_S, 0.05)
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def done(self, *words: str) -> str:
        made = self.make(*words)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout


def write(**software: str) -> None:
    data = YAML(typ="safe").load(CHECKOUT / "clusters" / "site.yaml")
    data["name"], data["machines"]["cidr"], data["software"] = NAME, CIDR, software
    data["services"] |= dict.fromkeys(("controller", "accounting", "database", "login"), HEAD)
    data["pools"]["gpu"] |= {"count": len(NODES), "nodes": "n[1-2]"}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(data, indent=2) + "\n")


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    env = {key: value for key, value in trial.environment(NAME, FILE).items() if key not in FOREIGN}
    env = {key: value for key, value in env.items() if key != "BACK"} | {"PYTHONUNBUFFERED": "1"}
    if not (build(NAME) / "machines.json").is_file() or not FILE.is_file():
        write()
    cluster = Life(FILE, env, subprocess.CompletedProcess([], 0), [], 0)
    if release.Record.load(cluster.site).to is None:
        cluster.up()
    yield cluster
    if not os.environ.get("SLIPWAY_KEEP"):
        cluster.done("cluster-down", "PURGE=1")
        FILE.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def empty(life: Life) -> Iterator[None]:
    """No test finds a job of another, also not of a session that failed."""
    retire.ask(life.site, "scancel", "--user", "ml")
    until("an empty queue", lambda: retire.ask(life.site, "squeue", "-h") == "")
    life.say_go(False)
    yield


def identity(container: str) -> str:
    """Id and start of a container; empty when there is none."""
    words = ["docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", container]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def test_a_dead_machine_is_replaced_by_name_while_the_other_works(life: Life) -> None:
    """Killed in the middle of it, the same command goes on."""
    stays = life.submit("-w", "n2", script=WAITS)
    lost = life.submit("-w", "n1", "--requeue", script=WAITS)
    until("two jobs", lambda: {life.state(stays), life.state(lost)} == {"RUNNING"})
    before = {host: identity(life.container(host)) for host in MACHINES}
    key = next(machine.host_key for machine in life.site.machines if machine.name == "n1")
    subprocess.run(["docker", "kill", life.container("n1")], capture_output=True, check=True)

    def gone() -> bool:
        return identity(life.container("n1")).split(" ")[0] != before["n1"].split(" ")[0]

    life.killed("make", "replace", "NODE=n1", when=gone)
    said = life.done("replace", "NODE=n1")
    assert "n1 is a new machine" in said

    after = {host: identity(life.container(host)) for host in MACHINES}
    assert {host for host in MACHINES if after[host] != before[host]} == {"n1"}
    new = next(machine.host_key for machine in life.site.machines if machine.name == "n1")
    known = (life.folder / "ssh" / "known_hosts").read_text()
    assert new != key
    assert new in known
    assert key not in known
    assert (life.state(stays), life.facts(stays)["Restarts"]) == ("RUNNING", "0")
    until("the lost job on the new machine", lambda: life.state(lost) == "RUNNING", timeout_s=240)
    assert life.facts(lost)["Restarts"] == "1"
    life.say_go(True)
    until("their end", lambda: {life.state(stays), life.state(lost)} == {"COMPLETED"})
    life.say_go(False)


@pytest.mark.parametrize(
    ("node", "why"),
    [(HEAD, "accounting database"), ("n9", "cluster 'life' has"), ("", "NODE=")],
)
def test_what_must_not_or_cannot_be_replaced_is_refused_in_a_line(life: Life, node: str, why: str) -> None:
    before = {host: identity(life.container(host)) for host in MACHINES}
    done = life.infra("replace", str(FILE), node)
    assert done.returncode == 2
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {host: identity(life.container(host)) for host in MACHINES} == before


def mirror(life: Life) -> None:
    """Skip where no Slurm of another suite can be had; anything else that fails is a failure."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    uri = life.on(HEAD, *words).splitlines()[0].rstrip("/")
    try:
        urllib.request.urlopen(f"{uri}/dists/forky/InRelease", timeout=30).close()
    except OSError as error:
        pytest.skip(f"no Slurm 26.05 to upgrade to: {uri} does not serve Debian forky ({error})")


def reached(life: Life, what: str) -> Callable[[], bool]:
    """Whether a run has come so far."""

    def look() -> bool:
        try:
            record: dict[str, Any] = json.loads((life.folder / "slurm.json").read_text())
        except FileNotFoundError:  # it is written when the first step begins
            return False
        return what in record["done"]

    return look


def test_slurm_is_upgraded_while_a_job_runs_and_taken_back_with_its_accounting(life: Life) -> None:
    """Each way is killed in the middle, and goes on when it is typed again."""
    mirror(life)
    assert life.releases() == {"24.11"}
    old = life.submit()
    runs = life.submit("-w", "n1", script=WAITS)
    until("one that has ended, one that runs", lambda: life.ended(old) and life.state(runs) == "RUNNING")
    accounting, start = life.sacct(old), life.facts(runs)["StartTime"]
    assert "|COMPLETED|" in accounting

    write(slurm_suite="forky")
    _, report = life.plan()
    (item,) = [item for item in report["items"] if "make upgrade" in item["reason"]]
    assert (item["kind"], item["what"]) == ("change", "slurm")
    life.killed("make", "upgrade", when=reached(life, "state"))
    refused = life.infra("up", str(FILE), "--job", "")
    assert refused.returncode == 1
    assert "interrupted; go on: make upgrade" in refused.stderr
    life.done("upgrade")
    assert life.releases() == life.slurms() == {"26.05"}
    assert life.sacct(old) == accounting
    facts = life.facts(runs)
    assert (facts["JobState"], facts["Restarts"], facts["StartTime"]) == ("RUNNING", "0", start)
    life.say_go(True)
    until("the end of the job that ran through it", lambda: life.state(runs) == "COMPLETED")
    life.say_go(False)
    young = life.submit("-N2", "-n2")
    until("a job on the new Slurm", lambda: life.ended(young))
    assert "|COMPLETED|" in life.sacct(young)

    write()
    refused = life.infra("upgrade", str(FILE))
    assert refused.returncode == 2
    assert "BACK=1" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    waits = life.submit(script=WAITS)
    until("a job that is in the way", lambda: life.state(waits) == "RUNNING")
    life.killed("make", "upgrade", "BACK=1", "REQUEUE=1", when=reached(life, "restored"))
    said = life.done("upgrade", "BACK=1", "REQUEUE=1")
    assert life.releases() == life.slurms() == {"24.11"}
    assert life.sacct(old) == accounting
    assert life.on(HEAD, "squeue", "-h") == "", "what has ended since does not run again"
    since = said.split("text in ")[1].split(" ")[0]
    header, *records = life.on(HEAD, "cat", f"{since}/accounting.txt").splitlines()
    column = header.split("|").index("JobID")
    assert young in {record.split("|")[column] for record in records}
    assert waits in said
    assert "~/go" in life.on(HEAD, "cat", f"{since}/job-{waits}.sh")
    again = life.submit("-N2", "-n2")
    until("a job on the old Slurm", lambda: life.ended(again))
    assert "|COMPLETED|" in life.sacct(again)
