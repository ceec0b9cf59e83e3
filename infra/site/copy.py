"""The user's copy of the checkout on the shared disk, from which jobs run."""

import hashlib
import io
import tarfile
from pathlib import Path

from infra.paths import CHECKOUT
from infra.process import output
from infra.site.site import Site

NOT = ("build", "runs", "tests", "docs")  # of no use to a job


def files(checkout: Path = CHECKOUT) -> list[Path]:
    """What git has or would take, below `checkout`: jobs, stacks and everything that they read."""
    listed = output(
        ["git", "-C", checkout, "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    ).split("\0")
    paths = [Path(name) for name in listed if name]
    return [path for path in paths if path.parts[0] not in NOT and (checkout / path).is_file()]


def archive(checkout: Path = CHECKOUT) -> bytes:
    """The files as a tar archive, the same bytes for the same content; a commit's number goes with them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(files(checkout)):
            entry = tar.gettarinfo(checkout / path, arcname=str(path))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            if entry.isreg():
                with (checkout / path).open("rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return buffer.getvalue()


def push(site: Site) -> bool:
    """Make the user's copy equal to this checkout; whether it was not. Run folders there stay."""
    data = archive()
    digest = hashlib.sha256(data).hexdigest()
    mark = site.workdir / ".copied"
    script = f"cat {mark} 2>/dev/null || :"
    if site.run(site.login, "sh", "-c", script, user=site.user) == digest:
        return False
    old = " ".join(name for name in ("jobs", "images", "slurm", "hardware"))
    unpack = f"mkdir -p {site.workdir}/runs && cd {site.workdir} && rm -rf {old} && tar -x && echo {digest} >{mark}"
    site.run(site.login, "sh", "-c", unpack, user=site.user, stdin=data)
    return True
