"""The role `users`: whom the site's directory knows is left to it, and only the number is compared."""

import importlib.util
import pwd
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from infra.base.paths import CHECKOUT

TESTED = {"stand-in": ["place metal"]}


class Refused(Exception):
    pass


class Module:
    """AnsibleModule, as far as it is needed: commands are noted, failures raised."""

    check_mode = False

    def __init__(self) -> None:
        self.ran: list[list[str]] = []
        self.params = {"people": [{"name": "jane.doe", "uid": 1800001, "gid": 1800001, "keys": []}]}

    def run_command(self, words: list[str]) -> tuple[int, str, str]:
        self.ran.append(words)
        return 0, "", ""

    def fail_json(self, msg: str) -> None:
        raise Refused(msg)


@pytest.fixture
def people() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "slipway_people", CHECKOUT / "ansible/roles/users/library/slipway_people.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known(people: ModuleType, monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """As SSSD would answer: a person who is in no file of this machine, with a group of everybody."""
    found = pwd.struct_passwd(("jane.doe", "*", uid, 100, "Jane", "/home/jane.doe", "/bin/zsh"))
    monkeypatch.setattr(people, "entry", lambda name: found if name == "jane.doe" else None)


def made(people: ModuleType) -> Module:
    module = Module()
    [person] = people.read(module)
    people.make(people.Machine(module), person, Path("/shared/home"))
    return module


def test_whom_the_directory_knows_is_left_to_it(people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known(people, monkeypatch, 1800001)
    assert people.of_directory("jane.doe")
    assert made(people).ran == []


def test_another_number_than_the_directorys_is_refused(people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known(people, monkeypatch, 1800002)
    with pytest.raises(
        Refused, match=r"jane.doe is 1800002 in the site's directory and 1800001 in the cluster"
    ):
        made(people)


def test_who_is_in_no_directory_is_made(people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "entry", lambda name: None)
    assert [words[0] for words in made(people).ran] == ["groupadd", "useradd"]
    assert not people.of_directory("root")
