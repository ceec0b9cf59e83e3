"""A container in which an image is made: packages are installed, files copied, and the result committed."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.base.once import only_one
from infra.base.paths import cache
from infra.base.process import logged
from infra.host import engine
from infra.images import buildenv

# Of an image whose containers boot: systemd is their first process
BOOTS = (
    # systemd takes this as "halt"; it does not end on SIGTERM
    "STOPSIGNAL SIGRTMIN+3",
    "ENV container=docker LANG=C.UTF-8",
    'CMD ["/sbin/init"]',
)


@dataclass(frozen=True)
class Box:
    """A running build container; everything that is done in it goes to `log`."""

    name: str
    log: Path
    archives: Path  # packages that were fetched before

    def run(self, *command: str | Path, stdin: int = subprocess.DEVNULL) -> None:
        """Run `command` in it, with what it needs to get out from it. Raises Failure with its last line."""
        environment = buildenv.variables()
        # By name: their values (a proxy's password may be among them) are not written to the log.
        names = [word for name in environment for word in ("--env", name)]
        words = ["docker", "exec", "--interactive", *names, self.name, *command]
        logged(words, self.log, env=environment, stdin=stdin)

    def script(self, file: Path) -> None:
        """Run a script of bash that need not be in the image."""
        with file.open() as text:
            self.run("bash", "-s", stdin=text.fileno())

    def install(self, packages: Sequence[str]) -> None:
        """Debian packages, without those that are only recommended."""
        self.run("apt-get", "update", "--quiet")
        with only_one(str(self.archives)):  # apt does not wait for another that has the folder
            self.run("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages)

    def copy(self, source: Path, target: str) -> None:
        """A file, or with `/.` at the end of `target` the content of a folder."""
        what = f"{source}/." if source.is_dir() else str(source)
        logged(["docker", "cp", what, f"{self.name}:{target}"], self.log)

    def commit(self, tag: str, settings: Sequence[str]) -> None:
        changes = [word for setting in settings for word in ("--change", setting)]
        logged(["docker", "commit", *changes, self.name, tag], self.log)


@contextmanager
def opened(parent: str, name: str, log: Path, *options: str) -> Iterator[Box]:
    """A build container of image `parent`, removed at the end of the block; `options` are docker run's.

    Packages come through a cache on this host, which does not stay in the image.
    """
    container = f"slipway-build-{name}"
    archives = cache() / "apt" / name.rsplit("-", 1)[0]
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    engine.remove_container(container)
    try:
        logged(
            [
                *("docker", "run", "--detach", "--init", "--name", container),
                *("--volume", f"{buildenv.folder()}:{buildenv.MOUNT}:ro"),
                *("--volume", f"{archives}:/var/cache/apt/archives"),
                *(*options, parent, "sleep", "infinity"),
            ],
            log,
        )
        yield Box(container, log, archives)
    finally:
        engine.remove_container(container)
