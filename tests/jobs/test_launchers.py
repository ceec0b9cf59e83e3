"""The same job by every launcher: the same ranks, environment and bits of loss; requeues, sweeps, what is asked for."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from jobs import torchx
from jobs.cli.errors import Mistake
from jobs.launch import ddp_submitit, executor
from jobs.telemetry import metrics
from jobs.torchrun import children
from tests.jobs.conftest import CHECKOUT, LEFT_OVER, TINY, Trainer, clean
from tests.jobs.world import forks
from tests.madeup import answer

TESTED = {"real": ["training on one node"], "stand-in": ["Slurm with accounting", "Kubernetes"]}

STEPS = 25
TWO = dataclasses.replace(ddp_submitit.JOB, gpus_per_node=0)  # ranks; this machine has none to give


def script(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass
class Launch:
    """A job of two ranks, each by another launcher, in `folder`."""

    folder: Path
    options: list[str]  # without --run.folder
    env: dict[str, str]

    def words(self, name: str) -> list[str]:
        return ["-m", "tests.jobs.both", f"--run.folder={self.folder / name}", *self.options]

    def start(self, *words: str, **env: str) -> "subprocess.Popen[str]":
        return forks().popen(
            [sys.executable, "-u", *words],
            cwd=CHECKOUT,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def done(self, process: "subprocess.Popen[str]") -> str:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
        return output

    def plain(self, name: str) -> None:
        """Two processes and no launcher: what torch.distributed needs, by hand."""
        told = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "localhost",
            "OMP_NUM_THREADS": "1",
        }
        told["MASTER_PORT"] = str(free_port())
        ranks = [self.start(*self.words(name), RANK=rank, LOCAL_RANK=rank, **told) for rank in "01"]
        for rank in ranks:
            self.done(rank)

    def torchrun(self, name: str) -> None:
        self.done(self.start("-m", "jobs.torchrun", "--standalone", "--nproc-per-node=2", *self.words(name)))

    def torchx(self, name: str, j: str) -> None:
        _, module, *options = self.words(name)
        words = ["run", "-s", "local_cwd", "-cfg", f"log_dir={self.folder / 'logs'}", "--wait"]
        component = ["jobs.ddp", "-j", j, "-m", module, "--", *options]
        port = str(free_port())
        output = self.done(self.start("-m", "jobs.torchx", *words, *component, MEET_PORT=port))
        assert "SUCCEEDED" in output

    def submitit(self, name: str) -> None:
        _, module, folder, *options = self.words(name)
        job = dataclasses.replace(
            TWO, module=module, options=[folder, *options], outputs=str(self.folder), check=None
        )
        (submitted,) = executor.submit(job, cluster="local")
        results = submitted.results()
        assert [each["state"] for each in results] == ["completed", "completed"]

    def losses(self, name: str) -> list[float]:
        return [line["loss"] for line in metrics.read(self.folder / name / "metrics.jsonl")]

    def ranks(self, name: str) -> list[dict[str, str]]:
        files = sorted((self.folder / f"{name}-ranks").glob("rank-*.json"))
        return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Launch:
    folder = tmp_path_factory.mktemp("launch")
    script(folder / "stack/bin/python", f'exec {sys.executable} "$@"')
    options = {**TINY, "train.steps": STEPS, "data.folder": corpus}
    env = clean()
    env["STACK"] = str(folder / "stack")
    return Launch(folder, [f"--{key}={value}" for key, value in options.items()], env)


@pytest.fixture(scope="module")
def plain(launch: Launch) -> Launch:
    launch.plain("plain")
    assert len(launch.losses("plain")) == STEPS
    return launch


LAUNCHERS: dict[str, Callable[[Launch, str], None]] = {
    "torchrun": Launch.torchrun,
    "torchx": lambda launch, name: launch.torchx(name, "1x2"),
    "torchx-two-nodes": lambda launch, name: launch.torchx(name, "2x1"),
    "submitit": Launch.submitit,
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_same_job_has_the_same_ranks_environment_and_bits_of_loss(plain: Launch, name: str) -> None:
    LAUNCHERS[name](plain, name)
    assert plain.losses(name) == plain.losses("plain")
    own = {
        "MASTER_ADDR",
        "MASTER_PORT",
    }  # where they meet is each launcher's own affair, but they agree on it
    found, wanted = plain.ranks(name), plain.ranks("plain")
    assert len({(rank["MASTER_ADDR"], rank["MASTER_PORT"]) for rank in found}) == 1
    if name == "torchx-two-nodes":  # each a node of its own
        wanted = [{**rank, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} for rank in wanted]
    if name == "submitit":  # it hides GPUs that were not asked for
        wanted = [{**rank, "CUDA_VISIBLE_DEVICES": ""} for rank in wanted]
    assert [{key: value for key, value in rank.items() if key not in own} for rank in found] == [
        {key: value for key, value in rank.items() if key not in own} for rank in wanted
    ]


# -- submitit ----------------------------------------------------------------------------------------------------


def tasks_of(controller: int) -> list[int]:
    return sorted(children(controller))


def test_submitit_saves_in_the_loop_requeues_and_ends_bit_by_bit_the_same(
    trainer: Trainer, undisturbed: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """USR2 to every task, as submitit's controller and Slurm do it before the time is over."""
    for name in LEFT_OVER:
        monkeypatch.delenv(name, raising=False)
    job = dataclasses.replace(TWO, options=trainer.options(), outputs=str(trainer.folder.parent), check=None)
    (submitted,) = executor.submit(job, cluster="local")
    controller = submitted._process
    assert controller
    deadline = time.monotonic() + 120
    while not (trainer.folder / "metrics.jsonl").exists() or len(trainer.losses()) < 60:
        assert controller.poll() is None and time.monotonic() < deadline, submitted.stdout()
        time.sleep(0.02)
    for task in tasks_of(controller.pid):
        os.kill(task, signal.SIGUSR2)
    summary, _ = submitted.results()
    assert (summary["state"], summary["step"]) == ("completed", 400)
    assert 60 <= summary["resumed_from"] < 400  # where all ranks had agreed to stop, not the last checkpoint
    assert trainer.losses() == undisturbed.losses()
    output = submitted.stdout() or ""
    assert "all 2 ranks agreed to stop after step" in output and "Requeued job" in output
    assert output.index("agreed to stop") < output.index("Calling checkpoint method")


