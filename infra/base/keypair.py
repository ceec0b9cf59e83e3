"""Key pairs for SSH."""

from pathlib import Path

from infra.base.process import output


def ensure(key: Path, comment: str) -> str:
    """Make an ed25519 pair, `key` and `key`.pub, where one of the two is missing; the public half, a line.

    Its folder is for the owner's eyes only.
    """
    public = key.with_suffix(".pub")
    key.parent.mkdir(parents=True, exist_ok=True)
    key.parent.chmod(0o700)
    if not key.is_file() or not public.is_file():
        # A run that was cut short between the two leaves a key that nobody knows; made beside, then moved.
        part = key.with_name(f".{key.name}.part")
        for each in (part, part.with_name(f"{part.name}.pub"), key, public):
            each.unlink(missing_ok=True)
        output(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", part])
        part.with_name(f"{part.name}.pub").replace(public)
        part.replace(key)
    return public.read_text().strip()
