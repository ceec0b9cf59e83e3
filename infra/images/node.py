"""The image `node`: `base` with the install half of the roles that also configure real machines."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.base import files
from infra.base.errors import Failure
from infra.base.once import only_one
from infra.base.paths import cache
from infra.base.process import logged
from infra.host import engine
from infra.images import box, buildenv


def sources(root: Path) -> list[Path]:
    names = ["image.yml", "ansible.cfg", "files", "plugins", *(f"roles/{role}" for role in ROLES)]
    return [*(root / "ansible" / name for name in names), *(root / "slurm" / name for name in NODE_FILES)]


ROLES = ("common", "munge", "slurm", "node_exporter", "stack")  # those that image.yml installs
# What sites edit and the role `slurm` copies into every node.
NODE_FILES = ("health_check.py", "prolog.sh", "epilog.sh")


def make(root: Path, base: str, inputs: str, tag: str, log: Path) -> None:
    """Build `node`, by the roles that also configure real machines."""
    with box.opened(base, f"node-{inputs}", log) as this:
        # apt does not wait for another that has the folder: a build of another checkout's node, say
        with only_one(str(this.archives)), _variables(this.name) as variables:
            _play(
                [
                    Path(sys.executable).with_name("ansible-playbook"),
                    *("--inventory", f"{this.name},"),
                    *("--extra-vars", f"@{variables}"),
                    "image.yml",
                ],
                root / "ansible",
                log,
            )
        this.commit(tag, [f"LABEL {engine.INPUTS}={inputs}", *box.BOOTS])


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
    try:
        files.put(file, json.dumps({"build_environment": buildenv.variables()}), 0o600)
        yield file
    finally:
        file.unlink(missing_ok=True)