def test_submitit_warns_before_the_time_is_over_and_the_job_is_started_again(tmp_path: Path) -> None:
    job = dataclasses.replace(
        TWO,
        nodes=1,
        module="tests.jobs.patient",
        options=[],
        outputs=str(tmp_path),
        check=None,
        time_limit_minutes=1,
        warning_s=57,
    )
    (submitted,) = executor.submit(job, cluster="local")
    assert submitted.result() == {"state": "completed", "step": 2}
    assert "this job is timed-out" in (submitted.stdout() or "")
    assert "2 remaining timeouts" in (submitted.stdout() or "")


def test_a_sweep_is_a_job_for_each_value_of_each_key(tmp_path: Path) -> None:
    job = dataclasses.replace(
        TWO, nodes=1, module="tests.jobs.echo", options=["--a=1"], outputs=str(tmp_path), check=None
    )
    submitted = executor.submit(job, ["--b=2"], sweep={"c": ["3", "4"], "d": ["5", "6"]}, cluster="local")
    found = [each.result()["options"] for each in submitted]
    assert found == [["--a=1", "--b=2", f"--c={c}", f"--d={d}"] for c in "34" for d in "56"]


def test_a_job_that_fails_fails_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = dataclasses.replace(
        TWO, nodes=1, module="jobs.whoami", options=["--help"], outputs=str(tmp_path), check=None
    )
    assert executor.main(job, ["--cluster=local", "--wait"]) == 0
    job = dataclasses.replace(job, module="jobs.nothing")
    assert executor.main(job, ["--cluster=local", "--wait"]) == 1
    assert "No module named 'jobs.nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--train.stesp=3"], "--train.stesp: no such option. Did you mean 'train.steps'?"),
        (["--sweep=train.seed"], "--sweep: 'train.seed' is not KEY=VALUE,VALUE, such as train.seed=1,2,3"),
        (["--sweep=train.seed=1,x"], "--train.seed: 'x' is not a whole number, such as 1"),
        ([], "srun: no such program on PATH; submit on a login node, or here with --cluster=local"),
    ],
)
def test_mistakes_submit_nothing(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert executor.main(ddp_submitit.JOB, words) == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands played by scripts; sbatch keeps what it is given in `submitted`."""
    programs = tmp_path / "bin"
    taken = tmp_path / "submitted"
    script(
        programs / "sbatch",
        f'case "$*" in *submission_file*) cat "$1" >{taken}; echo "Submitted batch job 17" ;;',
        f'*) echo "$@" >{taken}; cat >>{taken}; echo 17 ;; esac',
    )
    script(programs / "srun")
    script(
        programs / "scontrol",
        f"echo '{answer(17, restart_cnt=1, standard_output=f'{tmp_path}/17.out')}'; [ \"$4\" = 17 ]",
    )
    script(
        programs / "sacct",
        'case "$*" in',
        '*--jobs=18*) echo "CANCELLED by 1000|2" ;;',
        "*--jobs*) ;;",
        '*) printf "17|RUNNING\\n16_3|COMPLETED\\n" ;;',
        "esac",
    )
    script(programs / "scancel", f'echo "$@" >{tmp_path}/cancelled')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def test_submitit_asks_slurm_for_what_the_job_describes(slurm: Path) -> None:
    job = dataclasses.replace(ddp_submitit.JOB, outputs=str(slurm), environment={"NCCL_DEBUG": "it's"})
    executor.submit(job, ["--train.steps=3"])
    text = (slurm / "submitted").read_text()
    asked = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert asked >= {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=3G", "--gres=gpu:1"}
    assert asked >= {"--time=15", "--signal=USR2@60", "--requeue", "--open-mode=append", "--job-name=ddp"}
    assert """export NCCL_DEBUG='it'"'"'s'""" in text
    assert "--kill-on-bad-exit=0" in text and "array" not in text


@pytest.mark.more
def test_submitit_under_slurm_saves_in_the_loop_and_has_slurm_requeue_it(
    slurm: Path, trainer: Trainer, undisturbed: Trainer
) -> None:
    """Its batch script runs here, srun played by a script that starts both tasks as Slurm names them."""
    script(
        slurm / "bin/srun",
        'while case "$1" in -*) ;; *) false ;; esac; do',
        '  if [ "$1" = --output ]; then shift; fi; shift',
        "done",
        f'SLURM_PROCID=1 SLURM_NODEID=1 "$@" >>{slurm}/task-1 2>&1 &',
        f'SLURM_PROCID=0 SLURM_NODEID=0 "$@" >>{slurm}/task-0 2>&1 &',
        "wait",
    )
    script(
        slurm / "bin/scontrol",
        f'if [ "$1" = requeue ]; then echo "$2" >>{slurm}/requeued; else',
        f"echo '{answer(17)}'; fi",
    )
    job = dataclasses.replace(TWO, options=trainer.options(), outputs=str(slurm), check=None)
    (submitted,) = executor.submit(job)
    told = {
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
    }
    env = clean()

    def start(count: int) -> "subprocess.Popen[bytes]":
        told["SLURM_RESTART_COUNT"] = str(count)
        return subprocess.Popen(
            ["bash", slurm / "submitted"],
            env={**env, **told, "SLURM_JOB_NUM_NODES": "2", "SUBMITIT_EXECUTOR": "slurm"},
            cwd=CHECKOUT,
        )

    first = start(0)
    trainer.reaches(60, first)  # type: ignore[arg-type]
    for task in (task for srun in children(first.pid) for task in children(srun)):
        os.kill(task, signal.SIGUSR2)
    first.wait(timeout=60)
    assert (slurm / "requeued").read_text() == "17\n"  # once, by rank 0
    assert not list((slurm / "submitit").rglob("*_result.pkl"))  # a result would say that the job is done
    stopped = len(trainer.losses())
    assert f"all 2 ranks agreed to stop after step {stopped}" in (slurm / "task-0").read_text()

    assert start(1).wait(timeout=120) == 0
    assert trainer.losses() == undisturbed.losses()
    summary, _ = submitted.results()
    assert (summary["state"], summary["resumed_from"]) == ("completed", stopped)


def test_submitit_makes_a_sweep_an_array(slurm: Path) -> None:
    job = dataclasses.replace(ddp_submitit.JOB, outputs=str(slurm))
    submitted = executor.submit(job, sweep={"train.seed": ["1", "2"], "train.clip": ["0.5", "1"]})
    assert [each.job_id for each in submitted] == ["17_0", "17_1", "17_2", "17_3"]
    assert "#SBATCH --array=0-3%4" in (slurm / "submitted").read_text()


# -- TorchX: Slurm -----------------------------------------------------------------------------------------------


def run(*words: str) -> int:
    """`python -m jobs.torchx`, in this process."""
    from torchx.cli import argparse_util

    for action in (argparse_util.ArgOnceAction, argparse_util.torchxconfig):
        action.called_args.clear()  # TorchX expects one command line in the life of a process
    return torchx.main(words)


def test_torchx_knows_our_schedulers_and_components_beside_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("builtins") == 0
    shown = capsys.readouterr().out
    assert "jobs.ddp" in shown and "jobs.job" in shown and "dist.ddp" in shown
    from torchx.schedulers import get_scheduler_factories

    assert set(get_scheduler_factories()) == {"local_cwd", "local_docker", "slurm", "pytorchjob"}


def test_torchx_submits_one_job_of_equal_nodes_with_a_warning(slurm: Path) -> None:
    assert (
        run(
            "run",
            "-s",
            "slurm",
            "-cfg",
            "account=research,qos=high",
            "jobs.job",
            "--name",
            "ddp",
            "--",
            "--data.folder=$HOME",
        )
        == 0
    )
    sbatch, *lines = (slurm / "submitted").read_text().splitlines()
    assert sbatch == "--parsable --account=research --qos=high"
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=3072M", "--gres=gpu:1"}
    assert asked >= {
        "--time=15",
        "--signal=USR2@60",
        "--requeue",
        "--open-mode=append",
        "--output=runs/%j.out",
    }
    assert not any("hetjob" in line for line in lines)


def test_the_batch_script_of_torchx_starts_a_torchrun_on_each_node(slurm: Path) -> None:
    """The script runs here, with srun played: what it would start on each node, as that node's shell reads it."""
    script(slurm / "bin/srun", 'for word; do last=$word; done; exec bash -c "$last"')
    script(slurm / "stack/bin/python", 'printf "%s\\n" "$@"')
    assert run("run", "-s", "slurm", "jobs.job", "--name", "ddp", "--", "--data.folder=it's $HOME") == 0
    _, text = (slurm / "submitted").read_text().split("\n", 1)
    script(slurm / "bin/scontrol", 'printf "gpu-3\\ngpu-4\\n"')
    told = {"STACK": str(slurm / "stack"), "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu-[3-4]"}
    done = subprocess.run(
        ["bash"],
        input=text,
        env={**os.environ, **told, "SLURM_RESTART_COUNT": "2"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *("-m", "jobs.torchrun"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=gpu-3:24711", "--rdzv-id=4711-2"),
        *("-m", "jobs.train", "--config", "jobs/ddp.yaml", "--data.folder=it's $HOME"),
    ]
    script(slurm / "stack/bin/python", "exit 3")
    failed = subprocess.run(["bash"], input=text, env={**os.environ, **told}, text=True)
    assert failed.returncode == 3


def test_torchx_shows_logs_and_cancels_jobs_of_slurm(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status", "slurm://torchx/17") == 0
    assert "RUNNING" in capsys.readouterr().out
    assert run("status", "slurm://torchx/18") == 0  # forgotten by slurmctld
    assert "CANCELLED" in capsys.readouterr().out
    assert run("list", "-s", "slurm") == 0
    listed = capsys.readouterr().out
    assert "slurm://torchx/16_3" in listed and "SUCCEEDED" in listed
    (slurm / "17-1.out").write_text("step 1\nstep 2\n")
    assert run("log", "slurm://torchx/17/node/1") == 0
    assert "step 2" in capsys.readouterr().out
    assert run("cancel", "slurm://torchx/17") == 0
    assert (slurm / "cancelled").read_text() == "17\n"


def test_mistakes_of_torchx_are_told_in_a_line(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in {
        ("--name", "dpp"): "--name: no job 'dpp' with a section torchx. Did you mean 'ddp'?",
        ("-j", "2"): "-j: '2' is not NODESxWORKERS, such as 2x8",
        ("--env", "A"): "--env: 'A' is not NAME=value",
        ("--", "--train.stesp=1"): "nothing was submitted",  # after the line that says which option is meant
    }.items():
        assert run("run", "-s", "slurm", "jobs.job", *words) == 2
        assert capsys.readouterr().err.splitlines()[-1] == says
    script(slurm / "bin/sbatch", 'echo "sbatch: error: Invalid account" >&2; exit 1')
    assert run("run", "-s", "slurm", "jobs.job", "--name", "ddp") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "sbatch: error: Invalid account"


# -- TorchX: PyTorchJobs -----------------------------------------------------------------------------------------

COMMITTED = yaml.safe_load((CHECKOUT / "k8s/pytorchjob.yaml").read_text())


def pod(kind: str, index: int, phase: str) -> dict[str, Any]:
    labels = {"training.kubeflow.org/replica-type": kind, "training.kubeflow.org/replica-index": str(index)}
    return {
        "metadata": {"labels": labels},
        "spec": {"nodeName": f"gpu-{index + 1}", "containers": [{"env": []}]},
        "status": {"phase": phase, "containerStatuses": [{"restartCount": index}]},
    }


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """kubectl played by a script: it keeps what is created and every command; a job is what job.json says."""
    script(
        tmp_path / "bin/kubectl",
        f'echo "$@" >>{tmp_path}/commands',
        'case "$1 $2" in',
        f'"create "*) cat >{tmp_path}/created ;;',
        f'"get pytorchjob") cat {tmp_path}/job.json ;;',
        f'"get pytorchjobs") printf \'{{"items": [\'; cat {tmp_path}/job.json; echo "]}}" ;;',
        f'"get pods") cat {tmp_path}/pods.json ;;',
        '"logs "*) printf "step 1\\nstep 2\\n" ;;',
        "esac",
    )
    job = json.loads(json.dumps(COMMITTED))
    conditions = [
        {"type": "Created", "status": "True"},
        {"type": "Running", "status": "True", "message": "it runs"},
    ]
    (tmp_path / "job.json").write_text(json.dumps({**job, "status": {"conditions": conditions}}))
    pods = {"items": [pod("worker", 0, "Pending"), pod("master", 0, "Running")]}
    (tmp_path / "pods.json").write_text(json.dumps(pods))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def test_torchx_creates_the_committed_pytorchjob_under_a_name_of_its_own(kubectl: Path) -> None:
    assert run("run", "-s", "pytorchjob", "jobs.job", "--name", "ddp", "--", "--train.steps=3") == 0
    made = json.loads((kubectl / "created").read_text())
    name = made["metadata"]["name"]
    assert name.startswith("ddp-") and len(name) < 45
    for replica in made["spec"]["pytorchReplicaSpecs"].values():
        spec = replica["template"]["spec"]
        (container,) = spec["containers"]
        assert container["args"][-2:] == [f"--run.folder=runs/{name}", "--train.steps=3"]
        assert container["resources"]["limits"] == {"cpu": "1", "memory": "3072Mi", "nvidia.com/gpu": 1}
        told = {each["name"]: each["value"] for each in container["env"]}
        assert told.pop("TORCHX_JOB_ID") == f"pytorchjob://torchx/research:{name}"
        # What is left is as committed: queue, rights, volumes, restarts.
        (known,) = COMMITTED["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
        assert told == {each["name"]: each["value"] for each in known["env"]}
        for key in ("args", "env", "resources"):
            container[key] = known[key]
        spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"][
            "training.kubeflow.org/job-name"
        ] = "ddp"
    made["metadata"]["name"] = "ddp"
    assert made["metadata"]["labels"].pop("app.kubernetes.io/managed-by") == "torchx"
    assert made == COMMITTED


def test_torchx_changes_nodes_workers_team_and_size_of_a_pytorchjob(kubectl: Path) -> None:
    words = [
        "-cfg",
        "namespace=trial,priority=low",
        "jobs.job",
        "--name",
        "ddp",
        "-j",
        "4x8",
        "--gpu",
        "8",
        "--cpu",
        "64",
    ]
    assert run("run", "-s", "pytorchjob", *words, "--memMB", "65536", "--env", "NCCL_DEBUG=INFO") == 0
    made = json.loads((kubectl / "created").read_text())
    assert made["metadata"]["namespace"] == made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trial"
    replicas = made["spec"]["pytorchReplicaSpecs"]
    assert [replicas["Master"]["replicas"], replicas["Worker"]["replicas"]] == [1, 3]
    assert made["spec"]["nprocPerNode"] == "8"
    for replica in replicas.values():
        (container,) = replica["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"cpu": "64", "memory": "65536Mi", "nvidia.com/gpu": 8}
        assert {"name": "NCCL_DEBUG", "value": "INFO"} in container["env"]
        assert {"name": "SLIPWAY_GPUS", "value": "8"} in container["env"]
        assert replica["template"]["spec"]["priorityClassName"] == "low"


def test_torchx_shows_logs_and_cancels_pytorchjobs(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.launch.pytorchjob import create_scheduler

    scheduler = create_scheduler("torchx")
    found = scheduler.describe("research:ddp")
    assert found and (found.state.name, found.msg, found.num_restarts) == ("RUNNING", "it runs", 0)
    (status,) = found.roles_statuses
    assert [(each.id, each.state.name, each.hostname) for each in status.replicas] == [
        (0, "RUNNING", "gpu-1"),  # the master
        (1, "PENDING", "gpu-1"),
    ]
    assert [each.app_id for each in scheduler.list()] == ["research:ddp"]
    assert list(scheduler.log_iter("research:ddp", "node", 1, regex="2")) == ["step 2\n"]
    assert list(scheduler.log_iter("research:ddp", "node", 0, should_tail=True)) == ["step 1\n", "step 2\n"]
    assert run("cancel", "pytorchjob://torchx/research:ddp") == 0
    commands = (kubectl / "commands").read_text().splitlines()
    assert "logs --namespace=research ddp-worker-0" in commands
    assert "logs --namespace=research ddp-master-0 --follow" in commands
    assert commands[-1] == "delete pytorchjob ddp --namespace=research --wait=false"
    with pytest.raises(Mistake, match="ddp: no node 2; it has 2"):
        list(scheduler.log_iter("research:ddp", "node", 2))
    (kubectl / "job.json").write_text("")
    assert scheduler.describe("research:gone") is None


def test_a_pytorchjob_needs_a_description_to_start_from(
    kubectl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "-s", "pytorchjob", "jobs.ddp", "-m", "jobs.whoami") == 2
    assert "whoami: names no manifest to start from" in capsys.readouterr().err
    assert not (kubectl / "created").exists()
