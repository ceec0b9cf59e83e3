"""Where measurements happen: a copy of the checkout below build/.bench, and in it a cluster called `bench`.

Clusters of machines are called `bench-site` and `bench-many`, that of Kubernetes `bench-kind`.

So nothing of the user's is in the way or at risk: not the running lab, not runs/, and in a fresh world, which
begins with an empty cache and builds images under a name of its own, neither the cache nor the images.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.base import lock, paths
from infra.base.errors import Failure
from infra.base.process import output, start
from infra.base.progress import Step
from infra.bench import trial
from infra.host import engine
from infra.images import targets
from infra.model.host import read_host
from infra.model.load import load_cluster
from infra.places import owner
from infra.places.kind.cluster import LABEL, Kind
from infra.places.lab import down
from infra.places.lab.compose import Project

NAME = "bench"
SITE, MANY = "bench-site", "bench-many"  # clusters of machines; the second belongs to the checkout itself
KIND = "bench-kind"  # the cluster of Kubernetes
REPOSITORY = "slipway-bench"  # of the images that a fresh world builds
FOLDER = paths.CHECKOUT / "build" / f".{NAME}"  # no cluster's name begins with a dot
MACHINES = "slipway:cluster={}"  # the label of everything of a cluster of machines
KINDS = f"{LABEL}=slipway-{KIND}"
THINGS: tuple[engine.Kind, ...] = ("container", "network", "volume")  # each is used by those before it
CACHES = ("UV_CACHE_DIR", "PIP_CACHE_DIR")  # they would lead out of a fresh world's cache


@dataclass(frozen=True)
class Elsewhere(Kind):
    """The kind cluster of a copy of the checkout."""

    checkout: Path

    @property
    def folder(self) -> Path:
        return self.checkout / "build" / self.cluster.name


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

    def run(self, *words: str | Path, ok: Sequence[int] = (0,)) -> str:
        """What a command prints in the copy. Raises Failure with its last line; all lines are in the log.

        `ok`: the exit statuses that mean success.
        """
        log = FOLDER / "bench.log"
        with log.open("a") as file:
            file.write(f"$ {' '.join(str(word) for word in words)}\n")
            file.flush()
            status, out, err = _run(words, self.checkout, self.env)
            file.write(out + err)
        if status not in ok:
            said = (err or out).strip().splitlines()
            lines = [line for line in said if not line.startswith("make: ***")] or said
            raise Failure(f"{words[0]} failed ({status}): {lines[-1] if lines else ''}\n  log: {log}")
        return out + (err if words[0] == "make" else "")  # make's steps are on both

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

    @property
    def kind(self) -> Kind:
        """The cluster of Kubernetes, up or not; its file is clusters/kind.yaml under another name."""
        file = trial.cluster_file(KIND, self.checkout, like="kind")
        return Elsewhere(load_cluster(file, root=self.checkout), self.checkout)

    def make_kind(self, *words: str) -> str:
        """`make WORDS` for that cluster."""
        return self.make(*words, f"CLUSTER={self.checkout / 'build' / f'{KIND}.yaml'}")

    def kind_up(self) -> Kind:
        """The cluster of Kubernetes, which is up."""
        kind = self.kind
        self.make_kind("cluster-up", "JOB=")
        return kind

    def down_kind(self) -> None:
        """Remove the cluster of Kubernetes, with everything that is kept of it."""
        remove_kind()
        _remove_tree(self.checkout / "build" / KIND)

    def down_machines(self) -> None:
        """Remove the cluster of machines, with everything that is kept of it."""
        remove_machines(SITE)
        shutil.rmtree(self.checkout / "build" / SITE, ignore_errors=True)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one bench of this checkout at a time; what a killed one has left of our machines is removed."""
    with lock.held(FOLDER / "lock", "the bench of this checkout"):
        _no_foreign_machines()
        for name in (SITE, MANY):
            remove_machines(name)
        shutil.rmtree(paths.build(MANY), ignore_errors=True)
        yield


