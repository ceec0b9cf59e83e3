"""What rendering costs, beside the least that it could cost: writing the same bytes to the same disk."""

import tempfile
import time
from pathlib import Path
from typing import Any

from infra.base.paths import CHECKOUT
from infra.bench.figure import Figure, Result
from infra.model.load import load_cluster
from infra.render import render, write

NODES = 10_000
GOAL_S = 2.0
REPEATS = 3


def measure(nodes: int = NODES) -> Result:
    """Load, render and write a cluster of `nodes` machines."""
    with tempfile.TemporaryDirectory() as scratch:
        root = tree(Path(scratch), nodes)
        seconds, files = _best(lambda: _all(root, "even", root / "build/even"))
        scattered, odd = _best(lambda: _all(root, "scattered", root / "build/scattered"))
        plain, _ = _best(lambda: _plain(files, root / "plain"))
    size, odd_size = (sum(len(text) for text in each.values()) for each in (files, odd))
    return Result(
        "render",
        f"from the cluster file to {len(files)} files of {size / 1e3:.0f} kB on disk, in one process, best of"
        f" {REPEATS}; without ranges: only every second host name exists, so that no list gets short"
        f" ({odd_size / 1e3:.0f} kB)",
        [
            Figure(f"render of {nodes:,} nodes", seconds, "s", GOAL_S, "goal"),
            Figure(f"render of {nodes:,} nodes, names without ranges", scattered, "s", GOAL_S, "goal"),
            Figure("  plain write of the same bytes", plain, "s"),
        ],
    )


def _best(work: Any) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(REPEATS):
        begin = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - begin)
    return best, result


def _all(root: Path, name: str, folder: Path) -> dict[str, str]:
    files = render(load_cluster(f"clusters/{name}.yaml", root=root))
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()  # so that everything is written every time
    write(files, folder)
    return files


def _plain(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(scratch: Path, nodes: int = 0) -> Path:
    """A checkout with this one's machine types and stacks, and two clusters of `nodes` machines, if any."""
    (scratch / "clusters").mkdir(parents=True)
    (scratch / "hardware").symlink_to(CHECKOUT / "hardware")
    (scratch / "images").symlink_to(CHECKOUT / "images")
    if not nodes:
        return scratch
    names = ",".join(f"n{number}" for number in range(1, 2 * nodes, 2))
    for name, hosts in (("even", f"n[1-{nodes}]"), ("scattered", names)):
        (scratch / "clusters" / f"{name}.yaml").write_text(
            f"name: {name}\ndescription: {nodes} machines\nplace: metal\nschedulers: [slurm, kubernetes]\n"
            "services: {hardware: cpu-epyc-2s}\n"
            f'pools:\n  gpu: {{hardware: h100-sxm-8x, count: {nodes}, partition: gpu, nodes: "{hosts}"}}\n'
            "partitions:\n  gpu: {default: true}\n"
            "qos:\n  normal: {priority: 100}\n"
            "accounts:\n  research: {description: Model training, qos: [normal]}\n"
        )
    return scratch
