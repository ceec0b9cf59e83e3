"""`make cluster-up CLUSTER=clusters/site.yaml`: a model that learned; a second run that changes nothing; the verbs.

Then drift of every sort at once: what was changed outside is reported exactly, put right, and nothing else touched.
"""

import json
import subprocess
from xml.etree import ElementTree

from tests.machines.conftest import Machines, until

TESTED = {
    "real": [
        "place docker",
        "training on two nodes",
        "drift",
        "SSH with known host keys",
        "shared disk: a volume",
        "Debian 13",
        "cgroup v1",
    ],
    "stand-in": ["NVIDIA GPU"],
}

ALL = ["controller", "login", "gpu-1", "gpu-2"]


def test_the_first_run_ends_with_a_model_that_learned(site: Machines) -> None:
    said = site.first.stdout
    for phase in ("host", "tools", "images", "machines", "configure", "verify", "job"):
        assert f"\n  {phase:<11}" in said, said
    assert "so it learned" in said
    assert "failed: " not in said
    state = json.loads((site.folder / "state.json").read_text())
    summary = json.loads((site.folder / "runs" / state["proved"] / "summary.json").read_text())
    bits = summary["bits_per_byte"]
    assert bits["validation"] < bits["bigram"] < bits["unigram"]
    assert summary["world_size"] == 2
    assert sorted(host.split(":")[0] for host in summary["hosts"]) == ["gpu-1", "gpu-2"]


def test_every_machine_was_verified_by_ssh(site: Machines) -> None:
    report = site.folder / "logs" / "verify.xml"
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "0")
    cases = {case.get("name") for case in suite.iter("testcase")}
    assert {f"test_ssh_takes_keys_only[{name}]" for name in ALL} <= cases
    for name in ALL:  # as the admin who becomes root, and not through the engine
        assert "pam_unix(sudo:session): session opened for user root" in site.inside(
            name, "journalctl --no-pager -o cat -t sudo"
        )


def test_a_plan_of_an_unchanged_cluster_has_no_change(site: Machines) -> None:
    code, report = site.plan()
    assert (code, report["items"], report["unreachable"]) == (0, [], {})
    assert report["before"] == report["after"]
    assert report["before"]["machines"] == len(ALL)


def test_a_second_run_changes_nothing_and_says_so(site: Machines) -> None:
    before = site.starts()
    assert sum(": " in name for name in before) > 6 * len(ALL), "services of every machine are compared"
    done = site.make("cluster-up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout and "no change" in done.stdout
    assert "testsite: up, nothing to change" in done.stdout
    assert site.changed() == {}
    assert "\n  job" not in done.stdout and "\n  verify" not in done.stdout
    assert site.starts() == before


# -- the verbs that a person uses on a running cluster


def test_slurm_of_the_users_own_shell_is_this_cluster(site: Machines) -> None:
    id = site.ok("sbatch --parsable -N2 --wrap='srun hostname; sleep 600'")
    until("the job", lambda: site.ok(f"squeue -h -j {id} -o '%T %N'") == "RUNNING gpu-[1-2]")
    output = f"{site.site.workdir}/slurm-{id}.out"  # made a moment after the job is RUNNING
    until("its output", lambda: site.on("login", "sh", "-c", f"cat {output} || :").count("gpu") == 2)
    site.ok(f"scancel {id}")
    until("its end", lambda: site.ok(f"sacct -X -n -P -j {id} -o state").startswith("CANCELLED"))
    assert site.ok("srun -N1 -w gpu-2 hostname") == "gpu-2"
    failed = site.sh("srun -N1 sh -c 'exit 7'")
    assert failed.returncode == 7, failed.stderr


def test_status_logs_and_shell_show_this_cluster(site: Machines) -> None:
    done = site.make("status")
    assert done.returncode == 0, done.stdout + done.stderr
    for machine in site.site.machines:
        assert f"{machine.name} " in done.stdout and machine.address in done.stdout
    facts = json.loads(site.infra("status", str(site.file), "--json").stdout)
    assert [(machine["name"], machine["ok"]) for machine in facts["machines"]] == [(n, True) for n in ALL]
    assert [machine["slurm"] for machine in facts["machines"]] == ["", "", "idle", "idle"]

    site.on("gpu-2", "logger", "-t", "test", "a line of gpu-2 alone")
    assert "a line of gpu-2 alone" in site.make("logs", "NODE=gpu-2").stdout
    assert "a line of gpu-2 alone" not in site.make("logs", "NODE=gpu-1").stdout
    wrong = site.infra("logs", str(site.file), "gpu-9")
    assert (wrong.returncode, wrong.stderr.strip()) == (
        2,
        "NODE=gpu-9: cluster 'testsite' has controller, login, gpu-1, gpu-2",
    )

    assert site.make("shell", stdin="id -un; hostname\n").stdout.split() == ["ml", "login"]
    assert site.make("shell", "NODE=gpu-1", stdin="id -un; hostname\n").stdout.split() == ["root", "gpu-1"]


# -- drift

SSHD = "/etc/ssh/sshd_config.d/00-slipway.conf"


def test_drift_is_reported_exactly_and_put_right_and_nothing_else_is_touched(site: Machines) -> None:
    keeps = site.on("gpu-1", "cat", SSHD)
    site.on("login", "apt-get", "-y", "-qq", "remove", "chrony")
    site.on("gpu-1", "sh", "-c", f"echo 'MaxAuthTries 99' >>{SSHD}")
    site.on("controller", "nft", "add", "rule", "inet", "slipway", "input", "tcp", "dport", "4444", "accept")
    site.on("controller", "scontrol", "update", "NodeName=gpu-1", "Weight=77")
    site.on("controller", "scontrol", "update", "PartitionName=gpu", "PriorityTier=9")
    before = site.starts()
    subprocess.run(["docker", "kill", site.container("gpu-2")], check=True, capture_output=True)

    code, report = site.plan()
    assert code == 1
    assert {item["kind"] for item in report["items"]} == {"drift"}
    found = {(item["what"], item["name"], item["reason"]) for item in report["items"]}
    assert found == {
        ("machine", "gpu-2", "does not run (exited): is started again (changed outside)"),
        ("time", "login", "install chrony"),
        ("file", "gpu-1", f"{SSHD} was changed on the machine; would be put back; then: reload sshd"),
        (
            "firewall",
            "controller",
            "table inet slipway, in force: was changed on the machine; would be put back",
        ),
        ("slurm", "gpu-1", "Weight 77 -> 1"),
        ("slurm", "gpu", "PriorityTier 9 -> 1"),
    }

    said = site.up()
    assert "put right gpu-2" in said
    changed = site.changed()
    assert {host: {task.split(" : ")[0] for task in tasks} for host, tasks in changed.items()} == {
        "login": {"time"},
        "gpu-1": {"ssh"},
        "controller": {"firewall"},
        "gpu-2": {"limits"},  # settings of a container's network are lost when it stops
    }
    assert site.on("gpu-1", "cat", SSHD) == keeps
    assert "4444" not in site.on("controller", "nft", "list", "table", "inet", "slipway")
    assert site.on("login", "systemctl", "is-active", "chrony") == "active"

    after = site.starts()
    different = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in different if not name.startswith("gpu-2")} == {"login: chrony.service"}
    assert after["gpu-2"].split()[0] == before["gpu-2"].split()[0], "the same machine, started again"
    done = site.make("plan")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "testsite: no change"), done.stdout
