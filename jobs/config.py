"""What a run can be told: one tree of dataclasses, which is also the YAML file and the command line.

    python -m jobs.train --config jobs/ddp.yaml --train.steps=10

`python -m jobs.config` with the same arguments only checks them: no torch, a tenth of a second, exit code 2
with a line for each mistake. A YAML scalar and a command-line value are read by the same rules, from the
field's type. Sections of what shapes the weights (`model`, `data`, `train`) are kept in each checkpoint.
"""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from jobs.errors import Mistake


def option(default: Any, doc: str, least: float | None = None) -> Any:
    """A field with the line that `--help` shows and the least value that makes sense."""
    return field(default=default, metadata={"doc": doc, "least": least})


@dataclass(frozen=True)
class Model:
    layers: int = option(4, "transformer blocks", 1)
    heads: int = option(4, "attention heads; divide the width", 1)
    width: int = option(128, "size of the residual stream", 8)
    context: int = option(128, "bytes that the model sees", 2)


@dataclass(frozen=True)
class Data:
    folder: str = option(
        "runs/data", "where token shards are prepared; shared by all nodes, or local to each"
    )
    shard_bytes: int = option(4 << 20, "size of a token shard", 1024)
    validation: float = option(0.1, "share of the files that is held out, below 1", 0)


@dataclass(frozen=True)
class Train:
    steps: int = option(300, "optimiser steps", 1)
    batch: int = option(32, "sequences in a step, over all ranks; the world size divides it", 1)
    learning_rate: float = option(0.01, "at its highest, after the warm-up", 0)
    warmup: int = option(20, "steps from 0 to the highest learning rate", 0)
    weight_decay: float = option(0.1, "of matrices; gains are not decayed", 0)
    clip: float = option(1.0, "largest norm of the gradient", 0)
    seed: int = option(1, "of the weights and of the order of the data", 0)
    threads: int = option(1, "CPU threads of a rank; another number may change the last bits of the loss", 1)


@dataclass(frozen=True)
class Checkpoint:
    every: int = option(50, "steps between two checkpoints; 0: only when interrupted", 0)
    keep: int = option(2, "how many of the last ones stay", 1)


@dataclass(frozen=True)
class Run:
    folder: str = option("", "run folder; an existing one is gone on with. Default: runs/<job id or time>")
    log_every: int = option(20, "steps between two progress lines", 1)
    validate: int = option(1024, "validation sequences that the summary's bits per byte are measured on", 1)
    peer_timeout_s: int = option(60, "seconds until a silent peer counts as dead", 1)


@dataclass(frozen=True)
class Config:
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    run: Run = field(default_factory=Run)

    def trajectory(self) -> dict[str, Any]:
        """What the weights at a step depend on, as `section.key: value`: a checkpoint of another is foreign.

        Where the data lies is left out; what it is, is known by its own checksum.
        """
        return {
            f"{section}.{key}": value
            for section in ("model", "data", "train")
            for key, value in asdict(getattr(self, section)).items()
            if (section, key) != ("data", "folder")
        }


SECTIONS: dict[str, Any] = {part.name: part.type for part in fields(Config)}
OPTIONS: dict[str, Field[Any]] = {
    f"{name}.{each.name}": each for name, section in SECTIONS.items() for each in fields(section)
}


def load(arguments: Sequence[str]) -> Config:
    """The configuration of a command line: defaults, then `--config FILE`, then `--section.key=value`.

    Raises Mistake with one line for each thing that is wrong.
    """
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    words = _split(arguments, mistakes)
    for name, text in words:
        if name == "config":
            _read_yaml(Path(text), values, mistakes)
    for name, text in words:
        if name != "config":
            _take(f"--{name}", name, text, values, mistakes)
    config = Config(
        **{
            name: section(**{key.split(".")[1]: value for key, value in values.items() if _in(key, name)})
            for name, section in SECTIONS.items()
        }
    )
    if config.model.width % (2 * config.model.heads):
        mistakes.append(
            f"model.heads: {config.model.heads} heads do not split a width of {config.model.width} evenly; "
            "width must be a multiple of 2 x heads"
        )
    if config.data.validation >= 1:
        mistakes.append(f"data.validation: {config.data.validation} is a share of the files; use one below 1")
    if mistakes:
        raise Mistake("\n".join(mistakes))
    return config


def to_yaml(config: Config) -> str:
    """The configuration as a file that `--config` takes again."""
    lines = []
    for name, section in asdict(config).items():
        lines.append(f"{name}:")
        lines += [f"  {key}: {_show(value)}" for key, value in section.items()]
    return "\n".join(lines) + "\n"


def help_text() -> str:
    lines = ["options, as --section.key=value or in the file given by --config:"]
    for key, each in OPTIONS.items():
        lines.append(f"  --{key:<24}{each.metadata['doc']} [{_show(each.default)}]")
    return "\n".join(lines)


def _show(value: Any) -> str:
    return value or "''" if isinstance(value, str) else repr(value)


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


def _read_yaml(path: Path, values: dict[str, Any], mistakes: list[str]) -> None:
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
        mistakes.append(f"{path}:1: not a configuration; sections are: {', '.join(SECTIONS)}")
        return
    seen: set[str] = set()
    for section, body in tree.value:
        where = f"{path}:{section.start_mark.line + 1}"
        if section.value not in SECTIONS:
            mistakes.append(f"{where}: {section.value}: no such section.{_nearest(section.value, SECTIONS)}")
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
                    _take(where, name, value.value, values, mistakes)
                seen.add(name)


def _take(where: str, name: str, text: str, values: dict[str, Any], mistakes: list[str]) -> None:
    """Read one value by its field's type into `values`, or say what is wrong with it."""
    if name not in OPTIONS:
        mistakes.append(f"{where}: no such option.{_nearest(name, OPTIONS)}")
        return
    each = OPTIONS[name]
    kind: type[Any] = type(each.default)
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
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


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if not near:  # the section may be missing: --steps
        near = [each for each in known if each.endswith(f".{name}")]
    return f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(known)}"


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(help_text())
        return 0
    try:
        load(arguments)
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
