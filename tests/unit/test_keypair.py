"""One key pair, made once, and again where half of it is missing."""

from pathlib import Path

from infra.base import keypair


def test_it_is_made_once_and_for_the_owners_eyes_only(tmp_path: Path) -> None:
    key = tmp_path / "secrets/admin"
    public = keypair.ensure(key, "slipway")
    assert public.startswith("ssh-ed25519 ") and public.endswith(" slipway")
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert keypair.ensure(key, "other") == public
    assert sorted(file.name for file in key.parent.iterdir()) == ["admin", "admin.pub"]


def test_half_a_pair_is_made_again(tmp_path: Path) -> None:
    key = tmp_path / "admin"
    first = keypair.ensure(key, "slipway")
    key.with_suffix(".pub").unlink()
    second = keypair.ensure(key, "slipway")
    assert first != second == key.with_suffix(".pub").read_text().strip()
