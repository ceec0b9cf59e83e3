"""Does a stack, as folder and as image, hold what its lock and its stack.yaml say? Red when it does not."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.process import run
from infra.host import engine
from infra.images import stackfolder
from infra.model import stacks
from infra.model.stacks import StackFile, read_stacks

PROBE = Path(__file__).with_name("probe.py")
RUN = ("docker", "run", "--rm", "--init", "--network", "none", "--volume", f"{PROBE}:/mnt/probe.py:ro")
FACTS = ("python", "torch", "cuda", "cudnn", "nccl")
SHOWN = 5  # damaged files named in a message


@dataclass(frozen=True)
class Verdict:
    """What one delivery of a stack is, and all that is wrong with it."""

    name: str
    versions: dict[str, str | None] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.wrong


def verify_folder(name: str, folder: Path, base: str, root: Path = CHECKOUT) -> Verdict:
    """Check the folder as nodes see it: mounted read-only in a container of the image `base`."""
    where = stacks.on_nodes(stacks.path(root, name))
    report = _probe(
        [*RUN, "--volume", f"{folder}:{where}:ro", base, f"{where}/bin/python", "-I", "/mnt/probe.py"]
    )
    verdict = _judge(name, name, report, root)
    return Verdict(verdict.name, verdict.versions, verdict.wrong + _marker(name, folder, root))


def verify_image(name: str, image: str, root: Path = CHECKOUT) -> Verdict:
    """Check the image of stack `name`."""
    where = stacks.on_nodes(stacks.path(root, name))
    report = _probe([*RUN, image, f"{where}/bin/python", "-I", "/mnt/probe.py"])
    return _judge(f"stack-{name}", name, report, root)


def verify_inputs(name: str, image: str, inputs: str) -> Verdict:
    """Check that an image of no stack (base, node) is the one that its tag names."""
    found = engine.inspect(image)["Config"]["Labels"].get(engine.INPUTS)
    wrong = [] if found == inputs else [f"label {engine.INPUTS} is {found}, its tag says {inputs}"]
    return Verdict(name, {}, wrong)


def _probe(command: list[str]) -> dict[str, Any]:
    done = run(command, capture_output=True, text=True)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Failure(f"the stack's Python does not run: {lines[-1] if lines else done.returncode}") from None
    return report


def _judge(label: str, name: str, report: dict[str, Any], root: Path) -> Verdict:
    facts = next(stack.file for stack in read_stacks(root) if stack.name == name)
    lock = stacks.lock(root, name).read_text()
    wrong = [
        *compare_lock(lock, report["distributions"], report["machine"]),
        *compare_files(report["damage"]),
    ]
    if "import_error" in report:
        wrong.append(f"import fails: {report['import_error']}")
        return Verdict(label, {}, wrong)
    wrong += compare_facts(facts, report["versions"], report["compute_capabilities"])
    return Verdict(label, report["versions"], wrong)


def compare_facts(facts: StackFile, found: Mapping[str, str | None], capabilities: list[str]) -> list[str]:
    """What the libraries report beside what stack.yaml states; `3.13` there means any 3.13.x."""
    wrong = []
    for key in FACTS:
        stated, reported = getattr(facts, key), found[key]
        if stated != reported and not (stated and reported and reported.startswith(f"{stated}.")):
            wrong.append(f"{key} is {reported}, stack.yaml says {stated}")
    if sorted(facts.compute_capabilities) != sorted(capabilities):
        stated, reported = ", ".join(facts.compute_capabilities), ", ".join(capabilities)
        wrong.append(f"kernels are for compute capability {reported}, stack.yaml says {stated}")
    return wrong


def compare_lock(lock: str, installed: dict[str, str], machine: str) -> list[str]:
    """What is installed beside what the lock names for this kind of machine."""
    locked = locked_versions(lock, machine)
    wrong = [
        f"{name} {version} is installed, the lock has {locked.get(name, 'none')}"
        for name, version in sorted(installed.items())
        if locked.get(name) != version
    ]
    return wrong + [f"{name} {locked[name]} is missing" for name in sorted(set(locked) - set(installed))]


def locked_versions(lock: str, machine: str) -> dict[str, str]:
    """The distributions that a lock installs on Linux machines of that architecture (x86_64, aarch64)."""
    environment = {
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "os_name": "posix",
        "python_version": "3.13",
        "python_full_version": "3.13.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found = {}
    for line in lock.splitlines():
        if "==" not in line or line.startswith((" ", "#")):
            continue
        requirement, _, marker = line.rstrip(" \\").partition(" ; ")
        if not marker or Marker(marker).evaluate(environment):
            name, _, version = requirement.partition("==")
            found[name] = version.strip()
    return found


def compare_files(damage: list[str]) -> list[str]:
    more = [f"and {len(damage) - SHOWN} files more"] if len(damage) > SHOWN else []
    return [*damage[:SHOWN], *more]


def _marker(name: str, folder: Path, root: Path) -> list[str]:
    """The folder's own word beside the lock, and its lists of files beside those of when it was built."""
    try:
        marker = json.loads((folder / stackfolder.MARKER).read_text())
    except (OSError, ValueError) as error:
        return [f"{stackfolder.MARKER}: {error}"]
    expected = {
        "stack": name,
        "lock": stacks.lock_hash(root, name),
        "records": stackfolder.records_digest(folder),
    }
    return [
        f"{stackfolder.MARKER}: {key} is {marker.get(key)}, expected {expected[key]}"
        for key in expected
        if marker.get(key) != expected[key]
    ]
