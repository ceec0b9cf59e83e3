"""How a program is told what to do: a tree of frozen dataclasses that is also YAML and the command line.

    @dataclass(frozen=True)
    class Sweep:
        rounds: int = option(5, "timed rounds of each size", 1)

A tree is a dataclass of such sections, and its options are `--section.key=value` or keys of the file given by
`--config`. A YAML scalar and a command-line value are read by the same rules, from the field's type. No torch.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, asdict, field, fields
from pathlib import Path
from typing import Any, TypeVar

from jobs.cli.errors import Mistake, told

SWITCH = ("true", "false")
HELP = {"--help", "-h"}
PLAIN = re.compile(r"[\w./][\w./=@%+,-]*")  # what YAML takes for a word without quotes
Tree = TypeVar("Tree")
Word = tuple[str, str, str]  # where it stands, `section.key`, text
Words = list[Word]
# The tree that is meant, and the words that are for it.
Variant = Callable[[type[Tree], Words], tuple[type[Tree], Words]]


def option(
    default: Any,
    doc: str,
    least: float | None = None,
    among: Sequence[str] = (),
    words: Mapping[str, Any] | None = None,
) -> Any:
    """A field with the line that `--help` shows, and the least value or the only words that make sense.

    `words` may stand in place of a value, as `auto` does for a number below the least one.
    """
    return field(default=default, metadata={"doc": doc, "least": least, "among": among, "words": words or {}})


def sections(kind: type[Any]) -> dict[str, Any]:
    """The sections of a tree by their names."""
    return {part.name: part.default_factory for part in fields(kind)}


def table(kind: type[Any]) -> dict[str, Field[Any]]:
    """The options of a tree by their names, `section.key`."""
    return {
        f"{name}.{each.name}": each for name, section in sections(kind).items() for each in fields(section)
    }


def read(
    kind: type[Tree],
    arguments: Sequence[str],
    rules: Callable[[Tree], Iterable[str]],
    variant: "Variant[Tree] | None" = None,
) -> Tree:
    """The tree of a command line: defaults, then `--config FILE`, then `--section.key=value`.

    `rules` says what does not hold between the values. `variant` says which tree is meant, by some words.
    Raises Mistake with one line for each thing that is wrong.
    """
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    words = _words(kind, arguments, mistakes)
    if variant:
        try:
            kind, words = variant(kind, words)
        except Mistake as mistake:
            raise Mistake("\n".join([*mistakes, str(mistake)])) from mistake
    for where, name, text in words:
        _take(kind, where, name, text, values, mistakes)
    tree = kind(
        **{
            name: section(**{key.split(".")[1]: value for key, value in values.items() if _in(key, name)})
            for name, section in sections(kind).items()
        }
    )
    mistakes += rules(tree)
    if mistakes:
        raise Mistake("\n".join(mistakes))
    return tree


def kind_of(kind: type[Tree], arguments: Sequence[str], variant: "Variant[Tree]") -> type[Tree]:
    """Which tree a command line that may be wrong otherwise is of. Raises Mistake."""
    asked = [word for word in arguments if word not in HELP]
    return variant(kind, _words(kind, asked, []))[0]


def check(
    kind: type[Any],
    load: Callable[[Sequence[str]], Any],
    arguments: Sequence[str],
    variant: "Variant[Any] | None" = None,
) -> int:
    """What a command that only checks a program's options does: the exit code, after a line for each mistake."""
    try:
        if HELP.intersection(arguments):
            print(help_text(kind_of(kind, arguments, variant) if variant else kind))
            return 0
        load(arguments)
    except Mistake as mistake:
        return told(mistake)
    return 0


def to_yaml(config: Any) -> str:
    """The configuration as a file that `--config` takes again."""
    lines = []
    known = table(type(config))
    for name, section in asdict(config).items():
        lines.append(f"{name}:")
        lines += [f"  {key}: {_show(value, known[f'{name}.{key}'])}" for key, value in section.items()]
    return "\n".join(lines) + "\n"


def flat(text: str) -> dict[str, str]:
    """What `to_yaml` wrote as `section.key: text`, in order. Without a YAML parser: not every program has one."""
    found, section = {}, ""
    for line in text.splitlines():
        key, _, value = line.strip().partition(": ")
        if line.startswith(" "):
            found[f"{section}.{key}"] = json.loads(value) if value.startswith('"') else value
        else:
            section = key.removesuffix(":")
    return found


def help_text(kind: type[Any]) -> str:
    lines = ["options, as --section.key=value or in the file given by --config:"]
    for key, each in table(kind).items():
        lines.append(f"  --{key:<24}{each.metadata['doc']} [{_show(each.default, each)}]")
    return "\n".join(lines)


