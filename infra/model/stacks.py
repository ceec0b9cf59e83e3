"""Software stacks (`images/stacks/<name>/`): which machine types each one runs on, decided by facts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from infra.base.paths import CHECKOUT, cache
from infra.base.version import number
from infra.model import yamlfile
from infra.model.hardware import Architecture, Capability, Profile, Version


class StackFile(BaseModel):
    """`stack.yaml`: what the lock beside it contains and what that needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The folder's name")
    description: str = Field(description="One line for people")
    python: Version
    torch: Version
    cuda: Version | None = None
    cudnn: Version | None = None
    nccl: Version | None = None
    accelerator: Literal["nvidia", "amd", "none"] = Field(description="Vendor whose devices the stack drives")
    min_driver: Version | None = Field(default=None, description="Oldest driver that this CUDA runs on")
    compute_capabilities: list[Capability] = Field(
        default=[], description="What its kernels are compiled for"
    )
    architectures: list[Architecture]
    source: Annotated[str, Field(description="Where the driver and compute capabilities are stated")]


@dataclass(frozen=True)
class Stack:
    """A stack and the hash of its lock."""

    file: StackFile
    lock_hash: str

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def folder(self) -> str:
        """The name of its folder below /opt/stack: changes whenever the lock does."""
        return f"{self.name}-{self.lock_hash}"


def names(root: Path = CHECKOUT) -> list[str]:
    """Every stack that has a lock."""
    return sorted(path.parent.name for path in (root / "images/stacks").glob("*/requirements.lock"))


def lock(root: Path, name: str) -> Path:
    return root / "images/stacks" / name / "requirements.lock"


def lock_hash(root: Path, name: str) -> str:
    return hashlib.sha256(lock(root, name).read_bytes()).hexdigest()[:12]


def folder(root: Path, name: str) -> str:
    """The name of the folder that the stack's lock makes now."""
    return f"{name}-{lock_hash(root, name)}"


def path(root: Path, name: str) -> Path:
    """Where the folder is, or will be, on this host."""
    return cache() / "stacks" / folder(root, name)


def on_nodes(folder: Path) -> str:
    """Where the folder is on the nodes; its scripts have this path in their first line."""
    return f"/opt/stack/{folder.name}"


def read_stacks(root: Path) -> list[Stack]:
    """Every stack below `root`/images/stacks, newest torch first. Raises Mistake."""
    stacks = []
    for path in sorted(root.glob("images/stacks/*/stack.yaml")):
        document = yamlfile.read(path, root)
        file = yamlfile.validate(document, StackFile, document.data)
        if file and file.name != path.parent.name:
            document.wrong(("name",), f"'{file.name}' is not the folder's name; write '{path.parent.name}'")
        if not lock(root, path.parent.name).is_file():
            document.wrong((), "no requirements.lock beside it")
        document.check()
        assert file
        stacks.append(Stack(file, lock_hash(root, file.name)))
    return sorted(stacks, key=lambda stack: numbers(stack.file.torch), reverse=True)


def choose(profile: Profile, stacks: list[Stack], architectures: set[str]) -> Stack:
    """The newest stack that runs on machines of `profile`.

    `architectures`: what the stack must run on; in the lab also this machine's own.
    Raises ValueError with the reason why each stack does not fit.
    """
    reasons = []
    for stack in stacks:
        reason = misfit(stack.file, profile, architectures)
        if not reason:
            return stack
        reasons.append(f"{stack.name} {reason}")
    raise ValueError("; ".join(reasons) or "images/stacks is empty")


def misfit(stack: StackFile, profile: Profile, architectures: set[str]) -> str | None:
    """Why `stack` does not run on machines of `profile`; None when it does."""
    missing = architectures - set(stack.architectures)
    if missing:
        return f"is not built for {' and '.join(sorted(missing))}"
    gpus = profile.accelerators
    if gpus is None or gpus.kind == "fpga":
        return None  # the CUDA build of torch runs on a CPU as well: one lock for all
    if stack.accelerator != gpus.vendor:
        return f"drives {stack.accelerator} devices, not {gpus.vendor}"
    if stack.min_driver and (not gpus.driver or numbers(gpus.driver) < numbers(stack.min_driver)):
        return f"needs driver {stack.min_driver} or newer; theirs is {gpus.driver or 'not stated'}"
    if gpus.compute_capability and not _compiled(stack, gpus.compute_capability):
        have = ", ".join(stack.compute_capabilities)
        return f"has kernels for compute capability {have}, not {gpus.compute_capability}"
    return None


def _compiled(stack: StackFile, capability: str) -> bool:
    """A kernel runs on its own compute capability and on later minor ones of the same major.

    Source: CUDA C++ programming guide, "Binary compatibility".
    """
    major, minor = numbers(capability)
    built = [numbers(built) for built in stack.compute_capabilities]
    return any(major == at and minor >= least for at, least in built)


def numbers(version: str) -> tuple[int, ...]:
    """`580.65.06` as (580, 65, 6), so that versions compare as numbers."""
    return number(version).release
