"""What is tested where, from the tests themselves: docs/what-is-tested-where.md is made of it.

A test file that runs something real, or stands in for it, says so at its top, in names of AREAS:

    TESTED = {"real": ["place docker", "Debian 13"], "mocks": ["place aws"]}

It is read, not imported. Write the page anew: .venv/bin/python -m tests.where
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from infra.base.paths import CHECKOUT

PAGE = CHECKOUT / "docs/what-is-tested-where.md"
COMMAND = ".venv/bin/python -m tests.where"

WAYS = {
    "real": "for real",
    "stand-in": "against a stand-in",
    "mocks": "under mocks",
    "text": "as text",
}
AREAS = {
    "place lab": "containers of this host, by Compose",
    "place docker": "machines of this host, by Pulumi and SSH",
    "place aws": "",
    "place gcp": "",
    "place metal": "given servers",
    "management controllers": "power and boot by Redfish",
    "PXE installation": "what answers a server that boots from the network",
    "Debian 13": "",
    "Debian 12": "",
    "Ubuntu 22.04 and 24.04": "the roles name packages that are called the same there",
    "cgroup v1": "tests run with what their host has, so far this one; Slurm fences nothing",
    "cgroup v2": "Slurm fences memory and devices",
    "x86_64": "",
    "aarch64": "GB200, Jetson",
    "NVIDIA GPU": "scheduling and binding by device files; nothing computes",
    "NVIDIA driver": "its packages, and the checks of its version",
    "AMD GPU": "",
    "TPU": "",
    "CUDA kernels and NCCL": "",
    "EFA, InfiniBand, RoCE": "interfaces and placement",
    "drift": "found, told and put right",
    "growing and shrinking": "with jobs running",
    "secrets": "shown nowhere",
    "training on one node": "DDP on two ranks, checkpoints",
    "training on two nodes": "torchrun, DDP, gloo",
    "Slurm with accounting": "",
    "SSH with known host keys": "",
    "firewall": "nftables",
    "shared disk: a volume": "",
    "shared disk: NFS": "the stand-in: exportfs, and a bind mount for the client",
    "shared disk: FSx, Filestore, Lustre": "",
    "Prometheus": "",
    "Kubernetes": "kind on this host; quotas, labels and taints as text for GPU clusters",
    "images and their locks": "",
}


@dataclass(frozen=True)
class File:
    """A test file: what its first line says, and what it declares; None when it declares nothing."""

    name: str  # tests/lab/test_up.py
    says: str
    tested: dict[str, list[str]] | None

    def mistakes(self) -> list[str]:
        """What is wrong with the declaration, a line each."""
        if self.tested is None:
            if self.name.startswith("tests/unit/"):
                return []
            return [
                f'{self.name}: no TESTED; write one, such as TESTED = {{"real": ["place lab"]}} (tests/where.py)'
            ]
        wrong = [
            f"{self.name}: TESTED: no way '{way}'; known: {', '.join(WAYS)}"
            for way in self.tested.keys() - WAYS
        ]
        named = [area for areas in self.tested.values() for area in areas]
        return wrong + [
            f"{self.name}: TESTED: no area '{area}'; known: tests/where.py"
            for area in named
            if area not in AREAS
        ]


def files(root: Path = CHECKOUT) -> list[File]:
    """Every test file, in order of their names."""
    found = sorted((root / "tests").glob("*/test_*.py"))
    return [read(path.relative_to(root).as_posix(), path.read_text()) for path in found]


def read(name: str, text: str) -> File:
    """A test file from its text. Raises ValueError when TESTED is no plain dictionary of lists of names."""
    tree = ast.parse(text)
    says = (ast.get_docstring(tree) or "").partition("\n")[0]
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(to, "id", "") == "TESTED" for to in node.targets):
            return File(name, says, {way: list(areas) for way, areas in ast.literal_eval(node.value).items()})
    return File(name, says, None)


def page(found: list[File]) -> str:
    """The page. Raises ValueError with every mistake in the declarations."""
    mistakes = [mistake for file in found for mistake in file.mistakes()]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    rows = [_row(area, note, found) for area, note in AREAS.items()]
    return "\n".join(
        [
            "# What is tested where",
            "",
            f"<!-- Made from the tests by: {COMMAND} -->",
            "",
            "Each test file declares what it runs, and this page is made of that: a change in the tests changes it."
            " *For real*: the thing itself, on the host that the tests run on. *Against a stand-in*: something that"
            " behaves like it, such as an emulator, or device files in place of GPUs. *Under mocks*: our program"
            " runs, and what it asks of the cloud is looked at; no cloud answers. *As text*: what is rendered is"
            " compared. What has no entry anywhere has not been tested at all.",
            "",
            f"| | {' | '.join(WAYS.values())} |",
            f"|---|{'---|' * len(WAYS)}",
            *rows,
            "",
            "## The test files",
            "",
            "Beside these, `tests/nodes/` holds the checks that `make verify` runs on every node of a cluster.",
            "",
            "| file | what it proves |",
            "|---|---|",
            *(f"| [{_short(file.name)}](../{file.name}) | {_cell(file.says)} |" for file in found),
            "",
        ]
    )


def _row(area: str, note: str, found: list[File]) -> str:
    ways = {
        way: [file.name for file in found if file.tested and area in file.tested.get(way, [])] for way in WAYS
    }
    cells = [" ".join(f"[{_short(name)}](../{name})" for name in names) for names in ways.values()]
    if not any(cells):
        cells[0] = "**not at all**"
    name = f"**{area}**: {note}" if note else f"**{area}**"
    return f"| {name} | {' | '.join(cells)} |"


def _short(name: str) -> str:
    """tests/lab/test_up.py as lab/up."""
    return name.removeprefix("tests/").replace("test_", "").removesuffix(".py")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    try:
        PAGE.write_text(page(files()))
    except ValueError as error:
        raise SystemExit(str(error)) from None
