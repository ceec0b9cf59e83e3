"""The machines of a cluster as Pulumi left them, and commands on them by SSH.

build/<cluster>/machines.json holds the outputs of the last `up`: names, addresses, host keys; no secret.
"""

import io
import shlex
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.base import files, paths
from infra.base.errors import Failure
from infra.base.process import run
from infra.model.cluster import Cluster

FETCH_S = 600  # for what a job has written, without its checkpoints, over a slow line
SSH_FAILED = 255  # ssh(1): its own exit status when it could not run the command


@dataclass(frozen=True)
class Machine:
    """One entry of machines.json, as far as anyone asks for it."""

    name: str
    group: str
    parts: list[str]
    address: str
    host_key: str
    id: str
    hardware: str
    usd_per_hour: float | None
    watts: float

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Machine":
        return cls(**{name: entry[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Site:
    """The cluster of `cluster` on its machines."""

    cluster: Cluster
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", paths.build(self.cluster.name))

    @property
    def name(self) -> str:
        return self.cluster.name

    @property
    def file(self) -> Path:
        return self.folder / "machines.json"

    @property
    def login(self) -> str:
        return self.cluster.login[0]

    @property
    def controller(self) -> str:
        return self.cluster.spec.services.controller

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh" / "config"

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """machines, storage and bastion. Raises Failure when the cluster has never been up."""
        found = files.state(self.file)
        if found is None:
            raise Failure(
                f"cluster '{self.name}' has no machines; run: make cluster-up CLUSTER={self.cluster.file}"
            )
        return found

    @property
    def machines(self) -> list[Machine]:
        return [Machine.of(entry) for entry in self.outputs["machines"]]

    def ssh(self, host: str) -> list[str]:
        """The command that opens a connection to `host`; what it is to run there follows."""
        return ["ssh", "-F", str(self.ssh_config), host]

    def run(
        self,
        host: str,
        *words: str,
        user: str = "root",
        cwd: Path | None = None,
        timeout_s: float | None = 120,
        stdin: bytes | None = None,
    ) -> str:
        """What `words` print on `host`, run there as `user`. Raises Failure with the last line of error."""
        command = [*self.ssh(host), remote(words, user, cwd)]
        try:
            done = run(command, input=stdin or b"", capture_output=True, timeout_s=timeout_s)
        except Failure as failure:
            raise Failure(f"{words[0]} on {host}: {failure}") from None
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            what = f"ssh {host}" if done.returncode == SSH_FAILED else f"{words[0]} on {host}"
            raise Failure(f"{what} failed ({done.returncode}): {said[-1].strip() if said else 'no message'}")
        return str(done.stdout.decode(errors="replace")).rstrip("\n")

    @property
    def user(self) -> str:
        return self.cluster.user

    @property
    def workdir(self) -> Path:
        """Where the user's copy of the checkout is, on the shared disk."""
        return Path(self.cluster.spec.storage.path) / "home" / self.user / "slipway"

    def fetch(self, id: str) -> Path:
        """Copy what job `id` has written so far, checkpoints apart, to build/<cluster>/runs/<id>."""
        folder = self.folder / "runs" / id
        folder.mkdir(parents=True, exist_ok=True)
        there = self.workdir / "runs" / id
        script = f"cd {shlex.quote(str(there))} 2>/dev/null || exit 0; tar -c --exclude=checkpoint* ."
        command = [*self.ssh(self.login), remote(["sh", "-c", script], self.user, None)]
        done = run(command, capture_output=True, timeout_s=FETCH_S)
        if done.returncode == 0 and done.stdout:
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                archive.extractall(folder, filter="data")
        return folder


def remote(words: tuple[str, ...] | list[str], user: str, cwd: Path | str | None) -> str:
    """One shell line that runs `words` as `user` in `cwd`; sudo gives no shell and no terminal."""
    line = shlex.join(words)
    if cwd is not None:
        line = f"cd {shlex.quote(str(cwd))} && exec {line}"
    return shlex.join(["sudo", "-n", "-H", "-u", user, "--", "sh", "-c", line])
