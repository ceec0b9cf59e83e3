"""`images verify` is green on what was built and red on what was tampered with. Needs Docker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.images import stackfolder, verify
from infra.images.targets import Target

TESTED = {"real": ["images and their locks"]}


VERIFY = [sys.executable, "-m", "infra", "images", "verify"]


def test_folder_and_image_are_what_their_lock_says(built: dict[str, Target]) -> None:
    """By the command that a person types: exit code and screen. What others have changed in the cache is made again."""
    names = ["node", "cuda13", "stack-cuda13"]
    done = subprocess.run([*VERIFY, "--repair", *names], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("torch 2.14.1 cuda 13.0 cudnn 9.24.0 nccl 2.30.7") == 2


@pytest.fixture
def copy(built: dict[str, Target]) -> Iterator[Path]:
    """The stack's folder once more, by hard links: seconds, and no disk. To change a file, replace it."""
    folder = Path(built["cuda13"].where)
    copy = folder.with_name(".tampered")
    if copy.exists():
        stackfolder.remove(copy)
    subprocess.run(["cp", "-al", folder, copy], check=True)
    for place, _, _ in os.walk(copy):
        Path(place).chmod(0o755)
    yield copy
    stackfolder.remove(copy)


def test_a_tampered_folder_is_red_and_the_files_are_named(built: dict[str, Target], copy: Path) -> None:
    site = copy / "lib/python3.13/site-packages"
    changed = site / "torch/version.py"
    text = changed.read_text().replace("2.14.1", "2.14.0")
    changed.unlink()
    changed.write_text(text)
    (site / "numpy/__init__.py").unlink()
    (site / "sneaked.pth").write_text("import os\n")
    marker = copy / "stack.json"
    other = marker.read_text().replace('"cuda13"', '"cuda12"')
    marker.unlink()
    marker.write_text(other)

    verdict = verify.verify_folder("cuda13", copy, built["base"].where)

    assert not verdict.right
    told = "\n".join(verdict.wrong)
    assert "torch/version.py: changed" in told
    assert "numpy/__init__.py: No such file or directory" in told
    assert "sneaked.pth: of no distribution" in told
    assert "torch is 2.14.0, stack.yaml says 2.14.1" in told or "import fails" in told
    assert "stack.json: stack is cuda12, expected cuda13" in told


def test_a_rewritten_list_of_files_is_red(built: dict[str, Target], copy: Path) -> None:
    """Who changes a file and its checksum in RECORD is caught by the checksum of all RECORDs."""
    record = next((copy / "lib/python3.13/site-packages").glob("iniconfig-*.dist-info/RECORD"))
    text = record.read_text()
    record.unlink()
    record.write_text(text + "\n")
    assert any("records" in wrong for wrong in verify._marker("cuda13", copy, CHECKOUT))


def test_a_tampered_image_is_red(built: dict[str, Target]) -> None:
    """One file changed in a container of the image, committed: the layer is a few kilobytes."""
    tag, container = "slipway/tampered:test", "slipway-test-tampered"
    where = "/opt/stack/current/lib/python3.13/site-packages/iniconfig/__init__.py"
    image = built["stack-cuda13"].where
    run = [
        "docker",
        "run",
        "--name",
        container,
        image,
        "sh",
        "-c",
        f"chmod u+w {where}; echo '# changed' >> {where}",
    ]
    try:
        subprocess.run(run, check=True, capture_output=True)
        subprocess.run(["docker", "commit", container, tag], check=True, capture_output=True)
        verdict = verify.verify_image("cuda13", tag)
        assert verdict.wrong == ["iniconfig/__init__.py: changed"]
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True)
        subprocess.run(["docker", "image", "rm", tag], capture_output=True)


def test_a_label_that_is_not_its_tags_is_red(built: dict[str, Target]) -> None:
    node = built["node"]
    assert verify.verify_inputs("node", node.where, node.inputs).right
    assert not verify.verify_inputs("node", node.where, "000000000000").right


def test_the_stack_is_read_only_and_has_its_bytecode(built: dict[str, Target]) -> None:
    folder = Path(built["cuda13"].where)
    site = folder / "lib/python3.13/site-packages"
    assert (site / "torch/__pycache__/__init__.cpython-313.pyc").is_file()
    writable = [path for path in site.glob("torch/*") if path.stat().st_mode & 0o222]
    assert writable == []
