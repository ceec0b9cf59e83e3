"""How old the Debian packages of an image are, and which have been replaced since: Debian's security updates.

An image that is built stays as it is, whatever its mirror gets. `images updates` asks the mirror, in a container of
the image; `images build --refresh` begins a new generation of `base`, and so of everything that is made from it.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.base import files
from infra.base.errors import Failure
from infra.base.paths import cache
from infra.base.process import run
from infra.host import engine
from infra.images import buildenv

ASK_S = 300  # for a mirror to send its lists
SCRIPT = "apt-get -qq update && apt-get -qq --simulate dist-upgrade"
# Inst libc6 [2.41-12] (2.41-12+deb13u1 Debian:13.2/stable, Debian-Security:13/stable-security [amd64])
LINE = re.compile(r"^Inst (\S+) \[([^]]+)\] \((\S+) ([^)]*)\)", re.MULTILINE)


@dataclass(frozen=True)
class Update:
    """A package of an image that its mirror has a newer one of."""

    package: str
    installed: str
    candidate: str
    security: bool

    def __str__(self) -> str:
        return f"{self.package} {self.installed} -> {self.candidate}"


@dataclass(frozen=True)
class Age:
    """What is known of an image's packages. `unknown` says why nothing is; it is then no good news."""

    name: str
    built: datetime
    updates: tuple[Update, ...] = ()
    unknown: str = ""

    @property
    def security(self) -> list[Update]:
        return [update for update in self.updates if update.security]

    def said(self, now: datetime) -> str:
        days = (now - self.built).days
        age = f"{self.name}: packages of {self.built:%Y-%m-%d}, {days} day{'' if days == 1 else 's'} old"
        if self.unknown:
            return f"{age}; what has been fixed since is not known: {self.unknown}"
        if not self.updates:
            return f"{age}; none has an update"
        others = len(self.updates) - len(self.security)
        return f"{age}; {len(self.security)} with security fixes, {others} with other updates"


def look(name: str, image: str) -> Age:
    """Ask the mirror of `image` what it has that is newer."""
    built = datetime.fromisoformat(str(engine.inspect(image)["Created"]))
    try:
        return Age(name, built, tuple(pending(image)))
    except Failure as failure:
        return Age(name, built, unknown=str(failure))


def pending(image: str) -> list[Update]:
    """The packages of `image` that its mirror has newer ones of. Raises Failure when it cannot be asked."""
    variables = buildenv.variables()
    done = run(
        [
            *("docker", "run", "--rm", "--init", "--user", "root", "--entrypoint", "sh"),
            *(word for variable in variables for word in ("--env", variable)),
            *("--volume", f"{buildenv.folder()}:{buildenv.MOUNT}:ro"),
            *(image, "-c", SCRIPT),
        ],
        env=variables,
        timeout_s=ASK_S,
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
    if done.returncode or any("Failed to fetch" in line for line in said):
        lines = said or done.stderr.strip().splitlines() or ["apt-get failed"]
        raise Failure(f"its mirror does not answer: {lines[0].strip()}")
    return parse(done.stdout)


def parse(text: str) -> list[Update]:
    """What `apt-get --simulate dist-upgrade` would exchange; what it would add anew is no update."""
    return [
        Update(package, installed, candidate, "security" in origins.lower())
        for package, installed, candidate, origins in LINE.findall(text)
    ]


# -- generations


def _file() -> Path:
    return cache() / "refreshed"


def generation() -> list[str]:
    """What `base` is made from beside its files: when its packages were last asked for anew; nothing if never."""
    try:
        return [f"refreshed {_file().read_text().strip()}"]
    except FileNotFoundError:
        return []


def refresh() -> str | None:
    """Begin a new generation; returns the one before, for `back`."""
    before = _file().read_text() if _file().is_file() else None
    _file().parent.mkdir(parents=True, exist_ok=True)
    files.put(_file(), datetime.now(UTC).isoformat(timespec="seconds") + "\n")
    return before


def back(before: str | None) -> None:
    """Return to the generation before: the new one could not be built."""
    if before is None:
        _file().unlink(missing_ok=True)
    else:
        files.put(_file(), before)
