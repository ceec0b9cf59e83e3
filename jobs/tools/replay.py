"""Run a run again, and say whether it gave the same losses; or what is not the same any more.

Every input that the losses depend on is named when it changed: the lock, the code, the data, the configuration, the
number of ranks, versions, the processor. On CPU the same inputs give the same losses to the last bit.

Exit codes: 0 identical, 1 it differs (with --dry-run: an input does), 2 it cannot be run again here.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.errors import Mistake
from jobs.cli.files import free
from jobs.telemetry import folder as runfolder
from jobs.tools.record import Record, find

# Sections of the configuration that no loss depends on, and where the data lies.
LEFT_OUT = ("run.", "checkpoint.", "data.folder")
IDENTICAL, DIFFERS, CANNOT = 0, 1, 2


def inputs(record: Record) -> dict[str, str]:
    """What a recorded run's losses depend on, by names for people; what was not recorded is left out."""
    environment = record.environment
    found: dict[str, Any] = {
        "lock": environment.get("stack"),
        "image": environment.get("image"),
        "code": environment.get("code"),
        "model's code": environment.get("model_code"),
        "data": environment.get("data") or record.summary.get("data"),
        "ranks": environment.get("world_size") or record.summary.get("world_size"),
        "device": environment.get("gpu") or environment.get("device"),
        "processor": environment.get("cpu"),
        "vectors": environment.get("cpu_vectors"),
        **{name: environment.get(name) for name in ("torch", "cuda", "numpy", "python")},
        **{f"${name}": value for name, value in sorted(environment.get("numeric", {}).items())},
        **{key: text for key, text in record.config.items() if not key.startswith(LEFT_OUT)},
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def here(record: Record, changes: Sequence[str]) -> dict[str, str]:
    """The same of a run that would be started now, here, with the same command. Raises Mistake."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        from jobs import config as configuration
        from jobs import model
        from jobs.data import shards as data
    except ImportError as error:
        raise Mistake(f"replay runs on the stack: {error}; use /opt/stack/current/bin/python") from error
    config = configuration.load([f"--config={record.folder / 'config.yaml'}", *changes])
    found = inputs(record)
    texts = data.sources()
    found |= {
        "lock": runfolder.stack(),
        "code": runfolder.code(),
        "data": data.name_of(texts, shard_bytes=config.data.shard_bytes, validation=config.data.validation),
        "processor": runfolder.processor(),
        "vectors": runfolder.vectors(),
        "python": sys.version.split()[0],
    }
    own = model.code(config.model)
    if own:
        found["model's code"] = runfolder.code(own)
    image = runfolder.image()
    if image or "image" in found:
        found["image"] = str(image)
    if "gpu" in record.environment:
        found["device"] = _device()
    for name in ("torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "config.yaml").write_text(configuration.to_yaml(config))
        now = Record(path).config
    return found | {key: text for key, text in now.items() if not key.startswith(LEFT_OUT)}


def _device() -> str:
    """The GPU that a run would use here, else cpu."""
    try:
        import torch
    except ImportError:
        return "no torch"
    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else "cpu"


def changed(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """A line for each input that is not what it was; one that was not recorded says nothing."""
    lines = []
    for name in then:
        before, after = then[name], now.get(name, "-")
        if name == "torch" and before.partition("+")[0] == after.partition("+")[0]:
            continue  # 2.14.1+cu130 as the library says it, 2.14.1 as its package does
        if before != after:
            short = 12 if name.endswith("code") else 80
            lines.append(f"{name:<12} {before[:short]} -> {after[:short]}")
    return lines


@dataclass(frozen=True)
class Verdict:
    """Two loss histories, step by step."""

    steps: int  # that both have
    first: int | None  # step of the first difference; None when there is none
    before: float
    after: float
    largest: float  # relative difference, of all steps

    def line(self) -> str:
        if not self.steps:
            return "no step to compare"
        if self.first is None:
            return f"identical: the losses of {self.steps} steps are the same to the last bit"
        return (
            f"differs from step {self.first} on: {self.before!r} was recorded, now {self.after!r}; "
            f"largest relative difference in {self.steps} steps: {self.largest:.1e}"
        )


def compare(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Verdict:
    """Compare the losses of the steps that both have."""
    mine = {line["step"]: line["loss"] for line in after}
    both = [(line["step"], line["loss"], mine[line["step"]]) for line in before if line["step"] in mine]
    apart = [each for each in both if repr(each[1]) != repr(each[2])]  # by repr: NaN is the same as NaN
    largest = max((abs(b - a) / (abs(a) or 1.0) for _, a, b in apart), default=0.0)
    step, a, b = apart[0] if apart else (None, 0.0, 0.0)
    return Verdict(len(both), step, a, b, largest)


def command(record: Record, folder: Path, ranks: int, changes: Sequence[str]) -> list[str]:
    """What starts the run again on this machine."""
    data = Path(record.config["data.folder"])
    module = next((word for word in _module(record)), "jobs.train")
    return [
        *(sys.executable, "-m", "jobs.torchrun", "--standalone", f"--nproc-per-node={ranks}"),
        *("-m", module, f"--config={(record.folder / 'config.yaml').resolve()}"),
        *changes,
        *(f"--run.folder={folder.resolve()}", f"--data.folder={data.resolve()}"),
    ]


def _module(record: Record) -> Iterator[str]:
    """The program's module, from the path that Python gave it: .../jobs/train.py."""
    words = record.environment.get("command") or []
    if words and words[0].endswith(".py") and Path(words[0]).parent.name == "jobs":
        yield f"jobs.{Path(words[0]).stem}"


def sbatch(record: Record, folder: Path) -> str:
    """What starts it again on as many nodes."""
    launcher = record.environment.get("launcher", {})
    nodes = launcher.get("SLURM_NNODES") or str(len(record.environment.get("hosts", [])))
    gpus = launcher.get("SLURM_GPUS_ON_NODE")
    options = [f"--nodes={nodes}", *([f"--gres=gpu:{gpus}"] if gpus else [])]
    name = launcher.get("SLURM_JOB_NAME", "ddp")
    script = f"jobs/{name}.sbatch" if Path(f"jobs/{name}.sbatch").exists() else "jobs/ddp.sbatch"
    settings = [f"--config={record.folder / 'config.yaml'}", f"--run.folder={folder}"]
    return shlex.join(["sbatch", *options, script, *settings])


@contextmanager
def recorded_code(record: Record) -> Iterator[Path]:
    """A temporary worktree with the very code of the run: its commit, and its changes. Raises Mistake."""
    git = record.environment.get("git")
    if not git:
        raise Mistake(
            f"{record.folder}: --code=recorded: no commit was recorded; it ran outside a git checkout"
        )
    diff, facts = record.folder / "code.diff", record.environment.get("diff")
    if facts and not facts["kept"]:
        raise Mistake(f"{record.folder}: --code=recorded: its changes, {facts['bytes']} bytes, were not kept")
    room = Path(tempfile.mkdtemp(prefix="replay-"))
    tree = room / "code"
    try:
        _git("worktree", "add", "--quiet", "--detach", str(tree), git["commit"])
        if facts:
            _git("-C", str(tree), "apply", "--binary", str(diff.resolve()))
        wanted, found = record.environment.get("code"), runfolder.code(tree / "jobs")
        if wanted and wanted != found:
            new = ", ".join(git.get("untracked", [])) or "files that git ignores"
            raise Mistake(f"{record.folder}: --code=recorded: not all of it is in git: {new}")
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], capture_output=True, check=False)
        shutil.rmtree(room, ignore_errors=True)


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["failed"])[-1]
        raise Mistake(f"--code=recorded: git {words[0]} {words[-1]}: {why}")


