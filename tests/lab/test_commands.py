"""`sbatch`, `srun` and the others work from the host's shell as they do on a login node."""

import os
import subprocess

from infra.base.paths import CHECKOUT
from tests.lab.conftest import Lab, until

TESTED = {"real": ["place lab"]}


def test_streams_and_exit_status_are_the_jobs_own(lab: Lab) -> None:
    done = lab.sh("srun sh -c 'cat; echo to stderr >&2; exit 7'", stdin="to stdin\n")
    assert done.returncode == 7
    assert done.stdout == "to stdin\n"
    assert "to stderr" in done.stderr


def test_a_job_starts_where_the_command_was_typed(lab: Lab) -> None:
    assert lab.ok("srun pwd", cwd=CHECKOUT / "jobs") == str(CHECKOUT / "jobs")  # type: ignore[arg-type]


def test_options_reach_slurm_from_the_users_environment(lab: Lab) -> None:
    assert lab.ok("SLURM_JOB_NAME=from-env srun printenv SLURM_JOB_NAME") == "from-env"
    assert lab.ok("SQUEUE_FORMAT=%A squeue").split() == ["JOBID"]


def test_what_a_job_writes_belongs_to_the_person_who_typed_the_command(lab: Lab) -> None:
    run = lab.submit("--output=runs/owner.out", "--wrap", "'id -un; touch runs/owner.txt'")
    lab.finish(run)
    written = [CHECKOUT / "runs" / name for name in ("owner.out", "owner.txt")]
    until("the job's files", lambda: all(file.exists() for file in written), timeout_s=5)
    checkout = CHECKOUT.stat()
    try:
        assert written[0].read_text().strip() == "ml"
        for file in written:
            assert (file.stat().st_uid, file.stat().st_gid) == (checkout.st_uid, checkout.st_gid)
    finally:
        for file in written:
            file.unlink()


def test_a_job_has_no_rights_on_its_node(lab: Lab) -> None:
    assert lab.ok("srun id -u") not in ("", "0")
    assert lab.sh("srun cat /etc/munge/munge.key").returncode != 0
    assert "CapEff:\t0000000000000000" in lab.ok("srun cat /proc/self/status")


def test_outside_the_checkout_jobs_are_refused_and_questions_are_answered(lab: Lab) -> None:
    done = lab.sh("sbatch --wrap true", cwd=CHECKOUT.parent)
    assert done.returncode == 2
    assert f"run it inside {CHECKOUT}" in done.stderr
    assert lab.sh("squeue -h", cwd=CHECKOUT.parent).returncode == 0


def test_without_a_cluster_the_command_says_what_to_do(lab: Lab) -> None:
    done = lab.sh("SLIPWAY_CLUSTER=nowhere squeue")
    assert done.returncode != 0
    assert "cluster 'nowhere' is not up; run 'make cluster-up'" in done.stderr


def test_make_env_prints_what_to_eval(lab: Lab) -> None:
    clean = {**lab.env, "PATH": os.environ["PATH"]}
    clean.pop("SLIPWAY_CLUSTER")
    twice = 'eval "$(make env)"; eval "$(make env)"'
    line = f'{twice}; command -v sbatch; echo $SLIPWAY_CLUSTER; echo "$PATH"'
    done = subprocess.run(["bash", "-ec", line], cwd=CHECKOUT, env=clean, capture_output=True, text=True)
    sbatch, cluster, path = done.stdout.splitlines()
    assert sbatch == str(CHECKOUT / "bin" / "sbatch")
    assert cluster == lab.project.cluster
    assert path.split(":").count(str(CHECKOUT / "bin")) == 1


def test_a_loop_around_sbatch_keeps_its_lines(lab: Lab) -> None:
    loop = "while read -r n; do sbatch --output=/dev/null --hold --job-name=loop-$n --wrap true; done"
    lab.ok(f"printf '1\\n2\\n3\\n' | {loop}")
    assert sorted(lab.ok("squeue -h -u ml -o %j").split()) == ["loop-1", "loop-2", "loop-3"]
    script = lab.sh("sbatch --parsable --hold --output=/dev/null", stdin="#!/bin/sh\ntrue\n")
    assert script.returncode == 0, script.stderr


def test_what_describes_another_cluster_in_the_same_shell_has_no_effect(lab: Lab) -> None:
    assert lab.ok("SLURM_JOB_ID=999 SLURM_NTASKS=64 SLURM_NODELIST=x srun hostname") in ("c1", "c2")
    assert lab.ok("SLURM_CONF=/elsewhere SLURM_CLUSTERS=other squeue -h") == ""
    lab.ok("SLURM_NTASKS=64 SLURM_CPUS_PER_TASK=64 sbatch --hold --output=/dev/null --wrap true")


def test_times_are_ones_own(lab: Lab) -> None:
    job = lab.ok("TZ=Asia/Tokyo sbatch --parsable --output=/dev/null --begin=2030-01-01T09:00 --wrap true")
    begins = f"squeue -h -j {job} -o %S"
    assert lab.ok(f"TZ=UTC {begins}") == "2030-01-01T00:00:00"
    assert lab.ok(f"TZ=Asia/Tokyo {begins}") == "2030-01-01T09:00:00"


def test_commands_work_in_any_folder_and_jobs_start_where_nodes_see_it(lab: Lab) -> None:
    logs = CHECKOUT / "build" / lab.project.cluster / "logs"
    assert lab.ok("squeue -h", cwd=logs) == ""  # type: ignore[arg-type]
    done = lab.sh("sbatch --wrap true", cwd=logs)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    gone = "mkdir -p runs/gone && cd runs/gone && rmdir ../gone"
    assert lab.ok(f"{gone}; squeue -h 2>/dev/null") == ""


def test_a_bare_salloc_is_a_shell_of_ones_own(lab: Lab) -> None:
    done = lab.sh("salloc --mem=50M", stdin="echo in $SLURM_JOB_ID as $USER $LOGNAME $SHELL; exit 3\n")
    assert done.returncode == 3
    assert "as ml ml /bin/bash" in done.stdout
