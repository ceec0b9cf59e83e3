"""From a resolved cluster to the files of other tools: pure, no clock, no network, no randomness.

`render` gives the text of every file by its path below build/<cluster>/; `write` puts them there.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from infra.base.errors import Failure

if TYPE_CHECKING:
    from infra.model.cluster import Cluster


def render(cluster: "Cluster") -> dict[str, str]:
    """Every file of `cluster`, by its path below build/<cluster>/."""
    from infra.render import ansible, compose, kubernetes, nodes, prometheus, slurm

    files = nodes.render(cluster) | ansible.render(cluster) | prometheus.render(cluster)
    if "slurm" in cluster.schedulers:
        files |= slurm.render(cluster)
    if "kubernetes" in cluster.schedulers:
        files |= kubernetes.render(cluster)
    if cluster.where.lab and "slurm" in cluster.schedulers:
        files |= compose.render(cluster)
    return dict(sorted(files.items()))


def write(files: dict[str, str], folder: Path) -> list[str]:
    """Make `folder` hold `files`: write what differs, remove what is no longer rendered; return what changed.

    A manifest of what was rendered decides what may go, so that files of other commands stay.
    """
    manifest = folder / ".rendered"
    try:
        before = manifest.read_text().split("\n")
    except FileNotFoundError:
        before = []
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"{manifest}: what was rendered before is noted there and cannot be read: {error}"
        ) from None
    changed = []
    for name, text in files.items():
        path = folder / name
        data = text.encode()
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            changed.append(name)
    for name in before:
        if name and name not in files and (folder / name).is_file():
            (folder / name).unlink()
            changed.append(name)
    listing = "\n".join(files)
    if before != listing.split("\n"):
        manifest.write_text(listing)
    return changed
