"""Searching for the keys of a Kubernetes cluster where none may be: in what is rendered, logged and written."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ruamel.yaml import YAML

from tests.machines.leaks import search as search  # tests take it from here

OWN = ("kubeconfig",)  # the one file that holds them


def values(kubeconfig: Path) -> dict[str, Iterable[bytes]]:
    """The administrator's key of a kubeconfig, in the form in which it could show."""
    (user,) = YAML(typ="safe").load(kubeconfig.read_text())["users"]
    key = user["user"]["client-key-data"].encode()
    assert len(key) > 200
    return {"the administrator's key": [key[100:160]]}


def files(folder: Path) -> Mapping[str, bytes]:
    """Everything below a cluster's folder but the kubeconfig itself, and what runs have computed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OWN and "checkpoints" not in path.parts
    }
