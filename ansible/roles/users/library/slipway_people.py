#!/usr/bin/python
"""Make the people of a cluster on this machine, in one task however many they are."""

import base64
import os
import pwd
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: slipway_people
short_description: The people of a cluster, their keys and their homes on this machine
description:
  - Makes who is missing, writes the keys that sshd reads, and locks who was made here and is no longer named.
  - Never removes a user or a file of one, and never changes the number of one.
author: Slipway
options:
  people:
    description: "Mappings of name, uid, gid (uid null when the site's directory knows them) and keys"
    type: list
    elements: dict
    required: true
  home:
    description: Folder that homes are in
    type: path
    required: true
  keys:
    description: Whether people log in here
    type: bool
    default: false
  homes:
    description: Whether to make homes that are missing
    type: bool
    default: false
"""
EXAMPLES = r"""
- name: Make the cluster's people
  slipway_people:
    people: [{name: ml, uid: 2000, gid: 2000, keys: [ssh-ed25519 AAAA ml@laptop]}]
    home: /shared/home
"""
RETURN = r"""
done:
  description: What was changed, or in check mode would be, a line each
  type: list
  returned: always
"""

KEYS = Path("/etc/ssh/authorized_keys")  # of root, so that a person's keys are those of the cluster file
MADE = Path("/var/lib/slipway/users")  # a name a line: whom this role made on this machine
NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
FOREVER_AGO = "1"  # an account's day of expiry, counted from 1970; 0 would mean never to some programs


@dataclass(frozen=True)
class Person:
    name: str
    uid: int | None
    gid: int | None
    keys: tuple[str, ...]


class Machine:
    """What is done is noted in `done`; in check mode it is only noted."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.done: list[str] = []

    def command(self, said: str, *words: str) -> None:
        self.done.append(said)
        if not self.module.check_mode:
            rc, _, error = self.module.run_command(list(words))
            if rc:
                self.module.fail_json(msg=f"{' '.join(words)}: {error.strip()}")

    def write(self, path: Path, text: str, said: str) -> None:
        """Put `text` at `path`, as a whole or not at all; nothing is done when it is there already."""
        want = (0, 0, 0o644)
        try:
            have = path.lstat()
            if (have.st_uid, have.st_gid, have.st_mode & 0o7777) == want and path.read_text() == text:
                return
        except OSError:
            pass
        self.done.append(said)
        if self.module.check_mode:
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(text)
        new.chmod(0o644)
        os.chown(new, 0, 0)
        new.replace(path)

    def remove(self, path: Path, said: str) -> None:
        self.done.append(said)
        if not self.module.check_mode:
            path.unlink()


def read(module: AnsibleModule) -> list[Person]:
    found = []
    for given in module.params["people"]:
        name, uid, gid = given.get("name", ""), given.get("uid"), given.get("gid")
        if not NAME.fullmatch(name):
            module.fail_json(msg=f"people: {name!r} is no name of a user")
        if uid is not None and int(uid) < 1000:
            module.fail_json(msg=f"{name}: uid {uid} belongs to the system; people have 1000 and more")
        keys = tuple(key.strip() for key in given.get("keys") or [])
        for key in keys:
            if not _is_key(key):
                module.fail_json(msg=f"{name}: not one public key on one line: {key[:40]!r}")
        number = None if uid is None else int(uid)
        found.append(Person(name, number, number if gid is None else int(gid), keys))
    return found


def _is_key(line: str) -> bool:
    """Type, base64 and maybe a comment: no options before them, and no second line."""
    words = line.split(None, 2)
    if "\n" in line or len(words) < 2 or not words[0].startswith(("ssh-", "sk-ssh-", "ecdsa-")):
        return False
    try:
        return base64.b64decode(words[1], validate=True)[4:].startswith(words[0].encode())
    except ValueError:
        return False


def entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def of_directory(name: str) -> bool:
    """Whether this machine knows `name` from elsewhere: the site's directory, by SSSD or the like."""
    lines = Path("/etc/passwd").read_text().splitlines()
    return entry(name) is not None and not any(line.startswith(f"{name}:") for line in lines)


def shadow(name: str) -> tuple[str, str]:
    """Password field and day of expiry of `name`; empty when this machine's own file does not have it."""
    for line in Path("/etc/shadow").read_text().splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return fields[1], fields[7]
    return "", ""


def group(name: str, gid: int) -> tuple[int | None, str | None]:
    """The number that group `name` has here, and the name that `gid` has; None for what is not here."""
    number, owner = None, None
    for line in Path("/etc/group").read_text().splitlines():
        fields = line.split(":")
        number = int(fields[2]) if fields[0] == name else number
        owner = fields[0] if fields[2] == str(gid) else owner
    return number, owner


