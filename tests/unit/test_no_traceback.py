"""Every verb with every outside program missing, failing or hanging: a line, the right status, and never a traceback.

A verb runs in a child of this process, forked, so that everything is imported and every file is read already; the
programs are stubs, which alone stand on PATH. Nothing is built, fetched or installed: that is refused in its place.
"""

import importlib
import json
import os
import pkgutil
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest

import infra.places
from infra import cli
from infra.base import download, paths, process
from infra.base.errors import Failure
from infra.host import docker
from infra.host import engine as api
from infra.images import programs
from infra.model import load
from infra.model.cluster import Cluster
from infra.places.site import look as site_look
from infra.places.site import site

PROGRAMS = "docker ssh kubectl git ssh-keyscan ssh-keygen pulumi go uv du apt-get systemctl setpriv"
STUBS = {"missing": "", "failing": "echo 'it is broken: [red]|' >&2; exit 3", "hanging": "exec /bin/sleep 60"}
PATIENCE_S = 0.1  # of a verb with a program, in place of its own
LIMIT_S = 30  # for one verb, on a loaded machine
NAME = f"stubs{os.getpid()}"

VERBS = (
    "up CLUSTER --job=",
    "down CLUSTER",
    "down CLUSTER --purge",
    "status CLUSTER",
    "status CLUSTER --json",
    "logs CLUSTER",
    "logs CLUSTER NODE",
    "shell CLUSTER",
    "shell CLUSTER NODE",
    "verify CLUSTER",
    "rotate-secrets CLUSTER",
    "plan CLUSTER",
    "copy CLUSTER",
    "replace CLUSTER NODE",
    "upgrade CLUSTER",
    "hostkeys CLUSTER",
    "results ddp CLUSTER",
    "kubeconfig CLUSTER",
)
ALONE = (
    "host",
    "host --json",
    "images list",
    "images build node",
    "images verify",
    "images prune",
    "images where node",
)
NODES = {"lab": "c1", "kind": "c1", "site": "gpu-1"}
Cases = dict[str, tuple[Path, Cluster]]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What verbs import when they run, once for all children."""
    for module in pkgutil.walk_packages(infra.places.__path__, "infra.places."):
        importlib.import_module(module.name)
    for name in (
        "docker",
        "kubernetes.client",
        "kubernetes.config",
        "pulumi.automation",
        "infra.provision.provisioner",
    ):
        importlib.import_module(name)


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cases]:
    """A cluster of each place, loaded; the machines have been up."""
    folder = tmp_path_factory.mktemp("clusters")
    found = {}
    for place in NODES:
        file = folder / f"{NAME}-{place}.yaml"
        text = (paths.CHECKOUT / f"clusters/{place}.yaml").read_text()
        file.write_text(text.replace(f"name: {place}", f"name: {NAME}-{place}", 1))
        found[place] = (file, load.load_cluster(file))
    there = paths.build(f"{NAME}-site")
    there.mkdir(parents=True)
    entry: dict[str, Any] = {
        "group": "x",
        "parts": [],
        "address": "10.0.0.1",
        "host_key": "",
        "id": "1",
        "hardware": "x",
    }
    entry |= {"usd_per_hour": None, "watts": 1}
    machines = [{"name": name, **entry} for name in ("controller", "login", "gpu-1", "gpu-2")]
    (there / "machines.json").write_text(json.dumps({"machines": machines}))
    yield found
    for place in NODES:
        shutil.rmtree(paths.build(f"{NAME}-{place}"), ignore_errors=True)


@pytest.fixture(params=STUBS)
def stubs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder to be PATH, whose programs are all missing, fail or hang; ours, of .venv, are of no use to them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS.split() if STUBS[request.param] else []:
        (folder / name).write_text(f"#!/bin/sh\n{STUBS[request.param]}\n")
        (folder / name).chmod(0o755)
    with engine(folder) if request.param == "hanging" else nullcontext():
        yield folder


@contextmanager
def engine(folder: Path) -> Iterator[None]:
    """A Docker engine that is connected to and says nothing."""
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(str(folder / "engine"))
        there.listen(100)
        yield


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise Failure("nothing is built or fetched here")


def verb(words: list[str], stubs: Path, loaded: Cluster | None) -> NoReturn:
    """In the child: `python -m infra WORDS`, to its end."""
    handle = os.open(stubs.parent / "out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.setsid()
    os.environ |= {"PATH": str(stubs), "HOME": str(stubs.parent), "DOCKER_HOST": f"unix://{stubs}/engine"}
    os.environ["SLIPWAY_STARTED"] = str(time.time())
    os.geteuid = lambda: 1000  # root would install Docker
    sys.executable = str(stubs / "python")  # beside which our own programs are
    impatient: Any
    for impatient in (process, docker, site_look):
        impatient.ANSWER_S = PATIENCE_S
    for impatient in (process.output, site.Site.run):
        assert impatient.__kwdefaults__["timeout_s"]
        impatient.__kwdefaults__["timeout_s"] = PATIENCE_S
    for impatient in (api.client, api.asked.__wrapped__):  # type: ignore[attr-defined]
        assert impatient.__defaults__ == (api.TIMEOUT_S,)
        impatient.__defaults__ = (PATIENCE_S,)
    api.TIMEOUT_S = PATIENCE_S  # type: ignore[assignment]
    for impatient, names in ((programs, ("ensure", "ensure_all")), (download, ("file", "text"))):
        for name in names:
            setattr(impatient, name, refuse)
    if loaded:
        load.load_cluster = lambda *_, **__: loaded
    sys.argv = ["infra", *words]
    code = 99
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(words: list[str], stubs: Path, loaded: Cluster | None = None) -> tuple[int, str]:
    """Status of the verb, and all that it has said."""
    pid = os.fork()
    if pid == 0:
        verb(words, stubs, loaded)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        done, ended = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(ended), (stubs.parent / "out").read_text()
        time.sleep(0.005)
    os.killpg(pid, 9)
    os.waitpid(pid, 0)
    return -1, f"no end after {LIMIT_S} s"


def judged(words: list[str], code: int, said: str) -> str:
    """What is wrong with how a verb has ended; empty for nothing."""
    lines = said.strip().splitlines()
    if code not in (1, 2):
        return f"{' '.join(words)}: status {code}: {said[-500:]}"
    if not lines or "Traceback" in said or "Error: " in said:
        return f"{' '.join(words)}: {said[-500:] or 'says nothing'}"
    return ""


@pytest.mark.parametrize("place", NODES)
def test_a_verb_of_a_cluster_ends_in_a_line(clusters: Cases, stubs: Path, place: str) -> None:
    file, loaded = clusters[place]
    wrong = []
    for line in VERBS:
        words = line.replace("CLUSTER", str(file)).replace("NODE", NODES[place]).split()
        wrong.append(judged(words, *run(words, stubs, loaded)))
    assert not [one for one in wrong if one]


def test_a_verb_of_this_machine_ends_in_a_line(stubs: Path) -> None:
    wrong = [judged(line.split(), *run(line.split(), stubs)) for line in ALONE]
    assert not [one for one in wrong if one]


def test_the_line_says_what_does_not_answer(clusters: Cases, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    file, loaded = clusters["lab"]
    for how in (False, True):
        with engine(tmp_path / "bin") if how else nullcontext():
            code, said = run(["status", str(file)], tmp_path / "bin", loaded)
        assert (code, said) == (1, "the Docker engine does not answer; run: make host\n")
    code, said = run(["logs", str(clusters["site"][0])], tmp_path / "bin", clusters["site"][1])
    assert code == 1
    assert said.splitlines()[-1].startswith("no answer from controller: ssh: not on this machine; install it")


def test_a_traceback_would_be_seen(tmp_path: Path) -> None:
    assert judged(["x"], 1, "Traceback (most recent call last)")
    assert judged(["x"], 99, "a line")
    assert judged(["x"], 1, "")
