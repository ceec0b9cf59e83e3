"""Text that looks hand-written: templates, the line that says where a file is from, aligned columns."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

if TYPE_CHECKING:
    from infra.model.cluster import Cluster


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("infra.render"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - configuration files, not HTML
    )


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
    """Plain data as block-style YAML. Text is quoted only where YAML would read something else."""
    pad = "  " * indent
    if isinstance(value, Mapping):
        return "".join(f"{pad}{_scalar(key)}:{_nested(item, indent)}" for key, item in value.items())
    lines = []
    for item in value:
        nested = isinstance(item, Mapping)
        lines.append(f"{pad}- {yaml(item, indent + 1).lstrip()}" if nested else f"{pad}- {_scalar(item)}\n")
    return "".join(lines)


def _nested(value: Any, indent: int) -> str:
    if isinstance(value, Mapping):
        return "\n" + yaml(value, indent + 1) if value else " {}\n"
    if isinstance(value, list | tuple):
        return "\n" + yaml(value, indent + 1) if value else " []\n"
    if (
        isinstance(value, str) and value.endswith("\n") and not value.startswith((" ", "\n"))
    ):  # lines stay lines
        return " |\n" + "".join(f"{'  ' * (indent + 1)}{line}\n" for line in value.splitlines())
    return "\n" if value is None else f" {_scalar(value)}\n"


_WORDS = {"null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", ""}


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    plain = (
        text.lower() not in _WORDS
        and text[0] not in "!&*-?|>%@`'\"#{}[],:= "
        and ": " not in text
        and " #" not in text
        and not text.endswith((" ", ":"))
        and "\n" not in text
        and not _number(text)
    )
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _number(text: str) -> bool:
    """Whether YAML 1.1 or 1.2 may read `text` as a number, a time or a date."""
    return text[0] in "0123456789+." and not any(c.isalpha() and c.lower() not in "exoabcdf_" for c in text)