def _show(value: Any, each: Field[Any]) -> str:
    for word, meant in each.metadata["words"].items():
        if value == meant:
            return str(word)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else _quoted(value)
    return repr(value)


def _quoted(text: str) -> str:
    """In double quotes, as both YAML and JSON read it: neither takes all of the other's escapes."""
    plain = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[^\w\x20-\x7e\U00010000-\U0010ffff]", lambda odd: f"\\u{ord(odd[0]):04x}", plain)


def _in(key: str, section: str) -> bool:
    return key.startswith(f"{section}.")


def _split(arguments: Sequence[str], mistakes: list[str]) -> list[tuple[str, str]]:
    """`--name=value` and `--name value` as pairs."""
    pairs: list[tuple[str, str]] = []
    rest = iter(arguments)
    for word in rest:
        if not word.startswith("--"):
            mistakes.append(f"{word}: not an option; options are written --section.key=value")
            continue
        name, equals, text = word[2:].partition("=")
        if not equals:
            following = next(rest, None)
            if following is None:
                mistakes.append(f"--{name}: has no value; write --{name}=VALUE")
                continue
            text = following
        pairs.append((name, text))
    return pairs


def _words(kind: type[Any], arguments: Sequence[str], mistakes: list[str]) -> Words:
    """What files and command line say, the last word on a thing last."""
    pairs = _split(arguments, mistakes)
    words = [
        each for name, text in pairs if name == "config" for each in _in_yaml(kind, Path(text), mistakes)
    ]
    return words + [(f"--{name}", name, text) for name, text in pairs if name != "config"]


def _in_yaml(kind: type[Any], path: Path, mistakes: list[str]) -> Iterator[Word]:
    import yaml  # type: ignore[import-untyped]  # here, so that --help and tests need no parser

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        mistakes.append(f"{path}:{line}: not YAML: {getattr(error, 'problem', None) or error}")
        return
    if tree is None:
        return
    if not isinstance(tree, yaml.MappingNode):
        mistakes.append(f"{path}:1: not a configuration; sections are: {', '.join(sections(kind))}")
        return
    seen: set[str] = set()
    for section, body in tree.value:
        where = f"{path}:{section.start_mark.line + 1}"
        known = sections(kind)
        if section.value not in known:
            mistakes.append(f"{where}: {section.value}: no such section.{_nearest(section.value, known)}")
        elif not isinstance(body, yaml.MappingNode):
            mistakes.append(f"{where}: {section.value}: needs keys below it")
        else:
            for key, value in body.value:
                name = f"{section.value}.{key.value}"
                where = f"{path}:{key.start_mark.line + 1}: {name}"
                if not isinstance(value, yaml.ScalarNode):
                    mistakes.append(f"{where}: needs one value, not a list or a mapping")
                elif name in seen:
                    mistakes.append(f"{where}: is there twice")
                else:
                    yield where, name, value.value
                seen.add(name)


def _take(
    tree: type[Any], where: str, name: str, text: str, values: dict[str, Any], mistakes: list[str]
) -> None:
    """Read one value by its field's type into `values`, or say what is wrong with it."""
    known = table(tree)
    if name not in known:
        mistakes.append(f"{where}: no such option.{_nearest(name, known)}")
        return
    each = known[name]
    kind: type[Any] = type(each.default)
    words = each.metadata["words"]
    if text.lower() in words:
        values[name] = words[text.lower()]
        return
    among = each.metadata["among"] or (SWITCH if kind is bool else ())
    if among and text.lower() not in among:
        mistakes.append(
            f"{where}: {text!r} is none of {', '.join(among)}.{_nearest(text, among, others=False)}"
        )
        return
    try:
        value = text.lower() == "true" if kind is bool else kind(text.lower() if among else text)
    except ValueError:
        what = " or ".join(["a whole number" if kind is int else "a number", *words])
        mistakes.append(f"{where}: {text!r} is not {what}, such as {each.default}")
        return
    least = each.metadata["least"]
    if least is not None and not value >= least:  # also catches nan
        mistakes.append(f"{where}: {text} is too small; the least is {least}")
        return
    if value == float("inf"):
        mistakes.append(f"{where}: {text} is not a finite number, such as {each.default}")
        return
    values[name] = value


def _nearest(name: str, known: Any, others: bool = True) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if not near:  # the section may be missing: --steps
        near = [each for each in known if each.endswith(f".{name}")]
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" There are: {', '.join(known)}" if others else ""
