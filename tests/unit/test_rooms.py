"""A room imports only from those below it, and nothing imports itself round a corner: pyproject.toml says which."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code alone, to plant imports in."""
    for folder in ("infra", "jobs"):
        for file in (CHECKOUT / folder).rglob("*.py"):
            there = tmp_path / file.relative_to(CHECKOUT)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, there)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(root: Path) -> tuple[int, str]:
    """Exit code and words of import-linter."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-logo", "--no-cache"], cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_code_keeps_to_its_rooms(copy: Path) -> None:
    code, said = lint(copy)
    assert code == 0, said


WRONG = [
    ("infra/base/files.py", "from infra.places import place", "infra.base.files -> infra.places.place"),
    ("infra/model/rules.py", "import infra.render.slurm", "infra.model.rules -> infra.render.slurm"),
    ("infra/proof/run.py", "import infra.images.kind", "infra.proof.run -> infra.images.kind"),
    ("infra/base/wait.py", "from jobs import config", "infra.base.wait -> jobs.config"),
    (
        "infra/places/site/retire.py",
        "from infra.places.site import up",
        "No cycles are allowed in infra.places.site",
    ),
]


def test_a_wrong_import_is_found_inside_a_function_too(copy: Path) -> None:
    for file, planted, _ in WRONG:
        with (copy / file).open("a") as code:
            code.write(f"\n\ndef planted():\n    {planted}\n")
    status, found = lint(copy)
    assert status == 1
    assert [said for _, _, said in WRONG if said not in found] == [], found