def make(machine: Machine, person: Person, home: Path) -> None:
    """A user with this name and these numbers, who is not locked."""
    fail = machine.module.fail_json
    have = entry(person.name)
    if person.uid is None:
        if have is None:
            fail(
                msg=f"{person.name} has no uid in the cluster file, and this machine does not know it: "
                "give a uid, or connect the machine to the site's directory first"
            )
        return
    if have is not None and of_directory(person.name):
        if have.pw_uid != person.uid:
            fail(
                msg=f"{person.name} is {have.pw_uid} in the site's directory and {person.uid} in the cluster file: "
                "write that number, or none"
            )
        return  # group, home and password are the directory's
    where = str(home / person.name)
    gid = person.gid if person.gid is not None else person.uid
    if have is None:
        try:
            other = pwd.getpwuid(person.uid).pw_name
        except KeyError:
            pass
        else:
            fail(
                msg=f"{person.name}: uid {person.uid} is {other}'s on this machine: "
                f"give {person.name} another uid in the cluster file"
            )
        number, owner = group(person.name, gid)
        if number is not None and number != gid:
            fail(msg=f"{person.name}: the group of that name has gid {number} here, and not {gid}")
        if owner is None:
            said = f"make group {person.name} ({gid})"
            machine.command(said, "groupadd", "--gid", str(gid), person.name)
        machine.command(
            f"make {person.name} ({person.uid}:{gid}, home {where})",
            *(
                "useradd",
                "--uid",
                str(person.uid),
                "--gid",
                str(gid),
                "--home-dir",
                where,
                "--no-create-home",
            ),
            *("--no-user-group", "--no-log-init", "--shell", "/bin/bash", person.name),
        )
        return
    if (have.pw_uid, have.pw_gid) != (person.uid, gid):
        fail(
            msg=f"{person.name} is {have.pw_uid}:{have.pw_gid} on this machine and {person.uid}:{gid} in the "
            "cluster file: its files would become someone else's. Change it back, or the machine by hand"
        )
    if have.pw_dir != where:
        said = f"move home of {person.name}: {have.pw_dir} -> {where} (files stay)"
        machine.command(said, "usermod", "--home", where, person.name)
    password, expires = shadow(person.name)
    if password and password[0] not in "!*":
        machine.command(f"take the password of {person.name} away", "usermod", "--lock", person.name)
    if expires == FOREVER_AGO:
        machine.command(f"let {person.name} in again", "usermod", "--expiredate", "", person.name)


def lock(machine: Machine, name: str) -> None:
    """Who left: no password, and expired, which PAM asks for also when a key was right. Files stay."""
    password, expires = shadow(name)
    if entry(name) is None or not password or (password[0] in "!*" and expires == FOREVER_AGO):
        return
    words = ("usermod", "--lock", "--expiredate", FOREVER_AGO, name)
    machine.command(f"lock {name}, who is not in the cluster file any more", *words)


def write_keys(machine: Machine, people: list[Person]) -> None:
    """A file for each of `people`, and no other file in that folder."""
    for person in people:
        text = "".join(f"{key}\n" for key in person.keys)
        machine.write(KEYS / person.name, text, f"set keys of {person.name} ({len(person.keys)})")
    names = {person.name for person in people}
    for file in sorted(KEYS.iterdir()) if KEYS.is_dir() else []:
        if file.name not in names:
            machine.remove(file, f"remove keys of {file.name}")


def make_home(machine: Machine, person: Person, home: Path) -> None:
    """A folder that only its owner may enter, with what Debian gives a new user. One that is there stays."""
    place = home / person.name
    have = entry(person.name)
    if place.exists():
        owner = place.stat().st_uid
        if have and owner != have.pw_uid:
            machine.module.fail_json(
                msg=f"{person.name}: {place} belongs to uid {owner}, not {have.pw_uid}: give {person.name} that uid"
                " in the cluster file, or the folder to its owner"
            )
        return
    machine.done.append(f"make {place}")
    if machine.module.check_mode or have is None:
        return
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    # Under another name until all is in it and owned: a run that was cut short makes it again.
    new = home / f".{person.name}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if Path("/etc/skel").is_dir():
        shutil.copytree("/etc/skel", new, symlinks=True, dirs_exist_ok=True)
    for path in [new, *new.rglob("*")]:
        os.chown(path, have.pw_uid, have.pw_gid, follow_symlinks=False)
    new.chmod(0o700)
    new.rename(place)


def main() -> None:
    arguments: dict[str, Any] = {
        "people": {"type": "list", "elements": "dict", "required": True},
        "home": {"type": "path", "required": True},
        "keys": {"type": "bool", "default": False, "no_log": False},
        "homes": {"type": "bool", "default": False},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    machine = Machine(module)
    people, home = read(module), Path(module.params["home"])

    names = {person.name for person in people}
    made = set(MADE.read_text().split()) if MADE.exists() else set()
    ours = {person.name for person in people if person.uid is not None and not of_directory(person.name)}
    # Written first: a run that was cut short must not forget whom it made.
    if not ours <= made:
        machine.write(MADE, "".join(f"{name}\n" for name in sorted(made | ours)), "note who is made here")
    for person in people:
        make(machine, person, home)
    for name in sorted(made - names):
        lock(machine, name)
    write_keys(machine, people if module.params["keys"] else [])
    if module.params["homes"]:
        for person in people:
            make_home(machine, person, home)

    after = "".join(f"{line}\n" for line in machine.done)
    module.exit_json(changed=bool(machine.done), done=machine.done, diff={"before": "", "after": after})


if __name__ == "__main__":
    main()
