"""`make cluster-up` ends with a model that learned; again, it changes nothing; interrupted, it goes on."""

import json
import subprocess

from infra.base.paths import CHECKOUT
from tests import trials
from tests.lab.conftest import Lab, until

TESTED = {"real": ["place lab", "training on two nodes", "Debian 13", "cgroup v1", "x86_64"]}


def test_it_ends_with_a_model_that_learned(lab: Lab) -> None:
    state = json.loads((lab.project.folder / "state.json").read_text())
    summary = json.loads((CHECKOUT / "runs" / state["proved"] / "summary.json").read_text())
    bits = summary["bits_per_byte"]
    assert bits["validation"] < bits["bigram"] < bits["unigram"]
    assert summary["world_size"] == 2
    assert "so it learned" in lab.first.stdout or "nothing to change" in lab.first.stdout


def test_a_second_run_changes_nothing_and_says_so(lab: Lab) -> None:
    before = [(node.container, node.started) for node in lab.project.containers()]
    jobs = lab.ok("sacct -X -n -P -o jobid --starttime=2020-01-01")
    done = lab.make("cluster-up")
    assert done.returncode == 0, done.stderr
    assert "nothing to change" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert [(node.container, node.started) for node in lab.project.containers()] == before
    assert lab.ok("sacct -X -n -P -o jobid --starttime=2020-01-01") == jobs


def test_after_ctrl_c_the_next_run_goes_on(lab: Lab) -> None:
    lab.make("cluster-down")
    trials.ctrl_c(["make", "cluster-up"], lab.env, "the first container", lab.project.containers)
    done = lab.make("cluster-up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to change" in lab.make("cluster-up").stdout


def test_status_is_one_screen_and_json(lab: Lab) -> None:
    facts = json.loads(lab.ok("make status >/dev/null && .venv/bin/python -m infra status $CLUSTER --json"))
    assert {node["name"] for node in facts["nodes"]} == {"db", "slurmdbd", "slurmctld", "login", "c1", "c2"}
    assert all(node["ok"] for node in facts["nodes"])


def test_a_container_that_was_restarted_heals_by_itself(lab: Lab) -> None:
    words = ["docker", "restart", *(node.container for node in lab.project.containers())]
    subprocess.run(words, check=True, capture_output=True)
    until("all nodes", lambda: all(node.health == "healthy" for node in lab.project.containers()), every_s=2)
    until("a job to run", lambda: lab.sh("srun -N2 -t1 hostname").returncode == 0, every_s=2)
