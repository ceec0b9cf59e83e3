"""Host keys of cloud machines are made once, are real, are nobody else's, and reach the machine."""

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model import hardware
from infra.model.load import load_profile, read_profile
from infra.provision import cloudinit

TESTED = {"mocks": ["place aws", "place gcp"]}


def test_a_key_is_made_once_and_is_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "host-keys" / "gpu-1"
    key = cloudinit.kept_key(path)
    assert cloudinit.kept_key(path) == key
    assert cloudinit.kept_key(path.with_name("gpu-2")) != key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    derived = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True)
    assert derived.stdout.split()[:2] == key.public.split()


def test_a_key_without_its_public_half_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "gpu-1"
    first = cloudinit.kept_key(path)
    path.with_name("gpu-1.pub").unlink()
    assert cloudinit.kept_key(path) != first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gpu-1", "gpu-1.pub"]


def test_cloud_init_gets_the_key_and_one_user() -> None:
    key = cloudinit.new_key()
    head, _, body = cloudinit.user_data("gpu-1", "x.internal", "admin", "ssh-ed25519 AAAA a", key).partition(
        "\n"
    )
    document = json.loads(body)
    assert head == "#cloud-config"
    assert document["ssh_keys"] == {"ed25519_private": key.private, "ed25519_public": key.public}
    (user,) = document["users"]
    assert (user["name"], user["ssh_authorized_keys"]) == ("admin", ["ssh-ed25519 AAAA a"])
    assert document["ssh_pwauth"] is False and document["fqdn"] == "gpu-1.x.internal"


def test_the_startup_script_is_shell_and_puts_the_key_in_place(tmp_path: Path) -> None:
    """Run for real, with the machine's programs and folders replaced by ours."""
    key = cloudinit.new_key()
    script = cloudinit.startup_script("gpu-1", "x.internal", key).replace("/etc/", f"{tmp_path}/etc/")
    (tmp_path / "etc" / "ssh").mkdir(parents=True)
    (tmp_path / "etc/ssh/ssh_host_rsa_key").write_text("of the image")
    for name in ("hostnamectl", "systemctl"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/called\n')
        (tmp_path / name).chmod(0o755)
    for _ in range(2):
        subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    private = tmp_path / "etc/ssh/ssh_host_ed25519_key"
    assert private.read_text().strip() == key.private.strip()
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.with_name("ssh_host_ed25519_key.pub").read_text().strip() == key.public
    assert not (tmp_path / "etc/ssh/ssh_host_rsa_key").exists()
    called = (tmp_path / "called").read_text().splitlines()
    assert called.count("systemctl restart ssh") == 1, "a second boot changes nothing"


@pytest.mark.parametrize(
    ("cloud", "complaint"),
    [
        ({"azure": {"source": "dgx"}}, ""),
        ({"aws": {"fabric": "efa", "source": "efa"}}, "fabric and fabric_count belong together"),
        ({"aws": {"fabric": "efa", "fabric_count": 2, "fabric_cards": [1], "source": "efa"}}, "1 cards, but"),
        ({"aws": {"source": "nowhere"}}, "'nowhere' is not in sources"),
    ],
)
def test_facts_of_clouds_are_checked(cloud: dict[str, Any], complaint: str) -> None:
    profile = load_profile("h100-sxm-8x")
    facts = {name: hardware.CloudMachine(**block) for name, block in cloud.items()}
    wrong = [text for _, text in hardware.rules(profile.model_copy(update={"cloud": facts}), profile.name)]
    assert any(complaint in text for text in wrong) if complaint else "fabric" not in " ".join(wrong)


def test_facts_of_a_cloud_that_does_not_rent_the_machine_are_a_mistake(tmp_path: Path) -> None:
    text = (CHECKOUT / "hardware" / "tpu-v5e-8.yaml").read_text()
    path = tmp_path / "tpu-v5e-8.yaml"
    path.write_text(text.replace("cloud:\n  gcp:", "cloud:\n  aws:"))
    with pytest.raises(Mistake, match="does not name; add aws there"):
        read_profile(path, tmp_path)
