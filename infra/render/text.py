"""Text that looks hand-written: templates, the line that says where a file is from, aligned columns."""

import functools
import io
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from infra.model.cluster import Cluster


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("infra.render"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - configuration files, not HTML
    )
    # words of people, as the language takes them that they stand in
    environment.filters |= {
        "yaml": scalar,
        "flow": functools.partial(scalar, flow=True),
        "python": functools.partial(json.dumps, ensure_ascii=False),
    }
    return environment


def template(name: str) -> jinja2.Template:
    """`infra/render/templates/<name>.j2`."""
    return _environment().get_template(f"{name}.j2")


def fill(name: str, cluster: "Cluster", **values: Any) -> str:
    """`infra/render/templates/<name>.j2` with `cluster`, the origin line and `values`."""
    return template(name).render(
        cluster=cluster, services=cluster.spec.services, rendered=f"# {origin(cluster)}", **values
    )


def origin(cluster: "Cluster") -> str:
    """From what a file comes, and the command that makes it again."""
    return f"Rendered from {cluster.file} by: python -m infra render {cluster.file}"


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose cells stand below each other."""
    table = [list(row) for row in rows]
    if not table:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(max(map(len, table)))]
    # A column that is empty in all rows takes no room.
    return [
        " ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False) if width).rstrip()
        for row in table
    ]


def settings(values: Mapping[str, object]) -> list[str]:
    """`Key=value` cells; empty for None, so that columns stay below each other."""
    return [f"{key}={value}" if value is not None else "" for key, value in values.items()]


def minutes(count: int) -> str:
    """A duration as Slurm writes it: 1-00:00:00."""
    days, rest = divmod(count, 1440)
    clock = f"{rest // 60:02d}:{rest % 60:02d}:00"
    return f"{days}-{clock}" if days else clock


def yaml(value: Any, indent: int = 0) -> str:
    """Plain data as block-style YAML, the same for readers of YAML 1.1 and 1.2.

    The layout is ours, for a document of ruamel.yaml takes fifty times as long; what text may stand plain, what is
    read as something else, and how it is escaped then, is ruamel's to say.
    """
    pad = "  " * indent
    if isinstance(value, Mapping) and value:
        return "".join(f"{pad}{_key(key, pad)}{_nested(item, indent)}" for key, item in value.items())
    if isinstance(value, list | tuple) and value:
        return "".join(f"{pad}- {yaml(item, indent + 1).lstrip(' ')}" for item in value)
    return f"{pad}{_scalar(value)}\n"


def _key(key: Any, pad: str) -> str:
    text = scalar(key)
    return f"{text}:" if len(text) < LONGEST_KEY else f"? {text}\n{pad}:"


def _nested(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list | tuple) and value:
        return "\n" + yaml(value, indent + 1)
    if isinstance(value, str) and _LINES.fullmatch(value):  # lines stay lines
        return " |\n" + "".join(f"{'  ' * (indent + 1)}{line}\n" for line in value.split("\n")[:-1])
    return "\n" if value is None else f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return "{}" if isinstance(value, Mapping) else "[]"
    return scalar(value)


LONGEST_KEY = 1000  # characters; readers look no further than 1024 for the colon
# Whole lines of ASCII, each with a sign in it and none with a blank at its end; the first begins with a sign.
_LINES = re.compile(r"(?! )(?: *[!-~](?:[ -~]*[!-~])?\n)+")


def scalar(value: Any, *, flow: bool = False) -> str:
    """A text, number, switch or None as YAML takes it, also between brackets if `flow`. Raises TypeError."""
    if isinstance(value, str):
        return _text(str(value), flow)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}: no text, number, switch or None")


@functools.cache
def _ruamel() -> Any:
    from ruamel.yaml import YAML

    writer = YAML()
    writer.allow_unicode = True
    return writer


def _float(value: float) -> str:
    text: str = _ruamel().representer.represent_float(value).value
    mantissa, exponent, power = text.partition("e")
    return (
        f"{mantissa}.0e{power}" if exponent and "." not in mantissa else text
    )  # 1e+16 is a text in YAML 1.1


@functools.lru_cache(maxsize=10_000)
def _text(text: str, flow: bool) -> str:
    """Plain where every reader reads this text then, else between double quotes."""
    from ruamel.yaml.emitter import Emitter

    out = io.StringIO()
    emitter = Emitter(out, allow_unicode=True, width=sys.maxsize, dumper=_ruamel())
    analysis = emitter.analyze_scalar(text)
    plain = analysis.allow_flow_plain and not set("?:") & set(text) if flow else analysis.allow_block_plain
    if plain and not analysis.multiline and not _other_than_text(text):
        return text
    emitter.write_double_quoted(text, split=False)
    return out.getvalue().strip(" ")


def _other_than_text(text: str) -> bool:
    """Whether some reader takes this plain text for a number, a switch, a time, null, a merge or a directive."""
    from ruamel.yaml.resolver import implicit_resolvers

    if _NUMBER_LIKE.fullmatch(text):
        return True
    return any(pattern.match(text) for _, _, pattern, _ in implicit_resolvers)


# More than any reader's rules: Go's library leaves all _ out, Python's counts 1:30 by sixties.
_NUMBER_LIKE = re.compile(r"[-+]?[0-9.][0-9a-fA-FxXobBOeEtTzZ_.:+ -]*|[-+]?\.(inf|nan)", re.I)
