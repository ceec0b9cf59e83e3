"""The names of torch that jobs/ uses, read from its text: every stack that jobs run on must have them.

tests/torch-names.txt has those that were looked for in each stack. A name that is new there fails tests/unit: look for
it in the other stacks, too (`tests/run-jobs --stack=cuda12 -k name`), or give it a place in jobs/parallel/versions.py.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
KNOWN = Path(__file__).with_name("torch-names.txt")
ASKED_FOR = "jobs/parallel/versions.py"  # which asks what is there
REFUSED = (
    "torch.distributed._composable.replicate_with_fsdp."  # where it is not, `versions.allow` says so first
)


def known() -> list[str]:
    return KNOWN.read_text().split()


def used() -> dict[str, str]:
    """Each name, such as torch.distributed.TCPStore, and a place where it is used."""
    found: dict[str, str] = {}
    for path in sorted((CHECKOUT / "jobs").rglob("*.py")):
        place = path.relative_to(CHECKOUT).as_posix()
        if place != ASKED_FOR:
            for name, line in _names(ast.parse(path.read_text())):
                if name.startswith(REFUSED):
                    continue
                found.setdefault(name, f"{place}:{line}")
    return found


def _names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names and their lines: what is imported from torch, and attributes of it."""
    called: dict[str, str] = {}  # name in the file: name in torch
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.partition(".")[0] == "torch":
                    called[each.asname or "torch"] = each.name if each.asname else "torch"
                    yield each.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            for each in node.names:
                called[each.asname or each.name] = f"{node.module}.{each.name}"
                yield f"{node.module}.{each.name}", node.lineno
    outermost = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in outermost:
            words, line = [], node.lineno
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                words.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in called:
                yield ".".join([called[inner.id], *reversed(words)]), line
