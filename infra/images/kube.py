"""Component images: what the pods of a cluster's own services run, as one archive to be imported by containerd.

Each is the layers of `base`, and one or two more: a program that we built, or the files of a Debian package. The
archive is written here, layer by layer, and not by the Docker engine, which would have to commit and keep twenty
images that only containerd runs. A program is the same bytes in it as in the user's cache.

    base ──┬── kube-apiserver, coredns, kueue, ...    one program of ours
           ├── etcd, prometheus                       the files of one Debian package
           └── kube-net ── kube-proxy, tools          nftables, iptables, iproute2, then one program
    (nothing) ── pause                                catatonit, a static init
"""

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.base.errors import Failure
from infra.base.process import start
from infra.host import engine
from infra.images import base as image_base
from infra.images import box, golang, programs
from infra.model.cluster import REGISTRY
from infra.model.host import read_host

PROGRAMS = ("kubernetes", "coredns", "training-operator", "kueue", "local-path-provisioner")
PAUSE = "3.10.1"  # the version that kubeadm of this Kubernetes names; ours does what its pause does
ETCD = "3.5.16"  # kubeadm chooses etcd's arguments by it; Debian 13's is this or a later 3.5
NOBODY = 65532  # as in upstream's images; `restricted` namespaces ask for a number that is not 0
SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Component:
    """An image of the cluster's own services. Its layers: `below`, then `program` or `deb`."""

    name: str
    below: str | None = "base"  # an image of ours, or None for an empty root
    program: tuple[str, str] | None = None  # name in PROGRAMS, file
    deb: str | None = None  # Debian package
    version: str = ""  # of the tag; else the program's
    entrypoint: tuple[str, ...] = ()  # else the program
    command: tuple[str, ...] = ()  # instead of an entrypoint: what a pod's `args` replace
    user: int = NOBODY  # 0 where the pod reads root's keys or changes the node's network


def _kubernetes(name: str, below: str = "base") -> Component:
    return Component(name, below, ("kubernetes", name), user=0)


COMPONENTS = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kube-proxy", "kube-net"),
    Component("tools", "kube-net", ("kubernetes", "kubectl"), command=("bash",), user=0),
    Component("etcd", deb="etcd-server", version=ETCD, entrypoint=("/usr/bin/etcd",), user=0),
    Component("pause", None, deb="catatonit", version=PAUSE, entrypoint=("/usr/bin/catatonit", "-P")),
    Component("coredns", program=("coredns", "coredns")),
    Component("training-operator", program=("training-operator", "training-operator.v1")),
    Component("kueue", program=("kueue", "kueue")),
    Component("local-path-provisioner", program=("local-path-provisioner", "local-path-provisioner")),
    Component("prometheus", deb="prometheus", version="debian", entrypoint=("/usr/bin/prometheus",)),
    Component("job", version="base", command=("bash",), user=1000),
)


@dataclass(frozen=True)
class Layer:
    """A part of an image's file system, as a tar that is not compressed."""

    tar: Path
    digest: str  # SHA-256, which is also what containerd calls it by


def sources(root: Path) -> list[Path]:
    return [root / "images/kube"]


def make_net(root: Path, base: str, inputs: str, tag: str, log: Path) -> None:
    """Build `kube-net`, the image below those that change a node's network."""
    with box.opened(base, f"kube-net-{inputs}", log) as this:
        this.install(image_base.lines(root / "images/kube/packages"))
        this.script(root / "images/kube/finish")
        this.commit(tag, [f"LABEL {engine.INPUTS}={inputs}", 'CMD ["bash"]'])


def unpack(this: box.Box, root: Path, where: str) -> None:
    """Fetch the packages of images/kube/debs into folder `where` of a build container, each also as a tar."""
    packages = image_base.lines(root / "images/kube/debs")
    script = (
        'cd "$0"; apt-get download --quiet "$@"; for i; do dpkg-deb --fsys-tarfile "$i"_*.deb >"$i.tar"; done'
    )
    this.run("bash", "-ec", script, where, *packages)


def references(root: Path) -> dict[str, str]:
    """Component -> the name that pods call its image by, `slipway.local/coredns:v1.14.5`."""
    return {one.name: f"{REGISTRY}/{one.name}:{_version(one, root)}" for one in COMPONENTS}


def _version(component: Component, root: Path) -> str:
    if component.version:
        return component.version
    assert component.program
    return programs.version(component.program[0], root)