def run(words: Sequence[str], cwd: Path, environment: dict[str, str], folder: Path, steps: int) -> int:
    """Run it until it ends, or until it has so many steps: then it is told to stop. Returns its exit code."""
    with (folder.parent / f"{folder.name}.out").open("w") as output:
        process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                path = folder / "metrics.jsonl"
                if path.exists() and path.read_bytes().count(b"\n") >= steps:
                    # At its last step it ends by itself; before, it saves and stops.
                    if steps < _planned(folder):
                        process.terminate()
                    return 0 if process.wait() in (0, 143, -15) else process.returncode
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode


def _planned(folder: Path) -> int:
    return Record(folder).number("train.steps")


def again(record: Record, chosen: argparse.Namespace) -> int:
    """Run it, or say why not."""
    ranks = int(inputs(record).get("ranks", "1"))
    folder = _fresh(record)
    hosts = record.environment.get("hosts", [])
    if len(hosts) > 1 and not chosen.here:
        print(f"it had {len(hosts)} nodes; to run it on as many:\n  {sbatch(record, folder)}")
        print(f"and then:\n  python -m jobs replay {record.name} --against={folder}")
        print("or with all ranks on this machine: --here")
        return CANNOT
    steps = min(chosen.steps or len(record.lines), len(record.lines))
    environment = {name: value for name, value in os.environ.items() if name not in runfolder.NUMERIC}
    environment |= record.environment.get("numeric", {})
    for name in list(environment):  # a job of its own, not a part of the one that this may be called in
        if name.startswith(("SLURM_", "TORCHELASTIC_", "PET_")) or name in (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
        ):
            del environment[name]
    words = command(record, folder, ranks, chosen.change)
    print(
        f"{record.folder}: {steps} steps on {ranks} rank{'s' if ranks > 1 else ''}, again in {folder}",
        flush=True,
    )
    if chosen.code == "recorded":
        with recorded_code(record) as tree:
            code = run(words, tree, environment, folder, steps)
    else:
        code = run(words, Path.cwd(), environment, folder, steps)
    if code or not (folder / "metrics.jsonl").exists():
        output = (folder.parent / f"{folder.name}.out").read_text().strip().splitlines()
        print("\n".join(output[-5:]), file=sys.stderr)
        raise Mistake(f"{folder}: the run failed with exit code {code}; see {folder}.out")
    return against(record, Record(folder), steps)


