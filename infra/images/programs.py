"""Programs that no distribution packages, built from their Go modules and kept in the user's cache.

programs/<name>/go.mod and go.sum say exactly what is built: every byte is checked against Go's checksum
database. A new version is a new number in go.mod (`go mod tidy` there writes go.sum); a new program is a
folder (`go mod init slipway/<name> && go get -tool <package>@<version>`) and an entry of PROGRAMS.
"""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.base.errors import Failure
from infra.base.once import content_hash, only_one
from infra.base.paths import CHECKOUT, cache
from infra.base.process import output, start
from infra.base.progress import Step
from infra.host import engine
from infra.images import golang

# Debug information is not linked (-s -w), so none is made: an eighth of the compiler's time.
FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
# Static: built on any host, runs in any image. GOGC: the compiler collects its garbage half as often, which saves
# another eighth for some hundred MiB.
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOGC": "200"}
GIB = 5.0  # on the disk of the caches, of which Kubernetes, the largest, fills most
UPSTREAM = "upstream"  # beside a program's files: folders of its module, such as manifests


@dataclass(frozen=True)
class Program:
    """What is built from one go.mod: main packages, whose last words are the names of their files."""

    name: str
    packages: tuple[str, ...]
    module: str  # whose version in go.mod is the program's
    # What the linker sets to that version; none where the source says it. `...Major` gets the first number of
    # it only, `...Minor` the second.
    version_variables: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()  # folders of the module that are wanted, too

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(package.rsplit("/", 1)[-1] for package in self.packages)


@dataclass(frozen=True)
class Took:
    """What a build of a program took."""

    seconds: float
    downloaded: int  # modules; none that another program or build had before
    compiled: int  # packages, likewise


KUBERNETES = ("kubelet", "kubeadm", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
# kubeadm compares versions with the kubelet's, servers announce theirs, clients name theirs as user agent.
KUBERNETES_VERSION = tuple(
    f"k8s.io/{package}.git{what}"
    for package in ("component-base/version", "client-go/pkg/version")
    for what in ("Version", "Major", "Minor")
)

PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "pulumi",
            ("github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",),
            module="github.com/pulumi/pulumi/pkg/v3",
            version_variables=("github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",),
        ),
        Program(
            "kubernetes",
            tuple(f"k8s.io/kubernetes/cmd/{name}" for name in (*KUBERNETES, "kube-proxy")),
            module="k8s.io/kubernetes",
            version_variables=KUBERNETES_VERSION,
        ),
        Program(
            "coredns",
            ("./coredns",),  # our own list of plugins
            module="github.com/coredns/coredns",
            version_variables=("github.com/coredns/coredns/coremain.gitTag",),
        ),
        Program(
            "training-operator",
            ("github.com/kubeflow/training-operator/cmd/training-operator.v1",),
            module="github.com/kubeflow/training-operator",
            upstream=("manifests/base", "manifests/overlays"),
        ),
        Program(
            "kueue",
            ("sigs.k8s.io/kueue/cmd/kueue",),
            module="sigs.k8s.io/kueue",
            version_variables=("sigs.k8s.io/kueue/pkg/version.GitVersion",),
            upstream=("config/components", "config/default"),
        ),
        Program("kind", ("sigs.k8s.io/kind",), module="sigs.k8s.io/kind"),
        Program(
            "kwok",
            ("sigs.k8s.io/kwok/cmd/kwok",),
            module="sigs.k8s.io/kwok",
            upstream=("kustomize",),
        ),
        Program(
            "local-path-provisioner",
            ("github.com/rancher/local-path-provisioner",),
            module="github.com/rancher/local-path-provisioner",
            version_variables=("main.VERSION",),
        ),
    )
}


def source(name: str, root: Path = CHECKOUT) -> Path:
    return root / "programs" / name


def version(name: str, root: Path = CHECKOUT) -> str:
    """`v3.250.0`, as go.mod requires it."""
    module = PROGRAMS[name].module
    go_mod = source(name, root) / "go.mod"
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise Failure(f"{go_mod}: does not require {module}")
    return found[1]


def folder(name: str, root: Path = CHECKOUT) -> Path:
    """Where the program is, or will be: named by everything that it is built from."""
    program, here = PROGRAMS[name], source(name, root)
    own = [here / package for package in program.packages if package.startswith("./")]
    inputs = content_hash(
        root,
        [here / "go.mod", here / "go.sum", *own],
        *program.packages,
        *program.version_variables,
        *program.upstream,
        *FLAGS,
        *(f"{key}={value}" for key, value in ENVIRONMENT.items()),
        os.uname().machine,
    )
    return cache() / "programs" / f"{name}-{inputs}"


def log(name: str) -> Path:
    return cache() / "logs" / f"program-{name}.log"


def ensure(name: str, step: Step, root: Path = CHECKOUT) -> Path:
    """The folder with the program's files, built when it is not there. Raises Failure with the log's path.

    What an interrupted build has compiled is used by the next: Go keeps it.
    """
    final = folder(name, root)
    if final.is_dir():
        return final
    step.doing(f"building {name}, or waiting for the command that does")
    with only_one(str(final)):
        if not final.is_dir():
            _build(PROGRAMS[name], root, final, step)
    return final


