"""Programs that no distribution packages, built from their Go modules and kept in the user's cache.

programs/<name>/go.mod and go.sum say exactly what is built: every byte is checked against Go's checksum
database. A new version is a new number in go.mod (`go mod tidy` there writes go.sum); a new program is a
folder and an entry of PROGRAMS.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra import golang
from infra.errors import Failure
from infra.images import content_hash, only_one
from infra.paths import CHECKOUT, cache
from infra.progress import Step

FLAGS = ("-trimpath", "-buildvcs=false")
# Static: built on any host, runs in any image.
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


@dataclass(frozen=True)
class Program:
    """What is built from one go.mod: main packages, whose last words are the names of their files."""

    name: str
    packages: tuple[str, ...]
    module: str  # whose version in go.mod is the program's
    version_variable: str  # what the linker sets to that version

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(package.rsplit("/", 1)[-1] for package in self.packages)


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "pulumi",
            ("github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",),
            module="github.com/pulumi/pulumi/pkg/v3",
            version_variable="github.com/pulumi/pulumi/sdk/v3/go/common/version.Version",
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
    inputs = content_hash(
        root,
        [here / "go.mod", here / "go.sum"],
        *program.packages,
        program.version_variable,
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
    with only_one(str(final)):
        if not final.is_dir():
            _build(PROGRAMS[name], root, final, step)
    return final


def _build(program: Program, root: Path, final: Path, step: Step) -> None:
    here = source(program.name, root)
    go, environment = golang.ensure(golang.wanted(here / "go.mod"), step)
    part = final.with_name(f".{final.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    link = f"-s -w -X {program.version_variable}={version(program.name, root)}"
    command = [str(go), "build", "-v", *FLAGS, "-ldflags", link, "-o", f"{part}/", *program.packages]
    _run(command, here, os.environ | ENVIRONMENT | environment, program.name, step)
    missing = [name for name in program.files if not (part / name).is_file()]
    if missing:
        raise Failure(f"go build made no {', '.join(missing)}\n  log: {log(program.name)}")
    part.rename(final)


def _run(command: list[str], where: Path, environment: dict[str, str], name: str, step: Step) -> None:
    """`go build -v` with its count of packages as progress; it prints one line for each that it compiles."""
    downloaded = compiled = 0
    last = ""
    log(name).parent.mkdir(parents=True, exist_ok=True)
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


@contextmanager
def _started(command: list[str], where: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
