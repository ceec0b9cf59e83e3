"""`make kubeconfig`: the cluster in the user's own ~/.kube/config, and out of it again.

Only our entries are added or taken away: what else is in the file stays as it is, comments too.
"""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from infra.base import files
from infra.base.errors import Mistake
from infra.base.process import home
from infra.base.progress import console
from infra.places.kind.cluster import Kind

LISTS = ("clusters", "contexts", "users")


def users_own() -> Path:
    """Where kubectl looks when KUBECONFIG names no file."""
    return Path(home()) / ".kube" / "config"


def add(kind: Kind) -> None:
    """Add the cluster to the user's own configuration; which context is used there stays, if one was."""
    kind.require_up()
    file = users_own()
    _write(file, merged(_users_text(file), kind.kubeconfig.read_text()))
    context = f"kind-{kind.name}"
    console.print(f"{file}: context {context} is there; make kubeconfig UNDO=1 takes it out again")
    console.print(f"Next:  kubectl config use-context {context}")


def undo(kind: Kind) -> bool:
    """Take the cluster out again; whether it was there. A file of which nothing is left is removed."""
    file = users_own()
    before = _users_text(file)
    if f"kind-{kind.name}" not in before:
        return False
    after = without(before, f"kind-{kind.name}")
    if after:
        _write(file, after)
    else:
        file.unlink()
    return True


def _users_text(file: Path) -> str:
    """What is in the user's own configuration. Raises Mistake when that is no kubeconfig: it stays as it is."""
    try:
        text = file.read_text() if file.exists() else ""
        data = _yaml().load(text) if text.strip() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{file}: not readable: {error}") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise Mistake(f"{file}{line}: not YAML, and so left as it is: {why}") from None
    for key in LISTS:
        entries = (data.get(key) or []) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(each, dict) and "name" in each for each in entries
        ):
            raise Mistake(
                f"{file}: no kubeconfig, and so left as it is: {key} is no list of entries with a name"
            )
    return text


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
    files.put(file, text, 0o600)
