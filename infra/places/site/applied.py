"""What was last applied to the machines, so that a later difference can be told: drift, or a change of ours."""

import hashlib
import json
from dataclasses import dataclass

from infra.base.files import put, state
from infra.base.paths import CHECKOUT
from infra.places.site.site import Site
from infra.render import render


def wanted(site: Site) -> dict[str, str]:
    """Digest of every rendered file, and of the roles and programs that are copied to machines."""
    found = {name: _digest(text) for name, text in render(site.cluster).items()}
    for folder in ("ansible", "slurm"):
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                found[str(path.relative_to(CHECKOUT))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# What only the machines of the services have: the others fetch Slurm's configuration from the controller.
OF_SERVICES = ("slurm/", "prometheus/", "ansible/inventory.yaml")


@dataclass(frozen=True)
class Applied:
    """`files`: digests at the last complete run; `current`: whether they are those of today."""

    files: dict[str, str]
    current: bool

    @classmethod
    def load(cls, site: Site) -> "Applied":
        files = state(site.folder / "applied.json") or {}
        return cls(files, files == wanted(site))

    def only_for_services(self, site: Site) -> bool:
        """Whether all that has changed since concerns the machines of the services, as when a pool grows."""
        now = wanted(site)
        changed = {name for name in self.files | now if self.files.get(name) != now.get(name)}
        return bool(self.files) and all(name.startswith(OF_SERVICES) for name in changed)

    def differs(self, before: str) -> bool:
        """Whether a file's content on a machine is none that we ever applied last."""
        return bool(self.files) and _digest(before) not in self.files.values()


def save(site: Site) -> None:
    put(site.folder / "applied.json", json.dumps(wanted(site), indent=2) + "\n")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
