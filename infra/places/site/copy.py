"""The user's copy of the checkout on the shared disk, from which jobs run."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.places.site.site import Site

NOT = ("build", "runs", "tests", "docs")  # of no use to a job


def files(checkout: Path = CHECKOUT) -> list[Path]:
    """Jobs, stacks and everything that they read, below `checkout`.

    What git has or would take; of a checkout that is no repository of its own, such as an unpacked archive,
    everything but what is hidden or compiled.
    """
    paths = _known_to_git(checkout) if (checkout / ".git").exists() else _found(checkout)
    return [path for path in paths if path.parts[0] not in NOT and (checkout / path).is_file()]


def _known_to_git(checkout: Path) -> list[Path]:
    words: list[str | Path] = [
        "git",
        "-C",
        checkout,
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
    ]
    return [Path(name) for name in output(words).split("\0") if name]


def _found(checkout: Path) -> list[Path]:
    paths: list[Path] = []
    for place, folders, names in os.walk(checkout):
        here = Path(place).relative_to(checkout)
        left_out: tuple[str, ...] = NOT if here == Path() else ()
        folders[:] = [
            name for name in folders if not name.startswith((".", "__pycache__")) and name not in left_out
        ]
        paths += [here / name for name in names if not name.startswith(".")]
    return paths


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
