#!/usr/bin/python
"""Keep one nftables table as a file says, in the kernel too."""

import ipaddress
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: slipway_firewall
short_description: One nftables table, as its file says, on the disk and in the kernel
description:
  - Loads the text into a network namespace that is thrown away, which proves that the kernel takes it and says
    what the table looks like then. The table in force is compared with that, so that a rule added or deleted
    by hand is found. Counters and handles do not count.
  - Refuses rules that would not let the connection in through which Ansible came.
author: Slipway
options:
  content:
    description: Text for nft; it replaces the table in one transaction and touches no other
    type: str
    required: true
  path:
    description: Where the text is kept, for the next boot
    type: path
    required: true
  table:
    description: Name of the table, of family inet
    type: str
    required: true
  rules:
    description: The rules in the text, to see whether they would lock Ansible out
    type: list
    elements: dict
    required: true
"""
EXAMPLES = r"""
- name: Load the rules
  slipway_firewall:
    content: "{{ lookup('ansible.builtin.template', 'slipway.nft.j2') }}"
    path: /etc/nftables.d/slipway.nft
    table: slipway
    rules: "{{ firewall_rules }}"
"""
RETURN = r"""
done:
  description: What was changed, or in check mode would be
  type: list
  returned: always
"""


def connection() -> tuple[str, int] | None:
    """Address of the client and port of sshd of the session that this program runs in; None without SSH.

    sudo drops SSH_CONNECTION, so it is read from the processes that started us.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return None
        for line in environment:
            if line.startswith(b"SSH_CONNECTION="):
                words = line.partition(b"=")[2].decode().split()
                return words[0].partition("%")[0], int(words[3])
        pid = int(status.partition("PPid:")[2].split()[0])
    return None


def admits(rule: dict[str, Any], port: int, client: str | None) -> bool:
    """Whether `rule` lets a TCP connection to `port` in: from `client`, or from anyone at all when None."""
    if rule["protocol"] != "tcp" or not rule.get("sources"):
        return False
    ranges = [str(entry).partition("-")[::2] for entry in rule.get("ports", [])]
    if not any(int(first) <= port <= int(last or first) for first, last in ranges):
        return False
    if client is None:
        return True
    address = ipaddress.ip_address(client)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in ipaddress.ip_network(source, strict=False) for source in rule["sources"])


def check_lockout(module: AnsibleModule) -> None:
    came = connection()
    client, port = came if came else (None, 22)
    if not any(admits(rule, port, client) for rule in module.params["rules"]):
        who = f"{client}, from where this connection comes, to" if client else "anyone to"
        module.fail_json(
            msg=f"firewall_rules: no rule lets {who} tcp port {port}: the next connection would be refused. "
            "Nothing was changed. Add the source to the rule of that port (machines.ssh_from)"
        )


def plain(said: str) -> dict[str, list[Any]]:
    """What `nft -j list table` said, without what differs between two loads of the same text.

    By kind and chain: the order of rules within a chain is their meaning, all other order is chance.
    """
    found: dict[str, list[Any]] = {}
    for item in json.loads(said)["nftables"]:
        kind, inner = next(iter(item.items()))
        if kind != "metainfo":
            found.setdefault(f"{kind} {inner.get('chain') or inner.get('name')}", []).append(_clean(inner))
    return found


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _clean(inner) for key, inner in value.items() if key != "handle"}
        if isinstance(kept.get("set"), list):
            kept["set"] = sorted(kept["set"], key=json.dumps)
        return kept
    return [_clean(inner) for inner in value] if isinstance(value, list) else value


def list_table(module: AnsibleModule, table: str) -> tuple[dict[str, list[Any]] | None, str]:
    """The table in force, to compare and to read; None when there is none."""
    rc, said, _ = module.run_command(["nft", "--stateless", "--json", "list", "table", "inet", table])
    if rc:
        return None, ""
    _, text, _ = module.run_command(["nft", "--stateless", "list", "table", "inet", table])
    return plain(said), text


def load_aside(module: AnsibleModule, content: str, table: str) -> tuple[dict[str, list[Any]], str]:
    """The same of `content`, in a network of its own that ends with the command."""
    script = (
        'nft --file - && nft --stateless --json list table inet "$0" && echo && echo ---'
        ' && nft --stateless list table inet "$0"'
    )
    command = ["unshare", "--net", "sh", "-c", script, table]
    rc, said, error = module.run_command(command, data=content)
    if rc:
        module.fail_json(msg=f"the kernel refuses the rules: {error.strip() or said.strip()}")
    as_json, _, text = said.partition("\n---\n")
    return plain(as_json), text


def main() -> None:
    arguments: dict[str, Any] = {
        "content": {"type": "str", "required": True},
        "path": {"type": "path", "required": True},
        "table": {"type": "str", "required": True},
        "rules": {"type": "list", "elements": "dict", "required": True},
    }
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    content, table = module.params["content"], module.params["table"]
    file = Path(module.params["path"])
    check_lockout(module)

    done, diffs = [], []
    have = file.read_text() if file.exists() else ""
    if have != content or (file.stat().st_mode & 0o7777, file.stat().st_uid) != (0o600, 0):
        done.append(f"write {file}")
        diffs.append(
            {"before_header": str(file), "after_header": str(file), "before": have, "after": content}
        )

    if shutil.which("nft") is None:
        if not module.check_mode:
            module.fail_json(msg="nft is not there")
        module.exit_json(changed=True, done=[*done, f"load table inet {table}"], diff=diffs)

    wanted, wanted_text = load_aside(module, content, table)
    live, live_text = list_table(module, table)
    if live != wanted:
        done.append(f"load table inet {table}")
        header = f"table inet {table}, in force"
        diffs.append(
            {"before_header": header, "after_header": header, "before": live_text, "after": wanted_text}
        )

    if done and not module.check_mode:
        # In force before it is on the disk: what the kernel does not take must not wait for the next boot.
        rc, _, error = module.run_command(["nft", "--file", "-"], data=content)
        if rc:
            module.fail_json(msg=f"nft: {error.strip()}")
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.touch(mode=0o600)
        new.chmod(0o600)
        new.write_text(content)
        new.replace(file)
    module.exit_json(changed=bool(done), done=done, diff=diffs)


if __name__ == "__main__":
    main()
