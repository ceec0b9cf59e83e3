#!/usr/bin/python
"""Set the kernel's values that are in force, all in one task."""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: slipway_sysctl
short_description: The kernel's values that are in force
description:
  - Compares each with what it should be and sets those that differ. What a file says for the next boot is not its
    business.
author: Slipway
options:
  values:
    description: Value of each key, as sysctl.d(5) writes both
    type: dict
    required: true
"""
EXAMPLES = r"""
- name: Let many files be mapped
  slipway_sysctl:
    values: {vm.max_map_count: 1048576}
"""
RETURN = r"""
missing:
  description: Keys that this kernel does not have
  type: list
  returned: always
"""


def main() -> None:
    arguments: dict[str, Any] = {"values": {"type": "dict", "required": True}}
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    before, after, missing = [], [], []
    for key, value in module.params["values"].items():
        file = Path("/proc/sys") / key.replace(".", "/")
        want = " ".join(str(value).split())
        try:
            have = " ".join(file.read_text().split())
        except FileNotFoundError:
            missing.append(key)
            continue
        if have == want:
            continue
        before.append(f"{key} = {have}\n")
        after.append(f"{key} = {want}\n")
        if not module.check_mode:
            try:
                file.write_text(want)
            except OSError as error:
                module.fail_json(msg=f"{key}: {have} and not {want}: {error.strerror}")
    for key in missing:
        module.warn(f"{key}: this kernel does not have it")
    diff = {"before": "".join(before), "after": "".join(after)}
    module.exit_json(changed=bool(after), missing=missing, diff=diff)


if __name__ == "__main__":
    main()
