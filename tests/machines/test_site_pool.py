"""A pool grows and shrinks by its number while jobs run; a run that was stopped goes on; two are told apart.

The tests of this file go on from each other's cluster (3 GPU machines, then 2, 1, and 2 again), as a person's
day does; each makes what it needs when it runs alone.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.base.lock import person
from tests.machines.conftest import Machines, until, write

TESTED = {"real": ["place docker", "growing and shrinking"]}

# Until someone says so; jobs that run at the same time need not guess how long.
WAITS = "--wrap='while [ ! -e $HOME/go ]; do sleep 0.2; done; hostname'"
LITTLE = "-n1 --mem=64"


@pytest.fixture
def signs(site: Machines) -> Iterator[None]:
    """No job is told to go on before its test says so."""
    site.on("login", "sh", "-c", "rm -f ~/go", user="ml")
    yield
    site.on("login", "sh", "-c", "rm -f ~/go", user="ml")


def go_on(site: Machines) -> None:
    site.on("login", "sh", "-c", "touch ~/go", user="ml")


def pool(site: Machines, count: int) -> None:
    """The cluster with `count` GPU machines, made so if it is not."""
    write(count)
    if len([machine for machine in site.site.machines if machine.group == "gpu"]) != count:
        site.up("REQUEUE=1")


def jobs_of(site: Machines, id: str) -> dict[str, str]:
    words = site.on("controller", "scontrol", "-o", "show", "job", id).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def running(site: Machines, id: str) -> bool:
    return jobs_of(site, id)["JobState"] == "RUNNING"


def traces(site: Machines, node: str) -> list[str]:
    """Where `node` still shows."""
    metrics = "http://localhost:9090/api/v1/targets?state=active"
    ask = f"import urllib.request as u; print(u.urlopen({metrics!r}).read().decode())"
    places = {
        "sinfo": site.on("controller", "sinfo", "-h", "-N", "-o", "%N"),
        "scontrol": site.on("controller", "scontrol", "show", "nodes"),
        "partition": site.on("controller", "scontrol", "show", "partition"),
        "Prometheus": site.on("controller", "python3", "-c", ask),
        "Docker": subprocess.run(
            ["docker", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
        ).stdout,
    }
    for name in (
        "ansible/inventory.yaml",
        "ssh/config",
        "ssh/known_hosts",
        "machines.json",
        "slurm/slurm.conf",
    ):
        places[name] = (site.folder / name).read_text()
    state = site.folder / "state/.pulumi/stacks/slipway/testsite.json"  # its history may tell of the past
    places["state"] = state.read_text()
    number = int(node.split("-")[1])
    listed = re.compile(rf"\b{node}\b|gpu-\[\d[-:]{number}\]")
    ours = "\n".join(line for line in places["Docker"].splitlines() if site.container("") in line)
    return [name for name, text in (places | {"Docker": ours}).items() if listed.search(text)]


def test_a_new_node_is_configured_alone_while_jobs_run(site: Machines, signs: None) -> None:
    pool(site, 2)
    old = site.ok(f"sbatch --parsable -N2 --exclusive {WAITS}")
    until("the job", lambda: running(site, old))
    new = site.ok(f"sbatch --parsable -N1 --exclusive {WAITS}")
    before, began = site.starts(), jobs_of(site, old)

    write(3)
    code, report = site.plan()
    assert code == 1
    (machine,) = [item for item in report["items"] if item["what"] == "machine"]
    assert (machine["kind"], machine["name"]) == ("make", "gpu-3")
    assert (machine["usd_per_hour"], machine["watts"]) == (55.04, pytest.approx(10_200, rel=0.2))
    others = [item for item in report["items"] if item != machine]
    assert {(item["kind"], item["name"]) for item in others} == {("change", "controller")}, others
    for key in ("usd_per_hour", "watts"):
        assert report["after"][key] - report["before"][key] == pytest.approx(machine[key], abs=0.01)
    assert (report["before"]["machines"], report["after"]["machines"]) == (4, 5)

    said = site.up()
    assert "made gpu-3" in said
    changed = site.changed()
    assert changed.keys() == {"gpu-3", "controller"}
    assert {task.split(" : ")[0] for task in changed["controller"]} == {"slurm", "prometheus"}
    assert len(changed["controller"]) <= 4 < len(changed["gpu-3"])
    after = site.starts()
    assert {name: after.get(name) for name in before} == before, "nothing was restarted, slurmctld neither"
    assert "controller: slurmctld.service" in before

    now = jobs_of(site, old)
    assert [now[key] for key in ("JobState", "StartTime", "Restarts")] == ["RUNNING", began["StartTime"], "0"]
    until("the waiting job to have the new node", lambda: running(site, new), timeout_s=60)
    assert jobs_of(site, new)["NodeList"] == "gpu-3"
    go_on(site)
    until("both to end", lambda: site.ok("squeue -h") == "", timeout_s=60)
    assert site.ok(f"sacct -X -n -P -j {old},{new} -o state").split() == ["COMPLETED", "COMPLETED"]
    assert traces(site, "gpu-3"), "the search for traces finds a node that is there"
    assert site.plan()[0] == 0


def test_a_node_that_goes_is_drained_and_leaves_no_trace(site: Machines, signs: None) -> None:
    pool(site, 3)
    id = site.ok(f"sbatch --parsable {LITTLE} -w gpu-3 {WAITS}")
    until("the job", lambda: running(site, id))
    other = site.ok(f"sbatch --parsable {LITTLE} -w gpu-1 --wrap='sleep 600'")
    until("the other job", lambda: running(site, other))
    before = site.starts()
    write(2)
    shown = site.make("plan")
    assert shown.returncode == 2  # what make says when the verb ends with 1
    assert re.search(r"- machine +gpu-3 .*55\.04 \$/h +\d+\.\d kW", shown.stdout), shown.stdout
    assert "5 machines -> 4" in shown.stdout
    names = set(re.findall(r"^ *[-+~±!] +\S+ +(\S+)", shown.stdout, re.MULTILINE))
    assert names == {"gpu-3", "controller"}, shown.stdout  # the other machines are as they should be
    typed = site.popen("make", "cluster-up", "JOB=")
    try:
        until("the drain", lambda: "drain" in site.on("controller", "sinfo", "-h", "-n", "gpu-3", "-o", "%T"))
        late = site.ok(f"sbatch --parsable {LITTLE} -w gpu-3 --wrap=true")
        assert running(site, id) and typed.poll() is None
        assert jobs_of(site, late)["JobState"] == "PENDING", "no new job may start there"
        site.ok(f"scancel {late}")
        go_on(site)
        said = typed.communicate(timeout=600)[0]
    finally:
        typed.kill()
    assert typed.returncode == 0, said
    assert re.search(r"drain +gpu-3 empty", said), said
    assert "removed gpu-3" in said
    assert site.ok(f"sacct -X -n -P -j {id} -o state,nodelist") == "COMPLETED|gpu-3"
    assert running(site, other) and jobs_of(site, other)["Restarts"] == "0"
    until("no trace", lambda: traces(site, "gpu-3") == [], timeout_s=45)
    assert site.changed().keys() == {"controller"}
    after = site.starts()
    assert {name: when for name, when in before.items() if not name.startswith("gpu-3")} == after


@pytest.mark.more
def test_with_requeue_its_jobs_run_elsewhere(site: Machines, signs: None) -> None:
    pool(site, 2)
    first = site.ok(f"sbatch --parsable -N1 --exclusive {WAITS}")
    until("the first job", lambda: running(site, first))
    id = site.ok(f"sbatch --parsable -N1 --exclusive {WAITS}")
    until("the second job", lambda: running(site, id))
    if jobs_of(site, id)["NodeList"] != "gpu-2":
        first, id = id, first
    assert jobs_of(site, id)["NodeList"] == "gpu-2"
    site.ok(f"scancel {first}")
    write(1)
    said = site.up("REQUEUE=1")
    assert re.search(r"drain +gpu-2 empty, 1 jobs? requeued", said), said
    until("the job to run elsewhere", lambda: running(site, id), timeout_s=180)
    now = jobs_of(site, id)
    assert (now["NodeList"], now["Restarts"]) == ("gpu-1", "1")
    until("no trace", lambda: traces(site, "gpu-2") == [], timeout_s=45)


@contextmanager
def configuring(site: Machines, host: str) -> Iterator[subprocess.Popen[str]]:
    """`make cluster-up` in the middle of what it does on `host`, where tasks have changed something."""
    log = site.folder / "logs" / "ansible.log"
    log.unlink()
    typed = site.popen("make", "cluster-up", "JOB=")
    try:
        until(
            f"changes on {host}",
            lambda: typed.poll() is not None or (log.exists() and len(site.changed().get(host, [])) > 3),
            timeout_s=300,
            every_s=0.1,
        )
        assert typed.poll() is None, typed.communicate()[0]
        yield typed
    finally:
        typed.kill()


@pytest.mark.more
def test_a_second_run_is_told_whose_the_first_is_and_after_ctrl_c_the_next_goes_on(site: Machines) -> None:
    pool(site, 1)
    write(2)
    with configuring(site, "gpu-2") as typed:
        refused = site.infra("up", str(site.file), "--job", "")
        assert refused.returncode == 1
        last = refused.stderr.strip()
        assert re.fullmatch(
            rf"cluster 'testsite' is being worked on by {person()} \(pid (\d+) on \S+\) since 20\S+:"
            r" wait until that is done, or end it",
            last,
        ), refused.stdout + refused.stderr
        holder = json.loads((site.folder / "cluster.lock").read_text())["pid"]
        assert f"pid {holder} " in last
        assert os.getpgid(holder) == typed.pid
        assert typed.poll() is None, "the first goes on"

        os.killpg(typed.pid, signal.SIGINT)
        said = typed.communicate(timeout=60)[0]
    assert typed.returncode != 0
    assert "Stopped. To go on, run the same command again." in said, said
    assert "Traceback" not in said
    inventory = f"{site.folder}/ansible/inventory.yaml".encode()
    ps = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    assert inventory not in ps, "Ansible was ended with it"
    said = site.up()
    assert "unchanged" in said, "its machines were made before"
    assert site.changed().get("gpu-2"), "the rest was done now"
    assert site.plan()[0] == 0
    assert site.ok("srun -w gpu-2 hostname") == "gpu-2"