def write(archive: Path, root: Path, images: dict[str, str], debs: Path, work: Path) -> None:
    """Write all component images to `archive`.

    `images`: tags of `base` and `kube-net`; `debs`: a folder with what `unpack` left; `work`: a folder for
    layers, 1 GB. The programs must be built. Raises Failure for a layer that no node image can hold.
    """
    below = {name: _saved(tag, work / name) for name, tag in images.items()}
    _check_etcd(debs)
    called = references(root)
    manifest = []
    layers: dict[str, Path] = {}
    for component in COMPONENTS:
        stack = [*(below[component.below] if component.below else []), *_own(component, root, debs, work)]
        layers |= {layer.digest: layer.tar for layer in stack}
        config = _config(component, stack)
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        (work / name).write_bytes(config)
        manifest.append((name, called[component.name], [layer.digest for layer in stack]))
    _pack(archive, work, manifest, layers)


def _pack(
    archive: Path, work: Path, manifest: list[tuple[str, str, list[str]]], layers: dict[str, Path]
) -> None:
    """The format of `docker save`, which containerd imports."""
    described = [
        {"Config": name, "RepoTags": [reference], "Layers": [f"{digest}.tar" for digest in digests]}
        for name, reference, digests in manifest
    ]
    (work / "manifest.json").write_text(json.dumps(described))
    with tarfile.open(archive, "w") as tar:
        for digest, layer in layers.items():
            tar.add(layer, f"{digest}.tar")
        for name, _, _ in manifest:
            tar.add(work / name, name)
        tar.add(work / "manifest.json", "manifest.json")


def _saved(tag: str, where: Path) -> list[Layer]:
    """The layers of an image that the Docker engine has."""
    where.mkdir()
    save = start(["docker", "save", tag], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=save.stdout, mode="r|") as tar:
        tar.extractall(where, filter="data")
    if save.wait():
        raise Failure(f"docker save {tag} failed ({save.returncode})")
    described = json.loads((where / "manifest.json").read_text())[0]
    found: set[str] = set()
    for name in described["Layers"]:
        found |= _without_marks(where / name, found)
    return [_layer(where / name) for name in described["Layers"]]


OPAQUE, DELETED = ".wh..wh..opq", ".wh."


def _without_marks(layer: Path, below: set[str]) -> set[str]:
    """Drop the marks that a folder hides that of a layer below, where there is none; names of all files.

    To unpack such marks overlayfs needs devices and attributes that cannot be made on an overlayfs, which the
    root of every build container is. Raises Failure for marks that mean something.
    """
    clean = layer.with_name(f"{layer.name}.clean")
    with tarfile.open(layer) as old, tarfile.open(clean, "w") as new:
        entries = old.getmembers()
        for entry in entries:
            folder, _, name = entry.name.rpartition("/")
            if name == OPAQUE and folder not in below:
                continue
            if name.startswith(DELETED):
                raise Failure(
                    f"layer {layer.name} deletes {entry.name} of one below, which no node image can hold"
                )
            new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
    clean.replace(layer)
    return {entry.name for entry in entries}


def _own(component: Component, root: Path, debs: Path, work: Path) -> Iterator[Layer]:
    if component.program:
        program, file = component.program
        tar = work / f"{component.name}.tar"
        with tarfile.open(tar, "w") as out:
            entry = out.gettarinfo(programs.folder(program, root) / file, f"usr/local/bin/{file}")
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = "root"
            entry.mode = 0o755
            with (programs.folder(program, root) / file).open("rb") as content:
                out.addfile(entry, content)
        yield _layer(tar)
    if component.deb:
        yield _layer(debs / f"{component.deb}.tar")


def _layer(tar: Path) -> Layer:
    with tar.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Layer(tar, digest)


def _check_etcd(debs: Path) -> None:
    found = next(debs.glob("etcd-server_*.deb")).name.split("_")[1]  # 3.5.16-4
    if found.split(".")[:2] != ETCD.split(".")[:2]:
        raise Failure(
            f"Debian has etcd {found}, infra/images/kube.py says {ETCD}: kubeadm would start it wrongly"
        )


def _config(component: Component, layers: Sequence[Layer]) -> bytes:
    entrypoint = component.entrypoint
    if component.program and not component.command:
        entrypoint = (f"/usr/local/bin/{component.program[1]}",)
    config = {
        "architecture": golang.ARCHITECTURES[read_host().arch],
        "os": "linux",
        "config": {
            "User": str(component.user),
            "Env": [SEARCH_PATH, "LANG=C.UTF-8"],
            "Entrypoint": list(entrypoint) or None,
            "Cmd": list(component.command) or None,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
    }
    return json.dumps(config).encode()