def against(record: Record, other: Record, steps: int | None = None) -> int:
    """Compare two runs that are there."""
    _tell(changed(inputs(record), inputs(other)))
    lines = record.lines[: steps or len(record.lines)]
    verdict = compare(lines, other.lines)
    print(f"{record.name} and {other.name}: {verdict.line()}")
    if not verdict.steps:
        return CANNOT
    return DIFFERS if verdict.first is not None else IDENTICAL


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"  changed  {line}", flush=True)
    if not lines:
        print("  nothing that was recorded has changed", flush=True)


def _fresh(record: Record) -> Path:
    """A folder beside the run's that is not there yet."""
    return free(record.folder.with_name(f"{record.name}-replay"))


def check(record: Record) -> None:
    """Raises Mistake when a run cannot be run again at all."""
    if not record.environment or not record.lines:
        raise Mistake(f"{record.folder}: it came to no training step: nothing to compare with")
    changes = [line["changed"] for line in record.attempts if line.get("changed")]
    if changes:
        each = ", ".join(f"{key} {was} -> {now}" for found in changes for key, (was, now) in found.items())
        raise Mistake(
            f"{record.folder}: it went on otherwise than it began ({each}): no one run has the same losses"
        )
    sizes = list(dict.fromkeys(attempt.world_size for attempt in record.account.attempts))
    if len(sizes) > 1:
        each = ", then ".join(str(size) for size in sizes)
        raise Mistake(f"{record.folder}: its starts had {each} ranks: no one run has the same losses")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jobs replay",
        description=__doc__,
        epilog="examples:\n"
        "  python -m jobs replay latest --dry-run         only what changed since\n"
        "  python -m jobs replay 17                       run it again and compare\n"
        "  python -m jobs replay 17 --code=recorded       with the code that it ran with\n"
        "  python -m jobs replay 17 --steps=20            only its first steps\n"
        "  python -m jobs replay 17 --change=--train.threads=2\n"
        "  python -m jobs replay 17 --against=18          compare with a run that is there",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", nargs="?", default="latest", help="folder, or name in runs/ (latest)")
    parser.add_argument("--dry-run", action="store_true", help="run nothing; say which inputs changed")
    parser.add_argument("--code", choices=("now", "recorded"), default="now", help="whose code runs (now)")
    parser.add_argument("--steps", type=int, help="stop after so many steps (as many as were recorded)")
    parser.add_argument("--here", action="store_true", help="all ranks on this machine, if there were more")
    parser.add_argument("--change", action="append", default=[], metavar="OPTION", help="change an input")
    parser.add_argument("--against", metavar="RUN", help="run nothing; compare with that run")
    chosen = parser.parse_args(arguments)
    try:
        record = find(chosen.run)
        check(record)
        if chosen.against:
            return against(record, find(chosen.against), chosen.steps)
        if chosen.dry_run:
            lines = changed(inputs(record), here(record, chosen.change))
            _tell(lines)
            return DIFFERS if lines else IDENTICAL
        return again(record, chosen)
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return CANNOT
