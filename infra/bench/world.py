"""Where measurements happen: a copy of the checkout below build/.bench, and in it a cluster called `bench`.

So nothing of the user's is in the way or at risk: not the running lab, not runs/, and in a fresh world, which
begins with an empty cache and builds images under a name of its own, neither the cache nor the images.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra import engine, images, paths
from infra.errors import Failure
from infra.lab import down, trial
from infra.lab.compose import Project
from infra.load import load_cluster
from infra.machine import read_machine
from infra.process import output
from infra.progress import Step

NAME = "bench"
REPOSITORY = "slipway-bench"  # of the images that a fresh world builds
FOLDER = paths.CHECKOUT / "build" / f".{NAME}"  # no cluster's name begins with a dot
CACHES = ("UV_CACHE_DIR", "PIP_CACHE_DIR")  # they would lead out of a fresh world's cache


@dataclass(frozen=True)
class World:
    """The copy, and what a person does in it."""

    checkout: Path
    env: dict[str, str]
    stack: str  # of the lab's nodes
    fresh: bool

    @property
    def project(self) -> Project:
        return Project(NAME)

    def run(self, *words: str | Path) -> str:
        """What a command prints in the copy. Raises Failure with its last line; all lines are in the log."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.checkout,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        log = FOLDER / "bench.log"
        with log.open("a") as file:
            file.write(f"$ {' '.join(str(word) for word in words)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise Failure(
                f"{words[0]} failed ({done.returncode}): {lines[-1] if lines else ''}\n  log: {log}"
            )
        return done.stdout + (done.stderr if words[0] == "make" else "")  # make's steps are on both

    def make(self, *words: str) -> str:
        return self.run("make", *words)

    def slurm(self, command: str, *words: str) -> str:
        """One of Slurm's commands, by bin/, as from the user's shell."""
        return self.run(self.checkout / "bin" / command, *words).strip()

    def where(self, name: str) -> str:
        """Tag of an image, or path of a stack's folder."""
        return self.run(self.checkout / ".venv/bin/python", "-m", "infra", "images", "where", name).strip()

    def down(self) -> None:
        """Remove the cluster, its volumes and what its jobs wrote."""
        down.remove(self.project, volumes=True)
        shutil.rmtree(self.checkout / "build" / NAME, ignore_errors=True)
        shutil.rmtree(self.checkout / "runs", ignore_errors=True)


@contextmanager
def world(*, fresh: bool) -> Iterator[World]:
    """A world that is removed at the end. One that is not fresh shares the user's cache, images and tools."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure("another `python -m infra bench` runs in this checkout: wait for it") from None
        _nothing_foreign(fresh)
        _remove()  # what a killed one has left
        (FOLDER / "bench.log").unlink(missing_ok=True)
        stack = _stack()
        if not fresh:
            images.ensure(["node", stack], Step("images", None))
        try:
            yield _make(stack, fresh)
        finally:
            _remove()


def _make(stack: str, fresh: bool) -> World:
    checkout = FOLDER / "checkout"
    _copy(checkout)
    env = trial.environment(NAME, trial.cluster_file(NAME, checkout), checkout)
    if fresh:
        env = {key: value for key, value in env.items() if key not in CACHES}
        env |= {"XDG_CACHE_HOME": str(FOLDER / "cache"), "SLIPWAY_REPOSITORY": REPOSITORY}
    else:
        (checkout / ".venv").symlink_to(paths.CHECKOUT / ".venv")
    return World(checkout, env, stack, fresh)


def _copy(into: Path) -> None:
    """Every file that git has or would take, as it is now; with its time, which make looks at."""
    listed = output(
        ["git", "-C", paths.CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    )
    for name in listed.split("\0"):
        source, target = paths.CHECKOUT / name, into / name
        if name and (source.is_file() or source.is_symlink()):  # not: removed, and not yet committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def _stack() -> str:
    cluster = load_cluster(paths.CHECKOUT / "clusters" / "lab.yaml", machine=read_machine())
    stack = cluster.pools[0].stack
    assert stack, "a lab runs jobs, so every pool has a stack"
    return stack.name


def _nothing_foreign(fresh: bool) -> None:
    """Raise Failure when what we are about to make and remove is there already, and is not ours."""
    label = "com.docker.compose.project"
    listed = ["docker", "ps", "--all", "--filter", f"label={label}={Project(NAME).name}"]
    for folder in output([*listed, "--format", f'{{{{.Label "{label}.working_dir"}}}}']).splitlines():
        if not Path(folder).is_relative_to(FOLDER):
            raise Failure(f"a cluster called '{NAME}' runs from {folder}: remove it or wait for its end")
    builds = output(["docker", "ps", "--filter", "name=^slipway-build-", "--format", "{{.Names}}"])
    if fresh and builds:
        raise Failure(f"images are being built ({builds.split()[0]}): wait for the end of that")


def _remove() -> None:
    down.remove(Project(NAME), volumes=True)
    tags = output(
        [
            "docker",
            "image",
            "ls",
            "--filter",
            f"reference={REPOSITORY}/*",
            "--format",
            "{{.Repository}}:{{.Tag}}",
        ]
    )
    assert engine.REPOSITORY != REPOSITORY, "SLIPWAY_REPOSITORY names the images that bench removes"
    if tags:
        output(["docker", "image", "rm", *tags.split()])
    for name in ("checkout", "cache"):
        _remove_tree(FOLDER / name)


def _remove_tree(folder: Path) -> None:
    """Also with read-only folders in it, as stacks have."""
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