def ensure_all(names: Sequence[str], step: Step, root: Path = CHECKOUT) -> dict[str, Path]:
    """`ensure` of each, one after another: one build uses every core."""
    return {name: ensure(name, step, root) for name in names}


class Background:
    """`ensure_all` in a thread, for the time in which a command waits for the network or a disk."""

    def __init__(self, names: Sequence[str], root: Path = CHECKOUT) -> None:
        self._step = Step("programs", None)
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._build, args=(names, root), daemon=True)
        self._thread.start()

    def _build(self, names: Sequence[str], root: Path) -> None:
        try:
            ensure_all(names, self._step, root)
        except Exception as failure:  # told by `wait`, in the thread that asks
            self._failure = failure

    def wait(self, step: Step) -> None:
        """Until all are there, with their progress as `step`'s. Raises what building raised."""
        while self._thread.is_alive():
            step.doing(self._step.text)
            self._thread.join(timeout=0.2)
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """End what runs. What it has compiled, Go keeps."""
        process = _compiling.get(self._thread.ident)
        if process:
            process.terminate()
            self._thread.join()  # the build failed, and no other begins


@contextmanager
def in_background(names: Sequence[str], root: Path = CHECKOUT) -> Iterator[Background]:
    """Build `names` while the block works, which calls `wait` before it uses the first of them.

    A block that ends before, by an error or Ctrl-C, ends the build.
    """
    background = Background(names, root)
    try:
        yield background
    finally:
        background.stop()


def compile_anew(name: str, into: Path, step: Step) -> None:
    """Compile the program into the folder `into` as on a machine where nothing was ever compiled, for its time."""
    empty = into / "cache"
    empty.mkdir(parents=True)
    _compile(PROGRAMS[name], CHECKOUT, into, step, GOCACHE=str(empty))


def took(name: str) -> Took | None:
    """What the last build of the program took; None when there is no record of one."""
    try:
        said = log(name).read_text()
    except FileNotFoundError:
        return None
    found = re.search(
        r"^# took ([\d.]+) s: (\d+) modules downloaded, (\d+) packages compiled$", said, re.MULTILINE
    )
    return Took(float(found[1]), int(found[2]), int(found[3])) if found else None


def _build(program: Program, root: Path, final: Path, step: Step) -> None:
    engine.need_disk(cache(), GIB, f"building {program.name}")
    part = final.with_name(f".{final.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    go, environment = _compile(program, root, part, step)
    if program.upstream:
        where = output(
            [go, "list", "-m", "-f", "{{.Dir}}", program.module],
            cwd=source(program.name, root),
            env=environment,
            timeout_s=None,  # it may have to fetch the module
        )
        for name in program.upstream:
            _copy(Path(where) / name, part / UPSTREAM / name)
    part.rename(final)


def _compile(program: Program, root: Path, into: Path, step: Step, **own: str) -> tuple[Path, dict[str, str]]:
    """The program's files into a folder; returns the go command and the environment that made them."""
    here = source(program.name, root)
    go, environment = golang.ensure(golang.wanted(here / "go.mod"), step)
    environment = ENVIRONMENT | environment | own
    number = version(program.name, root)
    link = " ".join(["-s -w", *(f"-X {name}={_of(name, number)}" for name in program.version_variables)])
    command = [str(go), "build", "-v", *FLAGS, "-ldflags", link, "-o", f"{into}/", *program.packages]
    _run(command, here, environment, program.name, step)
    missing = [name for name in program.files if not (into / name).is_file()]
    if missing:
        raise Failure(f"go build made no {', '.join(missing)}\n  log: {log(program.name)}")
    return go, environment


def _of(variable: str, version: str) -> str:
    major, minor, *_ = version.removeprefix("v").split(".")
    if variable.endswith("Major"):
        return major
    return minor if variable.endswith("Minor") else version


def _copy(source: Path, target: Path) -> None:
    # Without the modes of Go's module cache, which nothing may be removed from.
    for file in sorted(source.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


_compiling: dict[int | None, subprocess.Popen[str]] = {}  # by thread


def _run(command: list[str], where: Path, environment: dict[str, str], name: str, step: Step) -> None:
    """`go build -v` with its count of packages as progress; it prints one line for each that it compiles."""
    downloaded = compiled = 0
    last = ""
    log(name).parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with log(name).open("w") as file, _started(command, where, environment) as process:
        assert process.stdout
        file.write(f"$ {' '.join(command)}\n")
        for line in process.stdout:
            file.write(line)
            file.flush()
            last = line.strip() or last
            if line.startswith("go: downloading"):
                downloaded += 1
                step.doing(f"building {name}: {downloaded} modules downloaded")
            else:
                compiled += 1
                step.doing(f"building {name}: {compiled} packages compiled (a minute or a few, only once)")
    if process.returncode:
        raise Failure(f"{name} could not be built ({process.returncode}): {last}\n  log: {log(name)}")
    with log(name).open("a") as file:  # `python -m infra bench programs` reads it
        seconds = time.monotonic() - begin
        file.write(f"# took {seconds:.1f} s: {downloaded} modules downloaded, {compiled} packages compiled\n")


@contextmanager
def _started(command: list[str], where: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = start(
        command,
        env=environment,
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _compiling[threading.get_ident()] = process
    try:
        yield process
        process.wait()
    finally:
        del _compiling[threading.get_ident()]
        if process.poll() is None:
            process.terminate()
            process.wait()
