"""The image `kind-node`: a machine of a kind cluster, with the images of everything that the cluster runs in it.

systemd, containerd and Debian's CNI plugins, kubelet, kubeadm and kubectl from programs/kubernetes. What kind
expects of a node beyond that is in images/kind/root.
"""

import tempfile
from pathlib import Path

from infra.base.paths import cache
from infra.host import engine
from infra.images import base, box, kube, programs

FIRST = "/usr/libexec/slipway/kind-entrypoint"
VERSION = "kind/version"  # where kind reads which Kubernetes this is


def sources(root: Path) -> list[Path]:
    return [root / "images/kind", *kube.sources(root)]


def make(root: Path, images: dict[str, str], inputs: str, tag: str, log: Path) -> None:
    """Build `kind-node` as `tag`; `images` are the tags of `base` and `kube-net`. The programs must be there."""
    folder = root / "images/kind"
    kubernetes = programs.folder("kubernetes", root)
    (cache() / "tmp").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache() / "tmp") as name:
        work = Path(name)
        # As --mount: a --volume without a source would become one of the image.
        volumes = ("--volume", f"{work}:/media", "--mount", "type=volume,target=/srv")
        # Privileged: containerd mounts each layer to unpack the next on it.
        with box.opened(images["base"], f"kind-node-{inputs}", log, "--privileged", *volumes) as this:
            this.install(base.lines(folder / "packages"))
            kube.unpack(this, root, "/media")
            kube.write(work / "images.tar", root, images, work, work)
            this.copy(_files(root, work), "/")
            for program in ("kubelet", "kubeadm", "kubectl"):
                this.copy(kubernetes / program, f"/usr/bin/{program}")
            this.script(folder / "preload")
            this.script(folder / "finish")
            # A command and no entrypoint, so that other programs can be run in the image, too.
            settings = [*box.BOOTS[:-1], f'CMD ["{FIRST}"]']
            this.commit(tag, [f"LABEL {engine.INPUTS}={inputs}", *settings])


def _files(root: Path, work: Path) -> Path:
    """images/kind/root with the names of component images in place of @COMPONENT@."""
    files = work / "root"
    for source in sorted((root / "images/kind/root").rglob("*")):
        if source.is_file():
            copy = files / source.relative_to(root / "images/kind/root")
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text()
            for component, reference in kube.references(root).items():
                text = text.replace(f"@{component.upper()}@", reference)
            copy.write_text(text)
            copy.chmod(source.stat().st_mode & 0o777)
    version = files / VERSION
    version.parent.mkdir(parents=True, exist_ok=True)
    version.write_text(programs.version("kubernetes", root) + "\n")
    return files
