"""`make kubeconfig`: the cluster in the user's own ~/.kube/config, and out of it again.

Only our entries are added or taken away: what else is in the file stays as it is, comments too.
"""

import io
import os
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from infra.base.progress import console
from infra.places.kind.cluster import Kind

LISTS = ("clusters", "contexts", "users")


def users_own() -> Path:
    """Where kubectl looks when KUBECONFIG names no file."""
    return Path.home() / ".kube" / "config"


def add(kind: Kind) -> None:
    """Add the cluster to the user's own configuration; which context is used there stays, if one was."""
    kind.require_up()
    file = users_own()
    before = file.read_text() if file.is_file() else ""
    _write(file, merged(before, kind.kubeconfig.read_text()))
    context = f"kind-{kind.name}"
    console.print(f"{file}: context {context} is there; make kubeconfig UNDO=1 takes it out again")
    console.print(f"Next:  kubectl config use-context {context}")


def undo(kind: Kind) -> bool:
    """Take the cluster out again; whether it was there. A file of which nothing is left is removed."""
    file = users_own()
    before = file.read_text() if file.is_file() else ""
    if f"kind-{kind.name}" not in before:
        return False
    after = without(before, f"kind-{kind.name}")
    if after:
        _write(file, after)
    else:
        file.unlink()
    return True


def set_namespace(file: Path, namespace: str) -> None:
    """Where kubectl looks when no namespace is named."""
    data = _yaml().load(file.read_text())
    data["contexts"][0]["context"]["namespace"] = namespace
    _write(file, _text(data))


def merged(text: str, ours: str) -> str:
    """`text`, a kubeconfig, with the entries of `ours`, whose earlier versions are replaced."""
    new = _yaml().load(ours)
    name = new["contexts"][0]["name"]
    data = _yaml().load(without(text, name) or "apiVersion: v1\nkind: Config\n")
    for key in LISTS:
        data[key] = data.get(key) or []
        data[key].extend(new[key])
    if not data.get("current-context"):
        data["current-context"] = name
    return _text(data)


def without(text: str, name: str) -> str:
    """`text` without the cluster, context and user called `name`, and without keys that are empty then.

    Empty when no cluster is left.
    """
    data = _yaml().load(text) if text.strip() else None
    if data is None:
        return ""
    for key in LISTS:
        for entry in [each for each in data.get(key) or [] if each["name"] == name]:
            data[key].remove(entry)
        if not data.get(key):
            data.pop(key, None)
    if data.get("current-context") in (name, ""):
        del data["current-context"]
    return _text(data) if any(data.get(key) for key in LISTS) else ""


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 1 << 20  # certificates are one line
    yaml.preserve_quotes = True
    return yaml


def _text(data: Any) -> str:
    out = io.StringIO()
    _yaml().dump(data, out)
    return out.getvalue()


def _write(file: Path, text: str) -> None:
    """In one step, and for nobody else to read: it holds keys."""
    file = file.resolve()  # a link stays one
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.slipway")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    part.replace(file)
