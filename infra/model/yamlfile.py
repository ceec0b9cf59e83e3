"""Reading our YAML files: what is wrong in one is told as `file:line: key: what was found; what is right`.

All mistakes of a file are reported together, one line each, as one `Mistake`.
"""

import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from infra.base.errors import Mistake

Key = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass
class Document:
    """What a file says, with the line of every key, and the mistakes found in it so far."""

    path: Path
    shown: str  # the path as messages name it
    data: Any = None
    lines: dict[Key, int] = field(default_factory=dict)
    mistakes: dict[tuple[int, str], None] = field(default_factory=dict)  # (line, text): no mistake twice

    def wrong(self, key: Key, text: str) -> None:
        """Note a mistake at `key`, or at the nearest key above it that the file has."""
        where = key
        while where and where not in self.lines:
            where = where[:-1]
        name = ".".join(map(str, key))
        self.mistakes[self.lines.get(where, 1), f"{name}: {text}" if name else text] = None

    def check(self) -> None:
        """Raise Mistake when one was noted."""
        if self.mistakes:
            raise Mistake("\n".join(f"{self.shown}:{line}: {text}" for line, text in sorted(self.mistakes)))


def read(path: Path, root: Path) -> Document:
    """Parse `path`; messages name it relative to `root`. Raises Mistake when it is not readable YAML."""
    shown = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    document = Document(path, shown)
    try:
        text = path.read_text()
    except FileNotFoundError:
        near = nearest(path.name, (other.name for other in path.parent.glob("*.yaml")))
        raise Mistake(f"{shown}: no such file.{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{shown}: not readable: {error}") from None
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        _walk(document, node, ())
        document.check()
        document.data = yaml.constructor.construct_document(node) if node else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise Mistake(f"{shown}{line}: not YAML: {error.problem or error.context}") from None
    except (YAMLError, ValueError) as error:
        raise Mistake(f"{shown}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(document.data, dict):
        raise Mistake(f"{shown}:1: empty, or not `key: value` lines")
    return document


def _walk(document: Document, node: Node | None, key: Key) -> None:
    """Note the line of every key, and keys that are there twice (YAML would drop the first in silence)."""
    if isinstance(node, MappingNode):
        for name, value in node.value:
            here = (*key, name.value if isinstance(name, ScalarNode) else str(name.value))
            line = name.start_mark.line + 1
            if here in document.lines:
                document.mistakes[
                    line, f"{'.'.join(map(str, here))}: there twice, first in line {document.lines[here]}"
                ] = None
            document.lines.setdefault(here, line)
            _walk(document, value, here)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            document.lines[*key, index] = value.start_mark.line + 1
            _walk(document, value, (*key, index))


def validate(document: Document, model: type[Model], data: Any, context: Any = None) -> Model | None:
    """`data` as `model`; None when it does not fit, with each reason noted in `document`."""
    try:
        return model.model_validate(data, context=context, strict=True)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            key = tuple(problem["loc"])
            document.wrong(
                key, explain(problem["type"], problem.get("ctx", {}), problem["input"], key, model)
            )
        return None


def explain(kind: str, facts: dict[str, Any], value: Any, key: Key, model: type[BaseModel]) -> str:
    """A pydantic error in the words of this project: what was found and what would be right."""
    if kind == "extra_forbidden":
        return f"unknown key.{nearest(str(key[-1]), _keys(model, key[:-1]), all_of='Known here')}"
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        allowed = [word.strip("'") for word in facts["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(value), allowed, 1)
        return f"{value!r} is not one of {', '.join(allowed)}" + (
            f". Did you mean '{near[0]}'?" if near else ""
        )
    if kind in ("value_error", "assertion_error"):
        return str(facts["error"])
    wanted = _WANTED.get(kind)
    if wanted:
        return f"{_shown(value)} is not {wanted.format(**facts)}"
    return f"{_shown(value)}: {kind.replace('_', ' ')}"


_WANTED = {
    "int_type": "a whole number; the unit is in the key's name",
    "int_from_float": "a whole number",
    "float_type": "a number; the unit is in the key's name",
    "finite_number": "a finite number",
    "string_type": "text; put it in quotes",
    "string_pattern_mismatch": "of the form {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "bool_type": "true or false",
    "date_type": "a date such as 2026-11-01",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "list_type": "a list",
    "dict_type": "a mapping (`key: value` lines)",
    "model_type": "a mapping (`key: value` lines)",
    "model_attributes_type": "a mapping (`key: value` lines)",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "nothing" if value is None else repr(value)


def nearest(word: str, names: Iterable[str], all_of: str = "") -> str:
    """` Did you mean 'x'?` when a name is close to `word`; else ` <all_of>: a, b.` when that is asked for."""
    known = sorted(names)
    near = difflib.get_close_matches(word, known, 1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" {all_of}: {', '.join(known)}." if all_of and known else ""


def _keys(model: type[BaseModel], key: Key) -> list[str]:
    """The keys that `model` knows at `key`."""
    kind: Any = model
    for part in key:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            info = kind.model_fields.get(str(part))
            kind = info.annotation if info else None
        else:  # dict[str, X] or list[X]
            kind = (typing.get_args(kind) or (None,))[-1]
        if typing.get_origin(kind) in (types.UnionType, typing.Union):  # X | None
            kind = next(kind for kind in typing.get_args(kind) if kind is not type(None))
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
