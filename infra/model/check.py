"""Checking files without rendering them: clusters and machine types, all mistakes of all files at once."""

from pathlib import Path

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model import stacks
from infra.model.load import load_cluster, read_profile

UNJUDGED = "Slurm's health check knows no accelerators of '{}': say why in not_applicable, or it is for Kubernetes only"


def check(files: list[Path] | None = None, root: Path = CHECKOUT) -> dict[str, str]:
    """What is right about each file, by its name; all of hardware/ and clusters/ when none is named.

    Raises Mistake with the mistakes of every file.
    """
    files = files or [*sorted(root.glob("hardware/*.yaml")), *sorted(root.glob("clusters/*.yaml"))]
    found: dict[str, str] = {}
    mistakes: list[str] = []
    for file in files:
        path = file if file.exists() else root / file
        try:
            found[_shown(path, root)] = _profile(path, root) if _is_hardware(path) else _cluster(path, root)
        except Mistake as mistake:
            mistakes += str(mistake).splitlines()
    if mistakes:
        raise Mistake("\n".join(dict.fromkeys(mistakes)))
    return found


def _is_hardware(path: Path) -> bool:
    return path.absolute().parent.name == "hardware"


def _shown(path: Path, root: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _profile(path: Path, root: Path) -> str:
    profile = read_profile(path.absolute(), root)
    if profile.accelerators and profile.accelerators.kind == "tpu":
        return "right; for Kubernetes only, where its jobs bring their own image"
    alone = (
        "" if profile.judged else f"; {UNJUDGED.format(profile.accelerators and profile.accelerators.vendor)}"
    )
    try:
        return f"stack {stacks.choose(profile, stacks.read_stacks(root), {profile.architecture}).name}{alone}"
    except ValueError as error:
        return f"right, but no software stack runs on it: {error}"


def _cluster(path: Path, root: Path) -> str:
    cluster = load_cluster(path.absolute(), root=root)
    return f"{len(cluster.nodes)} nodes in {len(cluster.pools)} pool{'s' * (len(cluster.pools) != 1)}"
