"""Rendered text that is committed below tests/golden/: each artefact once, and for the others what differs.

A block (a document of YAML, a resource of a graph, else a whole file) that is nearly one which came before it is kept
as its difference from that one. A file of which no block is near another stands whole under its own path; of the
rest, `as.txt` tells block by block:

    ansible/inventory.yaml
    = both/ansible/inventory.yaml, but
    @@ login:
    -        login:
    +        login-[1:2]:

Where in a file a difference lies is told by the last line before it that is indented less.
"""

import difflib
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.model import hostlist

REST = "as.txt"
AGAIN = "meant? pytest --update-golden, then read the diff"
NEAR = 0.6  # of the block's lines: a difference that is longer is no shorter to read than the block
# Files of one kind, whose blocks are compared: those of any host, any pool, any job.
KINDS = ((r"(host_vars|kubernetes/jobs)/.*", r"\1/*"), (r"pool_\w+", "pool_*"), (r"nodes/\w+\.", "nodes/*."))


@dataclass
class Seen:
    """The blocks of the files that came before, by the kind of their file, and where each was."""

    blocks: dict[str, list[tuple[str, list[str]]]] = field(default_factory=dict)

    def fold(self, name: str, files: Mapping[str, str], neutral: tuple[str, str]) -> dict[str, str]:
        """What is committed of `files`, those of `name`: the path and the text of each golden file.

        `neutral` is a text that is different everywhere, and what stands for it when blocks are compared.
        """
        golden, rest = {}, []
        for path, text in files.items():
            told = [path, *self._told(f"{name}/{path}", text.replace(*neutral))]
            if len(told) < NEAR * text.count("\n"):
                rest.append("\n".join(told))
            else:
                golden[path] = text
        return golden | ({REST: "\n\n".join(rest) + "\n"} if rest else {})

    def _told(self, where: str, text: str) -> Iterator[str]:
        """The lines that tell a file block by block."""
        kind = _kind(where.partition("/")[2])
        for title, name, block in _blocks(text):
            near = self._nearest(f"{kind} {title}", f"{where} {name}".strip(), block)
            if near:
                other, lines = near
                yield f"= {other}{', but' if lines else ''}"
                yield from lines
            else:
                yield from (f"+{line}" for line in block)

    def _nearest(self, kind: str, where: str, block: list[str]) -> tuple[str, list[str]] | None:
        known = self.blocks.setdefault(kind, [])
        found = [(other, difference(before, block)) for other, before in known]
        best = min(found, key=lambda each: len(each[1]), default=None)
        if best and len(best[1]) < NEAR * len(block):
            return best
        known.append((where, block))
        return None


def _kind(path: str) -> str:
    for pattern, kind in KINDS:
        path = re.sub(pattern, kind, path)
    return path


def _blocks(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """The documents of YAML or the resources of a graph: of what kind each is, and its name; or the text itself."""
    for block in filter(None, re.split(r"^---\n|^(?=\w+:\w+/\w+:\w+ )", text, flags=re.M)):
        resource = re.match(r"(\w+:\w+/\w+:\w+) (.*)\n", block)
        document = re.search(r"^kind: (\w+)\nmetadata:\n  name: (.*)\n", block, re.M)
        found = resource or document
        kind, name = found.groups() if found else ("", "")
        yield kind, name, block.splitlines()


def difference(before: list[str], now: list[str]) -> list[str]:
    """The lines that went and came, below the line that they belong to."""
    lines = []
    for tag, start, end, first, last in difflib.SequenceMatcher(None, before, now, False).get_opcodes():
        if tag != "equal":
            lines += [
                f"@@ {_owner(before, start)}".rstrip(),
                *(f"-{line}" for line in before[start:end]),
                *(f"+{line}" for line in now[first:last]),
            ]
    return lines


def _owner(lines: list[str], at: int) -> str:
    """The last line before `at` that is indented less than it, or else the last one at all."""
    depth = _depth(lines[at]) if at < len(lines) else 0
    above = [line for line in lines[:at] if line.strip()]
    return next(
        (line for line in reversed(above) if _depth(line) < depth), above[-1] if above else ""
    ).strip()


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def ranges(graph: str) -> str:
    """A graph's text with resources that differ in their number only told once: gpu-[1-36], and # for the number."""
    groups: dict[tuple[str, str], list[str]] = {}
    for resource in re.split(r"\n(?=\S)", graph.strip()):
        title, _, body = resource.partition("\n")
        kind, _, name = title.partition(" ")
        number = re.search(r"(?<=-)[a-z]+-(\d+)\b", name)
        if number:
            body = re.sub(rf"\b{number[0]}\b", number[0].replace(number[1], "#"), body)
            name = f"{name[: number.start(1)]}#{name[number.end() :]}"
            groups.setdefault((f"{kind} {name}", body), []).append(number[1])
        else:
            groups[title, body] = []
    texts = []
    for (title, body), numbers in groups.items():
        range_ = hostlist.compress(sorted(numbers, key=int))
        texts.append(f"{title.replace('#', range_, 1)}\n{body}\n")
    return "".join(texts)


def compare(folder: Path, now: Mapping[str, str], request: pytest.FixtureRequest) -> None:
    """Fail with the difference where `folder` does not hold just `now`; write it when asked to."""
    if request.config.getoption("--update-golden"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in now.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    found = (path for path in folder.rglob("*") if path.is_file())
    committed = {str(path.relative_to(folder)): path.read_text() for path in found}
    diff = [
        line
        for path in sorted(now.keys() | committed.keys())
        for line in difflib.unified_diff(
            committed.get(path, "").splitlines(),
            now.get(path, "").splitlines(),
            f"committed {path}",
            f"now {path}",
            lineterm="",
        )
    ]
    assert dict(now) == committed, "\n".join([*diff, AGAIN])
