"""A checkout in a temporary folder: our machine types, a stack that never changes, clusters of the test."""

import shutil
from pathlib import Path
from typing import Any

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.model.host import Host

GOLDEN = CHECKOUT / "tests" / "golden"

# What rendered labs are scaled to in tests, so that they are the same on every machine.
LAPTOP = Host(
    cores=8,
    memory_mib=32_000,
    arch="x86_64",
    cgroup=2,
    mtu=1500,
    user="ada",
    uid=1001,
    gid=1001,
    energy=False,
    checkout=Path("/home/ada/slipway"),
    cache=Path("/home/ada/.cache/slipway"),
)


def checkout(folder: Path) -> Path:
    """`folder` with links to hardware/ and to the unchanging stacks, and an empty clusters/."""
    (folder / "hardware").symlink_to(CHECKOUT / "hardware")
    (folder / "images").symlink_to(GOLDEN / "images")
    (folder / "clusters").mkdir()
    return folder


def own_hardware(folder: Path) -> Path:
    """Turn the link to hardware/ into a folder with a link for each machine type, to which a test adds."""
    link = folder / "hardware"
    link.unlink()
    link.mkdir()
    for path in (CHECKOUT / "hardware").glob("*.yaml"):
        (link / path.name).symlink_to(path)
    return link


def small_cluster(**changes: Any) -> dict[str, Any]:
    """A right cluster file as data, with some of its top-level keys changed; None takes a key away."""
    data: dict[str, Any] = {
        "name": "small",
        "description": "one of each",
        "place": "metal",
        "schedulers": ["slurm"],
        "services": {"hardware": "cpu-epyc-2s"},
        "pools": {"gpu": {"hardware": "h100-sxm-8x", "count": 2, "partition": "gpu"}},
        "partitions": {"gpu": {"default": True}},
        "qos": {"normal": {"priority": 100}},
        "accounts": {"research": {"description": "Research", "qos": ["normal"]}},
        "users": {"ml": {"accounts": ["research"], "uid": 2000}},
    }
    return {key: value for key, value in (data | changes).items() if value is not None}


def second_checkout(folder: Path, file: Path) -> Path:
    """A second checkout of what is here now, in `folder`, with a cluster file that has the same name in it."""
    parts = ("infra", "clusters", "hardware", "images", "jobs", "k8s", "tests/nodes")
    for name in output(["git", "-C", CHECKOUT, "ls-files", "-z", *parts]).split("\0"):
        if name and (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
    shutil.copy(file, folder / "clusters" / file.name)
    return folder
