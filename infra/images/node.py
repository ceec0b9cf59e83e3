"""The image `node`: `base` with the install half of the roles that also configure real machines."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.base.errors import Failure
from infra.base.paths import cache
from infra.base.process import logged
from infra.host import engine
from infra.images import buildenv

RECIPE = Path(__file__).read_text()  # this module is an input of what it makes


def sources(root: Path) -> list[Path]:
    names = ["image.yml", "ansible.cfg", "files", "plugins", *(f"roles/{role}" for role in ROLES)]
    return [*(root / "ansible" / name for name in names), *(root / "slurm" / name for name in NODE_FILES)]


ROLES = ("common", "munge", "slurm", "node_exporter", "stack")  # those that image.yml installs
# What sites edit and the role `slurm` copies into every node.
NODE_FILES = ("health_check.py", "prolog.sh", "epilog.sh")

SETTINGS = (
    # systemd takes this as "halt"; it does not end on SIGTERM
    "STOPSIGNAL SIGRTMIN+3",
    "ENV container=docker LANG=C.UTF-8",
    'CMD ["/sbin/init"]',
)


def make(root: Path, base: str, inputs: str, tag: str, log: Path) -> None:
    """Build `node`. Packages come through a cache on this host, which does not stay in the image."""
    container = f"slipway-build-node-{inputs}"
    engine.remove_container(container)
    archives = cache() / "apt" / "node"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    try:
        logged(
            [
                *("docker", "run", "--detach", "--init", "--name", container),
                *("--volume", f"{buildenv.folder()}:{buildenv.MOUNT}:ro"),
                *("--volume", f"{archives}:/var/cache/apt/archives"),
                *(base, "sleep", "infinity"),
            ],
            log,
        )
        with _variables(container) as variables:
            _play(
                [
                    Path(sys.executable).with_name("ansible-playbook"),
                    *("--inventory", f"{container},"),
                    *("--extra-vars", f"@{variables}"),
                    "image.yml",
                ],
                root / "ansible",
                log,
            )
        settings = [f"LABEL {engine.INPUTS}={inputs}", *SETTINGS]
        changes = [word for setting in settings for word in ("--change", setting)]
        logged(["docker", "commit", *changes, container, tag], log)
    finally:
        engine.remove_container(container)


def _play(command: list[str | Path], folder: Path, log: Path) -> None:
    """Run Ansible; a failure is told by its first error, and not by its last line, which is a table."""
    env = {"ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    try:
        logged(command, log, env=env, cwd=folder)
    except Failure as failure:
        lines = log.read_text(errors="replace").splitlines()
        error = next((line for line in lines if line.startswith(("[ERROR]", "fatal:"))), str(failure))
        raise Failure(f"ansible-playbook: {error}\n  log: {log}") from None


@contextmanager
def _variables(container: str) -> Iterator[Path]:
    """Ansible's variables of this build: how to get out of it. A proxy's password may be in them, so they go."""
    file = cache() / "tmp" / f"{container}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    try:
        file.write_text(json.dumps({"build_environment": buildenv.variables()}))
        yield file
    finally:
        file.unlink()
