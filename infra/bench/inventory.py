"""What 10,000 machines cost before the first of them is asked anything: Ansible's inventory, and Pulumi's program.

The second runs under Pulumi's mocks (infra/provision/graph.py): it is the time of our program and of Pulumi's SDK,
without the engine, the provider and the cloud.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.process import run
from infra.bench.figure import Figure, Result
from infra.bench.render import NODES, tree
from infra.model.load import load_cluster
from infra.render import render, write

FEW = 10  # nodes of the inventory that shows what Ansible costs by itself
PREVIEWED = 1_000
PART = 100  # nodes of the preview that shows whether time grows faster than the cluster


def inventory(nodes: int = NODES) -> Result:
    """Ansible's reading of what is rendered, beside its own start and a plain parse of the same files."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {count: _rendered(Path(scratch) / str(count), count) for count in (FEW, nodes)}
        few, _ = _time(lambda: _ansible("ansible", folders[FEW], "--list-hosts", "n1"))
        read, _ = _time(lambda: _ansible("ansible", folders[nodes], "--list-hosts", f"n{nodes}"))
        listed, _ = _time(lambda: _ansible("ansible-inventory", folders[nodes], "--list"))
        parsed, size = _time(lambda: _parse(folders[nodes]))
    return Result(
        "inventory",
        "Ansible on the rendered inventory, each once: read: `ansible --list-hosts` for one machine, which every"
        f" playbook does first; the limit: the same with {FEW} machines, which is Ansible's own start; listed:"
        " `ansible-inventory --list`, which prints every machine with all of its variables, and no verb of ours"
        f" does; the plain parse: PyYAML, of the {size:,} bytes that inventory and variables have as ranges and"
        " groups",
        [
            Figure(f"inventory of {nodes:,} nodes, read by Ansible", read, "s", few, f"{FEW} nodes"),
            Figure("  plain YAML parse of the same inventory", parsed, "s"),
            Figure(f"inventory of {nodes:,} nodes, listed by Ansible", listed, "s"),
        ],
    )


def preview(nodes: int = PREVIEWED) -> Result:
    """The resource graph of a cluster on AWS under Pulumi's mocks."""
    graph = _graph()
    with tempfile.TemporaryDirectory() as scratch:
        part, _ = _time(lambda: graph(_aws(Path(scratch) / "part", PART)))
        whole, found = _time(lambda: graph(_aws(Path(scratch) / "whole", nodes)))
    return Result(
        "preview",
        f"clusters/aws.yaml with {nodes:,} nodes, from the file to its {len(found):,} resources under Pulumi's"
        " mocks, in one process, once; no engine, no cloud; the limit: so many times a cluster of"
        f" {PART} nodes, reached when time grows no faster than the cluster",
        [
            Figure(
                f"preview of {nodes:,} nodes on AWS, under mocks",
                whole,
                "s",
                part * nodes / PART,
                f"{nodes // PART} x {PART} nodes",
            ),
            Figure("  of it for each resource", whole / len(found) * 1e3, "ms"),
        ],
    )


def _graph() -> Callable[[Any], list[Any]]:
    try:
        import pulumi
        import pulumi_aws
    except ModuleNotFoundError:
        raise Failure("Pulumi's SDK is not in .venv; run: infra/bootstrap --provision") from None
    from infra.provision.graph import graph

    assert pulumi and pulumi_aws  # loading them is not part of what is timed
    return graph


def _aws(root: Path, nodes: int) -> Any:
    """clusters/aws.yaml with `nodes` nodes, and a network that has room for them."""
    tree(root)
    text = (CHECKOUT / "clusters/aws.yaml").read_text()
    for old, new in (("count: 2", f"count: {nodes}"), ("10.77.0.0/24", "10.64.0.0/16")):
        assert text.count(old) == 1, f"clusters/aws.yaml has '{old}' once"
        text = text.replace(old, new)
    (root / "clusters/aws.yaml").write_text(text)
    return load_cluster("clusters/aws.yaml", root=root)


def _rendered(root: Path, nodes: int) -> Path:
    """The folder of a rendered inventory of `nodes` machines."""
    tree(root, nodes)
    write(render(load_cluster("clusters/even.yaml", root=root)), root / "build/even")
    return root / "build/even/ansible"


def _ansible(program: str, folder: Path, *words: str) -> None:
    """Run one of Ansible's programs on the inventory in `folder`. Raises Failure with its last line."""
    command = [
        str(Path(sys.executable).with_name(program)),
        *("--inventory", str(folder / "inventory.yaml"), *words),
    ]
    env = {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible/ansible.cfg")}
    done = run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Failure(f"{program} failed ({done.returncode}): {said[-1] if said else ''}")


def _parse(folder: Path) -> int:
    """Parse every file of the inventory; returns their bytes."""
    import yaml  # type: ignore[import-untyped]

    texts = [path.read_text() for path in sorted(folder.rglob("*.yaml"))]
    for text in texts:
        yaml.safe_load(text)
    return sum(len(text) for text in texts)


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result
