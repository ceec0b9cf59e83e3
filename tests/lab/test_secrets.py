"""Secrets stay where they belong: not in git, logs, process lists or container settings; and they rotate."""

import stat
import subprocess

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.places import secrets
from tests.lab.conftest import Lab, until

TESTED = {"real": ["place lab", "secrets"]}


def test_only_their_owner_can_read_them_and_git_ignores_them(lab: Lab) -> None:
    folder = secrets.folder(lab.project.cluster)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in secrets.FILES:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
        ignored = subprocess.run(["git", "check-ignore", "-q", str(folder / name)], cwd=CHECKOUT, check=False)
        assert ignored.returncode == 0, name


def test_the_password_shows_nowhere(lab: Lab) -> None:
    password = (secrets.folder(lab.project.cluster) / "database-password").read_text().strip()
    logs = lab.project.folder / "logs"
    places = {file.name: file.read_text(errors="replace") for file in logs.iterdir()}
    places["compose.yaml"] = (lab.project.folder / "compose.yaml").read_text()
    for node in lab.project.containers():
        places[f"settings of {node.name}"] = output(["docker", "inspect", node.container])
        places[f"processes of {node.name}"] = output(["docker", "top", node.container, "-eo", "pid,args"])
        places[f"journal of {node.name}"] = lab.on(node.name, "journalctl", "--no-pager", "--boot")
    assert len(places) >= 3 * 6 + 2
    assert [place for place, text in places.items() if password in text] == []


def test_jobs_do_not_see_them(lab: Lab) -> None:
    folder = secrets.folder(lab.project.cluster)
    assert lab.sh(f"srun ls {folder}").returncode != 0
    assert lab.sh("srun ls /run/secrets/munge-key").returncode == 0
    assert lab.sh("srun cat /run/secrets/munge-key").returncode != 0


def test_they_rotate_with_one_command_and_nothing_is_lost(lab: Lab) -> None:
    folder = secrets.folder(lab.project.cluster)
    before = {name: (folder / name).read_bytes() for name in secrets.FILES}
    jobs = lab.ok("sacct -X -n -P -o jobid,account,user --starttime=2020-01-01")
    done = lab.make("rotate-secrets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((folder / name).read_bytes() != old for name, old in before.items())
    until("accounting", lambda: lab.sh("sacct -X -n").returncode == 0, timeout_s=60)
    assert lab.ok("sacct -X -n -P -o jobid,account,user --starttime=2020-01-01") == jobs
    until("a job to run", lambda: lab.sh("srun -N2 -t1 true").returncode == 0, timeout_s=60)
    assert "nothing to change" in lab.make("cluster-up").stdout
