"""The stack's image, which pods of a registry's cluster run, gives the same bits as the folder that is mounted."""

import os
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.images import targets
from infra.proof import run
from tests.kind.conftest import docker, torchruns
from tests.training import TRAIN, History, history

pytestmark = pytest.mark.more
TESTED = {"real": ["training on two nodes", "images and their locks"]}


def test_the_stacks_image_gives_the_losses_of_the_mounted_stack(reference: History, tmp_path: Path) -> None:
    tags = targets.current(["stack-cuda13"])
    assert tags, "tests/run-kind builds it"
    docker(
        *("run", "--rm", "--init", "--user", f"{os.getuid()}:{os.getgid()}", "--shm-size", "1g"),
        *("--env", "HOME=/tmp", "--env", "USER=ml", "--env", "PYTHONDONTWRITEBYTECODE=1"),
        *("--volume", f"{tmp_path}:/workspace/runs", "--volume", f"{CHECKOUT}/jobs:/workspace/jobs:ro"),
        *("--workdir", "/workspace", "--entrypoint", "bash"),
        *(tags["stack-cuda13"], "-c", torchruns("/opt/stack/current/bin/python", *TRAIN)),
    )
    assert history(run.Run("plain", runs=tmp_path)) == reference