@contextlib.contextmanager
def world(*, fresh: bool) -> Iterator[World]:
    """A world that is removed at the end. One that is not fresh shares the user's cache, images and tools."""
    with alone():
        _no_foreign_cluster()
        _remove()  # what a killed one has left
        if fresh:
            _no_other_build()
        (FOLDER / "bench.log").unlink(missing_ok=True)
        stack = _stack()
        if not fresh:
            targets.ensure(["node", stack], Step("images", None))
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
    cluster = load_cluster(paths.CHECKOUT / "clusters" / "lab.yaml", host=read_host())
    stack = cluster.pools[0].stack
    assert stack, "a lab runs jobs, so every pool has a stack"
    return stack.name


def _no_foreign_cluster() -> None:
    """Raise Failure when the cluster that we are about to make, and to remove, is there and not ours."""
    for facts in engine.containers(Project(NAME).label):
        if not Path(owner.of(facts)).is_relative_to(FOLDER):
            raise Failure(
                f"a cluster called '{NAME}' runs from {owner.of(facts)}: remove it or wait for its end"
            )


def _no_foreign_machines() -> None:
    """Raise Failure when there are machines of ours whose state is not in this checkout."""
    for name, folder in ((SITE, FOLDER / "checkout" / "build" / SITE), (MANY, paths.build(MANY))):
        if engine.names("container", MACHINES.format(name)) and not (folder / "state").exists():
            raise Failure(f"machines of a cluster called '{name}' run from elsewhere: wait for their end")
    if engine.names("container", KINDS) and not (FOLDER / "checkout" / "build" / KIND / "kind.yaml").exists():
        raise Failure(f"a cluster called '{KIND}' runs from elsewhere: wait for its end")


def remove_machines(name: str) -> None:
    """Remove everything that Docker has of a cluster of machines. Its state is to be removed with it."""
    _remove_labelled(MACHINES.format(name))


def remove_kind() -> None:
    """Remove everything that Docker has of the cluster of Kubernetes."""
    _remove_labelled(KINDS)


def _remove_labelled(label: str) -> None:
    for kind in THINGS:
        for name in engine.names(kind, label):
            engine.remove(kind, name)


def _no_other_build() -> None:
    """Raise Failure when images are being built: the containers for that would have the same names."""
    running = [str(facts["Name"]).lstrip("/") for facts in engine.containers() if facts["State"]["Running"]]
    builds = [name for name in running if name.startswith("slipway-build-")]
    if builds:
        raise Failure(f"images are being built ({builds[0]}): wait for the end of that")


def _run(words: Sequence[str | Path], cwd: Path, env: dict[str, str]) -> tuple[int, str, str]:
    """Status, output and errors of a command, which ends with all its children when we are interrupted.

    In a session of its own: a Ctrl-C would reach some of them and not others, and none of a command that a
    shell has put into the background.
    """
    command = [str(word) for word in words]
    with start(
        command,
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            _end(process)
            raise
    return process.returncode, out, err


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with its group: by SIGTERM, for those that clean up, after ten seconds by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(process.pid, number)
            for _ in range(100):
                process.poll()  # the leader is our child, and stays in the group until we ask for its status
                os.killpg(process.pid, 0)
                time.sleep(0.1)


def _remove() -> None:
    """Remove everything that a world has made; what is the user's has other names and places."""
    assert engine.REPOSITORY != REPOSITORY, "SLIPWAY_REPOSITORY names the images that bench removes"
    down.remove(Project(NAME), volumes=True)
    remove_machines(SITE)
    remove_kind()
    tags = engine.images(REPOSITORY)
    for facts in engine.containers():  # an interrupted build leaves its container
        if facts["Config"]["Image"] in tags:
            engine.remove_container(facts["Name"].lstrip("/"))
    for tag in tags:
        engine.remove_image(tag)
    for name in ("checkout", "cache"):
        _remove_tree(FOLDER / name)


def _remove_tree(folder: Path) -> None:
    """Also with read-only folders in it, as stacks have."""
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
