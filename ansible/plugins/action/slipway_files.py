"""The half of slipway_files that runs where Ansible does: it reads the files that are to be copied."""

import base64
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    """Turns `src` and `content` of each entry into the content that the module puts in place."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        files = [one for entry in self._task.args.get("files", []) for one in self._expand(dict(entry))]
        result: dict[str, Any] = self._execute_module(
            module_name="slipway_files", module_args={"files": files}, task_vars=task_vars
        )
        return result

    def _expand(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        source, content = entry.pop("src", None), entry.pop("content", None)
        leave = set(entry.pop("except", []))
        if (source is None) == (content is None):
            raise AnsibleActionFail(f"slipway_files: {entry.get('dest')}: give src or content")
        if content is not None:
            return [entry | {"body": _body(str(content).encode())}]
        path = Path(source)
        if not path.is_absolute():
            path = Path(self._find_needle("files", str(source).rstrip("/")))
        if not str(source).endswith("/"):
            return [entry | {"body": _body(path.read_bytes())}]
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name not in leave)
        return [
            entry
            | {
                "dest": f"{entry['dest'].rstrip('/')}/{file.relative_to(path)}",
                "body": _body(file.read_bytes()),
            }
            for file in found
        ]


def _body(content: bytes) -> str:
    return base64.b64encode(content).decode()
