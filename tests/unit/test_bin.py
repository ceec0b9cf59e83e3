"""What bin/sbatch and its brothers take from the shell that they are called in, and what not. Run: tests/lab."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.base.paths import CHECKOUT
from infra.base.wait import until
from infra.commands import slurm

BIN = CHECKOUT / "bin"
NAMES = (
    "sacct sacctmgr salloc sattach sbatch sbcast scancel scontrol scrontab sdiag sinfo sprio squeue sreport srun"
    " sshare sstat strigger"
)


def test_every_command_of_slurm_is_a_link_to_one_program() -> None:
    links = {link.name for link in BIN.iterdir() if link.is_symlink()}
    assert links == set(NAMES.split())
    assert {(BIN / name).readlink() for name in links} == {Path("slurm")}


def test_its_own_name_names_the_others() -> None:
    done = subprocess.run([BIN / "slurm"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "sbatch, sbcast, scancel" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "SLURM_CONF",
        "SLURM_JOB_ID",
        "SLURM_JOBID",
        "SLURM_NODELIST",
        "SLURM_CLUSTERS",
        "SLURM_STEP_ID",
        "SQUEUE_CLUSTERS",
    ],
)
@pytest.mark.parametrize("command", ["srun", "sbatch", "squeue"])
def test_what_names_another_cluster_or_its_job_is_no_input(command: str, name: str) -> None:
    assert slurm.inputs(command, {name: "999"}) == {}


@pytest.mark.parametrize(
    ("command", "given", "reaches"),
    [
        ("sbatch", {"SBATCH_PARTITION": "x", "SLURM_NTASKS": "64"}, ["SBATCH_PARTITION"]),
        (
            "squeue",
            {"SQUEUE_FORMAT": "%A", "SLURM_TIME_FORMAT": "relative"},
            ["SQUEUE_FORMAT", "SLURM_TIME_FORMAT"],
        ),
        ("srun", {"SLURM_JOB_NAME": "x", "SLURM_NTASKS": "2"}, ["SLURM_JOB_NAME", "SLURM_NTASKS"]),
        # in the shell of a job, on whatever cluster: they describe that job
        (
            "srun",
            {"SLURM_JOB_ID": "9", "SLURM_NTASKS": "64", "SRUN_CPUS_PER_TASK": "2"},
            ["SRUN_CPUS_PER_TASK"],
        ),
        ("srun", {"COMPOSE_PROJECT_NAME": "x", "HOME": "/", "PATH": "/"}, []),
    ],
)
def test_what_slurm_documents_as_input_reaches_it(
    command: str, given: dict[str, str], reaches: list[str]
) -> None:
    assert slurm.inputs(command, given) == {name: given[name] for name in reaches}


@given(
    st.sampled_from(
        ["Asia/Tokyo", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]
    ),
    st.integers(1_750_000_000, 2_000_000_000),
)
def test_ones_own_zone_is_told_in_words_that_need_no_database(name: str, moment: int) -> None:
    rule = slurm.zone({"TZ": name})
    assert name == "UTC" or name not in rule
    expected = datetime.fromtimestamp(moment, ZoneInfo(name)).utcoffset()
    before = os.environ.get("TZ")
    try:
        os.environ["TZ"] = rule
        time.tzset()
        assert timedelta(seconds=time.localtime(moment).tm_gmtoff) == expected
    finally:
        os.environ.pop("TZ", None) if before is None else os.environ.update(TZ=before)
        time.tzset()


def test_a_zone_is_found_where_the_machine_has_it(tmp_path: Path) -> None:
    assert slurm.zone({}, tmp_path) == ""
    assert slurm.zone({"TZ": "JST-9"}, tmp_path) == "JST-9"
    assert slurm.zone({"TZ": ":Nowhere/Else"}, tmp_path) == "Nowhere/Else"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    assert slurm.zone({}, tmp_path) == "JST-9"


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("", True),
        ("--nodes=2 --hold", True),
        ("-N 2 -J name", True),
        ("--job-name name --parsable", True),
        ("-HQ -n 4", True),
        ("-n4", True),
        ("--nice", True),
        ("job.sh", False),
        ("--parsable job.sh", False),
        ("-H job.sh", False),
        ("-N 2 job.sh --nodes 3", False),
        ("--job-name name job.sh", False),
        ("--exclusive job.sh", False),
        ("--requ job.sh", False),
        ("--wrap true", False),
        ("--wrap=true -N 2", False),
        ("-N 1 : -N 2 job.sh", False),
        ("-N 1 : -N 2", True),
    ],
)
def test_sbatch_reads_stdin_when_it_has_no_script(line: str, reads: bool) -> None:
    assert slurm.reads_stdin("sbatch", line.split()) is reads


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("srun hostname", True),
        ("salloc", True),
        ("squeue", False),
        ("scancel 12", False),
        ("scancel -i 12", True),
        ("scancel --interactive 12", True),
        ("scontrol update NodeName=c1 State=RESUME", False),
        ("scontrol", True),
        ("sacctmgr add user x", True),
        ("sacctmgr -i add user x", False),
        ("sacctmgr show user", False),
        ("sinfo -N", False),
    ],
)
def test_others_read_stdin_when_they_ask(line: str, reads: bool) -> None:
    name, *words = line.split()
    assert slurm.reads_stdin(name, words) is reads


def test_nodes_see_the_checkout_but_for_what_is_built() -> None:
    assert slurm.visible(str(CHECKOUT))
    assert slurm.visible(str(CHECKOUT / "jobs"))
    for folder in (
        None,
        "/",
        str(CHECKOUT.parent),
        str(CHECKOUT / "build"),
        str(CHECKOUT / "build/lab/logs"),
    ):
        assert not slurm.visible(folder)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    line = f"cd {tmp_path}/gone && rmdir ../gone && exec {BIN}/sbatch --wrap true"
    (tmp_path / "gone").mkdir()
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 2
    assert "sbatch: the folder that you are in, which has been removed, is not visible" in done.stderr


def docker(folder: Path, script: str) -> dict[str, str]:
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)
    return os.environ | {"PATH": f"{folder}:/usr/bin:/bin", "SLIPWAY_CLUSTER": "nowhere"}


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        (None, 127, "docker: not on this machine"),
        ("exit 1", 1, "squeue: the Docker engine does not answer; run 'make host'"),
        ('[ "$1" = info ]', 1, "squeue: cluster 'nowhere' is not up; run 'make cluster-up'"),
        ('[ "$1" = inspect ] && echo true; exit 3', 3, ""),
    ],
)
def test_without_a_cluster_there_is_a_line(
    tmp_path: Path, script: str | None, status: int, says: str
) -> None:
    env = docker(tmp_path, script or "")
    if script is None:
        (tmp_path / "docker").unlink()
        for name in ("sh", "readlink", "dirname"):
            (tmp_path / name).symlink_to(f"/bin/{name}")
        env["PATH"] = str(tmp_path)
    done = subprocess.run([BIN / "squeue"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == status
    assert (
        done.stderr.strip().removeprefix("squeue: docker") == says.removeprefix("docker")
        or says in done.stderr
    )
    assert done.stderr.count("\n") == (1 if says else 0)


def test_a_hostile_shell_changes_nothing_of_what_is_started(tmp_path: Path) -> None:
    env = docker(tmp_path, f'env >{tmp_path}/env; echo "$@" >{tmp_path}/words')
    hostile = {
        "SLURM_CONF": "/x",
        "SLURM_JOB_ID": "9",
        "COMPOSE_FILE": "/x",
        "PYTHONHOME": "/x",
        "PYTHONPATH": "/x",
    }
    hostile |= {"DOCKER_CONTEXT": "x", "LC_ALL": "tr_TR.UTF-8", "CDPATH": "/", "SBATCH_QOS": "own"}
    done = subprocess.run(
        [BIN / "sbatch", "--wrap", "true"],
        env=env | hostile,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert seen.keys() & hostile.keys() == {"LC_ALL", "SBATCH_QOS"}
    assert seen["LC_ALL"] == "C.UTF-8"
    assert "--env SBATCH_QOS" in (tmp_path / "words").read_text()
    assert " -i" not in (tmp_path / "words").read_text()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A login node by SSH, played here: ssh and sudo run what they are given, Slurm says what it sees."""
    name = f"machines{os.getpid()}"
    config = CHECKOUT / "build" / name / "ssh/config"
    config.parent.mkdir(parents=True)
    config.touch()
    (tmp_path / "home/slipway/jobs").mkdir(parents=True)
    scripts = {
        "ssh": 'for last; do :; done; cd /; exec sh -c "$last"',
        "sudo": f'while [ "$1" != -- ]; do shift; done; shift; HOME={tmp_path}/home exec "$@"',
        "sbatch": 'pwd; printf "<%s>" "$@"; echo; echo "$SBATCH_QOS $SLURM_CONF"; exit 4',
        "srun": f'trap "echo told; exit 5" TERM; touch {tmp_path}/started; while :; do sleep 0.05; done',
        "squeue": "pwd",
    }
    for program, script in scripts.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(0o755)
    yield {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLIPWAY_CLUSTER": name}
    shutil.rmtree(CHECKOUT / "build" / name)


def test_machines_are_reached_in_the_users_copy_of_the_folder(
    machines: dict[str, str], tmp_path: Path
) -> None:
    env = machines | {"SBATCH_QOS": 'it\'s "own"', "SLURM_CONF": "/elsewhere"}
    words = ["--job-name=a b|$c", "x.sh"]
    done = subprocess.run(
        [BIN / "sbatch", *words], cwd=CHECKOUT / "jobs", env=env, capture_output=True, text=True
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == f'{tmp_path}/home/slipway/jobs\n<--job-name=a b|$c><x.sh>\nit\'s "own" \n'
    elsewhere = subprocess.run([BIN / "squeue"], cwd="/tmp", env=env, capture_output=True, text=True)
    assert (elsewhere.returncode, elsewhere.stdout, elsewhere.stderr) == (0, "/\n", "")


def test_a_folder_that_the_copy_lacks_is_told(machines: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "home/slipway/jobs").rmdir()
    done = subprocess.run(
        [BIN / "sbatch", "x.sh"], cwd=CHECKOUT / "jobs", env=machines, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "sbatch: jobs is not on the cluster\n")


def test_signals_reach_machines(machines: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [BIN / "srun", "x"],
        cwd=CHECKOUT,
        env=machines,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    until("srun to begin", (tmp_path / "started").exists, timeout_s=30, every_s=0.02)
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (5, "told\n")
