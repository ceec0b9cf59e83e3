"""In which words a resource differs from what was asked for, and whether that takes a new one.

Pure and light: the provider process and the preview both use it, so that a diff and its reason agree.
"""

from dataclasses import dataclass
from typing import Any

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # Pulumi's own word for a value that a preview cannot know


@dataclass(frozen=True)
class Difference:
    """One property. `text` is for people: memory 4096 -> 8192 MiB."""

    key: str
    text: str
    replaces: bool


# Properties of a docker machine: what people call them, and whether a container can be given another value.
_MACHINE: dict[str, tuple[str, bool]] = {
    "container": ("name", False),
    "hostname": ("host name", False),
    "image": ("image", False),
    "mounts": ("mounts", False),
    "tmpfs": ("tmpfs", False),
    "privileged": ("privileged", False),
    "labels": ("labels", False),
    "environment": ("environment", False),
    "network_id": ("its network", False),
    "network": ("network", False),
    "connected": ("network", True),
    "cpuset": ("cores", True),
    "memory_mib": ("memory", True),
    "authorized_key": ("authorised key", True),
    "state": ("state", True),
}


def machine_differences(olds: dict[str, Any], news: dict[str, Any]) -> list[Difference]:
    """How a docker machine, as it was read, differs from what the program says."""
    found = []
    for key, (word, in_place) in _MACHINE.items():
        old, new = olds.get(key), news.get(key)
        if _equal(old, new) or (key == "image" and _system(old) == _system(new)):
            continue
        found.append(Difference(key, _text(key, word, old, new), not (in_place and _possible(key, old, new))))
    return found


def _equal(old: Any, new: Any) -> bool:
    """Numbers come back from Pulumi as floats, and an absent value as None."""
    if not old and not new:
        return True
    return bool(old == new)


def _system(image: Any) -> str:
    """The operating system of an image. A machine that runs is not made anew for a newer image of the same one."""
    return str(image or "").rpartition(":")[0]


def _possible(key: str, old: Any, new: Any) -> bool:
    """Limits can be changed but not taken away, and a dead container does not start again."""
    if key in ("memory_mib", "cpuset"):
        return bool(new)
    if key == "state":
        return old in ("exited", "created", "paused")
    return True


def _text(key: str, word: str, old: Any, new: Any) -> str:
    if key == "memory_mib":
        return f"memory {_amount(old)} -> {_amount(new)} MiB"
    if key == "cpuset":
        return f"cores {old or 'all'} -> {new or 'all'}"
    if key == "state":
        return f"does not run ({old}): is started again"
    if key == "network_id":
        return "its network is made anew"
    if key == "connected":
        return "was disconnected from its network"
    if key == "authorized_key":
        return "authorised key changed"
    if key == "image":
        return f"image {_short(old)} -> {_short(new)}"
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{word} {_keys(old, new)}"
    if key == "mounts":
        return f"mounts {_list(old)} -> {_list(new)}"
    return f"{word} {old} -> {new}"


def _amount(value: Any) -> str:
    return f"{int(value)}" if value else "unlimited"


def _short(image: Any) -> str:
    return str(image).rsplit("/", 1)[-1] if image else "none"


def _keys(old: dict[str, Any], new: dict[str, Any]) -> str:
    """k: a -> b for every key that differs."""
    words = [
        f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    return ", ".join(words)


def _list(mounts: Any) -> str:
    return " ".join(f"{mount[1]}:{mount[2]}:{mount[3]}" for mount in mounts or []) or "none"
