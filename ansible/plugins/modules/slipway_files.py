#!/usr/bin/python
"""Many files in one task: what a task for each file costs, most of it starting Python, is paid once a machine."""

import base64
import grp
import os
import pwd
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: slipway_files
short_description: Make files have exactly this content, owner and mode
description:
  - Files that differ are replaced in one step each; folders that are missing are made. Nothing else is touched.
  - C(src) is a file, or with a slash at its end a folder, in the role's C(files/) or absolute; C(except) lists
    names in it that are left out.
author: Slipway
options:
  files:
    description: "Mappings of dest, and src or content; mode, owner, group, secret and validate (a command with %s)"
    type: list
    elements: dict
    required: true
"""
EXAMPLES = r"""
- name: Copy units and a setting
  slipway_files:
    files:
      - {src: systemd/, dest: /etc/systemd/system/}
      - {content: "A=1\n", dest: /etc/default/a, mode: "0644"}
"""
RETURN = r"""
paths:
  description: Files that were changed, or in check mode would be
  type: list
  returned: always
"""


def main() -> None:
    # `body` is base64: long, of no use in the machine's log, and perhaps a secret.
    one = {
        "dest": {"type": "path", "required": True},
        "body": {"type": "str", "required": True, "no_log": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str"},
        "secret": {"type": "bool", "default": False, "no_log": False},
        "validate": {"type": "str"},
    }
    module = AnsibleModule(
        {"files": {"type": "list", "elements": "dict", "required": True, "options": one}},
        supports_check_mode=True,
    )
    diffs: list[dict[str, str]] = []
    paths: list[str] = []
    for file in module.params["files"]:
        try:
            found = put(module, file)
        except OSError as error:  # a full disk, a folder that cannot be written
            module.fail_json(msg=f"{file['dest']}: {error.strerror}")
        if found:
            diffs += found
            paths.append(file["dest"])
    module.exit_json(changed=bool(paths), paths=paths, diff=diffs)


def put(module: AnsibleModule, file: dict[str, Any]) -> list[dict[str, str]]:
    """Make one file so; returns how it differed, as diffs, empty for not at all."""
    path, body, mode = Path(file["dest"]), base64.b64decode(file["body"]), int(file["mode"], 8)
    old = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    wanted = f"{mode:04o} {file['owner']}:{file['group'] or file['owner']}"
    has = facts(path) if old is not None else "missing"
    diffs = []
    if old != body:
        before, after = ("", "") if file["secret"] else (text(old), text(body))
        diffs.append({"before": before, "after": after or "(changed)", "after_header": f"{path} (content)"})
    if has != wanted:
        diffs.append({"before": has, "after": wanted, "after_header": f"{path} (mode, owner)"})
    if not diffs or module.check_mode:
        return diffs
    uid, gid = numbers(module, file)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    if old != body:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "wb") as part:
                part.write(body)
            validate(module, file, name)
            os.chown(name, uid, gid)
            Path(name).chmod(mode)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    else:
        os.chown(path, uid, gid)
        path.chmod(mode)
    return diffs


def validate(module: AnsibleModule, file: dict[str, Any], name: str) -> None:
    if file["validate"]:
        command = [word.replace("%s", name) for word in file["validate"].split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            Path(name).unlink()
            module.fail_json(msg=f"{file['dest']}: {said[-1] if said else 'refused by its own check'}")


def facts(path: Path) -> str:
    status = path.stat()
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{status.st_mode & 0o7777:04o} {owner}:{group}"


def numbers(module: AnsibleModule, file: dict[str, Any]) -> tuple[int, int]:
    try:
        return pwd.getpwnam(file["owner"]).pw_uid, grp.getgrnam(file["group"] or file["owner"]).gr_gid
    except KeyError as error:
        module.fail_json(msg=f"{file['dest']}: {error.args[0]}")
        raise


def text(body: bytes | None) -> str:
    return "" if body is None else body.decode(errors="replace")


if __name__ == "__main__":
    main()
