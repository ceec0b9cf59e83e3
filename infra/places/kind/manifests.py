"""Files with objects of Kubernetes, read as its own programs read them: YAML 1.1, where `yes` is true and 0644 octal.

Strictly: what one of them would refuse, or drop in silence, is one line that names file, line and cause.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode

from infra.base.errors import Mistake
from infra.places.kind.objects import Object, Resource


class Manifest(NamedTuple):
    """An object as it is to be, by value or as YAML, which the API server reads as well."""

    resource: Resource
    name: str  # empty when the API server is to make one
    namespace: str  # empty when it names none
    body: Object | str

    @classmethod
    def of(cls, each: Object, body: str = "") -> "Manifest":
        metadata = each["metadata"]
        name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
        return cls(Resource.of(each), name, namespace, body or each)


def built(text: str) -> list[Manifest]:
    """What kustomize has printed: its own layout, of which the heads are enough. The rest is megabytes."""
    parts = [part for part in re.split(r"^---\n", text, flags=re.MULTILINE) if part.strip()]
    return [Manifest.of(documents(_head(part), "kustomize")[0], part) for part in parts]


def _head(document: str) -> str:
    """apiVersion, kind and metadata of a document."""
    return "".join(re.findall(r"^(?:apiVersion|kind|metadata):.*\n(?:[ -].*\n|\n)*", document, re.MULTILINE))


class _Values(SafeConstructor):
    """Of Go's reader: a time and a number to the base of sixty are text."""

    def construct_yaml_int(self, node: ScalarNode) -> Any:
        return node.value if ":" in node.value else super().construct_yaml_int(node)

    def construct_yaml_float(self, node: ScalarNode) -> Any:
        return node.value if ":" in node.value else super().construct_yaml_float(node)

    def construct_yaml_timestamp(self, node: ScalarNode, values: Any = None) -> Any:
        return node.value


_Values.add_constructor("tag:yaml.org,2002:int", _Values.construct_yaml_int)
_Values.add_constructor("tag:yaml.org,2002:float", _Values.construct_yaml_float)
_Values.add_constructor("tag:yaml.org,2002:timestamp", _Values.construct_yaml_timestamp)


def read(file: Path, shown: str) -> list[Object]:
    """The objects in a file, those of a `kind: List` too; `shown` is what a message calls it. Raises Mistake."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{shown}: not readable: {error}") from None
    return objects(text, shown)


def objects(text: str, shown: str) -> list[Object]:
    """The objects in a text. Raises Mistake."""
    found: list[Object] = []
    for number, each in enumerate(documents(text, shown), 1):
        if each is None:
            continue
        listed = isinstance(each, dict) and each.get("kind") == "List"
        for one in each.get("items") or [] if listed else [each]:
            wrong = _wrong(one)
            if wrong:
                raise Mistake(f"{shown}: document {number}: {wrong}")
            found.append(one)
    return found


def documents(text: str, shown: str) -> list[Any]:
    """Every document of a text, as plain values. Raises Mistake with the line of what is wrong."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Values
    yaml.version = "1.1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", MantissaNoDotYAML1_1Warning
            )  # 1e3 is a number to Go's reader as well
            found = list(yaml.load_all(text))
        json.dumps(found, allow_nan=False)  # what is sent: no object in itself, no infinity
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise Mistake(f"{shown}{line}: {_problem(error, text)}") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Mistake(f"{shown}: not YAML: {str(error).splitlines()[0]}") from None
    return found


def _problem(error: MarkedYAMLError, text: str) -> str:
    if isinstance(error, DuplicateKeyError):
        key = re.search(r'duplicate key "(.*?)"', error.problem or "")
        return f"{key[1] if key else 'a key'}: there twice, of which one would be dropped"
    if "{{" in text:
        return "a template ({{ ... }}), which has to be rendered first, as by `helm template`"
    told = (error.problem or error.context or "").strip()
    tab = "; YAML is indented by spaces, and this is a tab" if r"'\t'" in told else ""
    return f"not YAML: {told}{tab}"


def _wrong(each: Any) -> str:
    """Why this is no object of Kubernetes; empty when it is one."""
    if not isinstance(each, dict):
        return "no object of Kubernetes, which has apiVersion, kind and metadata"
    for key in ("apiVersion", "kind"):
        if not isinstance(each.get(key), str):
            return f"{key}: {'missing' if key not in each else f'{each[key]!r} is no text'}"
    metadata = each.get("metadata")
    if not isinstance(metadata, dict):
        return "metadata: missing"
    names = [key for key in ("name", "generateName") if metadata.get(key) is not None]
    if not names:
        return "metadata: neither name nor generateName"
    wrong = next((key for key in (*names, "namespace") if not isinstance(metadata.get(key, ""), str)), "")
    return f"metadata.{wrong}: {metadata[wrong]!r} is no text; put it in quotes" if wrong else ""
