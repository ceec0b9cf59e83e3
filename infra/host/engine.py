"""What we ask of the Docker engine, by its API. Compose, exec, cp and builds go through its command line.

The user's DOCKER_HOST and context count for both. Every question has a time-out; an engine that does not answer, or
refuses, is a Failure of one line.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infra.base.errors import Failure

if TYPE_CHECKING:
    from docker import APIClient

# The name that our images have in the engine before the slash. `bench cold` builds under another one.
REPOSITORY = os.environ.get("SLIPWAY_REPOSITORY") or "slipway"
INPUTS = "slipway.inputs"  # the label that holds the content hash of everything that an image was made from
OWNER = "slipway.checkout"  # the label that holds the path of the checkout which made a container or network
TIMEOUT_S = 60  # for one answer: on a loaded machine an inspect has taken 8
REMOVE_S = 600  # for a container, a volume or an image to be gone: images have 6 GB
SILENT = "the Docker engine does not answer; run: make host"
Kind = Literal["container", "network", "volume"]

_local = threading.local()


def client(timeout_s: float = TIMEOUT_S) -> "APIClient":
    """The engine's API; one connection for each thread. Raises Failure when no engine answers."""
    if not hasattr(_local, "client"):
        import docker
        from docker.context import ContextAPI
        from docker.errors import DockerException

        try:
            if os.environ.get("DOCKER_HOST"):
                _local.client = docker.from_env(timeout=TIMEOUT_S).api
            else:  # as the command line does: the context that the person uses
                there = ContextAPI.get_current_context()
                _local.client = docker.APIClient(there.Host, timeout=TIMEOUT_S, tls=there.TLSConfig or False)
        except (DockerException, AttributeError):  # a context that is named and not there is None
            raise Failure(SILENT) from None
    _local.client.timeout = timeout_s
    return _local.client  # type: ignore[no-any-return]


def answers() -> bool:
    """Whether there is an engine that answers."""
    try:
        with asked() as api:
            return bool(api.ping())
    except Failure:
        return False


@contextmanager
def asked(timeout_s: float = TIMEOUT_S) -> Iterator["APIClient"]:
    """The engine's API while the block asks it; what it answers wrongly, or not at all, is a Failure.

    That something is not there (docker.errors.NotFound) is for the block, or who called it.
    """
    import requests
    from docker.errors import APIError, NotFound

    try:
        yield client(timeout_s)
    except NotFound:
        raise
    except APIError as error:
        raise Failure(f"Docker: {error.explanation or error}") from None
    except requests.exceptions.Timeout:
        raise Failure(f"the Docker engine did not answer within {timeout_s:.0f} s") from None
    except requests.exceptions.RequestException:
        raise Failure(SILENT) from None


# -- containers, networks and volumes


def containers(*labels: str) -> list[dict[str, Any]]:
    """Every container with `labels` (`key` or `key=value`), running or not, as `docker inspect` shows it."""
    from docker.errors import NotFound

    found = []
    with asked() as api:
        for each in api.containers(all=True, filters=_having(labels)):
            try:
                found.append(api.inspect_container(each["Id"]))
            except NotFound:
                continue  # it has gone since
    return sorted(found, key=lambda facts: str(facts["Name"]))


def networks(*labels: str) -> list[dict[str, Any]]:
    with asked() as api:
        return list(api.networks(filters=_having(labels)))


def volumes(*labels: str) -> list[dict[str, Any]]:
    with asked() as api:
        return list(api.volumes(filters=_having(labels))["Volumes"] or [])


def names(kind: Kind, *labels: str) -> list[str]:
    """Names of all containers, networks or volumes with `labels`."""
    ask = {"container": containers, "network": networks, "volume": volumes}[kind]
    return [str(facts["Name"]).lstrip("/") for facts in ask(*labels)]


def container(name: str) -> dict[str, Any] | None:
    """A container as `docker inspect` shows it; None when there is none."""
    from docker.errors import NotFound

    try:
        with asked() as api:
            return dict(api.inspect_container(name))
    except NotFound:
        return None


def start(name: str) -> None:
    with asked() as api:
        api.start(name)


def make_network(name: str, labels: dict[str, str], options: dict[str, str] | None = None) -> dict[str, Any]:
    """A bridge whose addresses the engine chooses; returns it as `docker network inspect` shows it."""
    with asked() as api:
        made = api.create_network(name, driver="bridge", labels=labels, options=options or {})
        return dict(api.inspect_network(made["Id"]))


def remove(kind: Kind, name: str) -> bool:
    """Remove a container (running or not, with its own volumes), a network or a volume; whether it was there."""
    from docker.errors import NotFound

    try:
        with asked(REMOVE_S) as api:
            if kind == "container":
                api.remove_container(name, force=True, v=True)
            elif kind == "network":
                api.remove_network(name)
            else:
                api.remove_volume(name)
    except NotFound:
        return False
    return True


def remove_container(name: str) -> None:
    """Remove a container, running or not; nothing happens when there is none."""
    remove("container", name)


def _having(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"label": list(labels)} if labels else {}


# -- images


def tag(name: str, inputs: str) -> str:
    return f"{REPOSITORY}/{name}:{inputs}"


def has(image: str) -> bool:
    """Whether this engine has the image. Raises Failure when it does not answer."""
    from docker.errors import NotFound

    try:
        inspect(image)
    except NotFound:
        return False
    return True


def inspect(image: str) -> dict[str, Any]:
    with asked() as api:
        return dict(api.inspect_image(image))  # type: ignore[no-untyped-call]


def size(image: str) -> int:
    """Bytes of the image's layers, unpacked."""
    return int(inspect(image)["Size"])


def images(repository: str = REPOSITORY) -> list[str]:
    """Tags of every image of ours that this engine has, newest first."""
    with asked() as api:
        found = api.images(filters={"label": INPUTS, "reference": f"{repository}/*"})
    return [tag for image in found for tag in image["RepoTags"] or []]


def remove_image(image: str) -> bool:
    """Remove an image; whether it was there and nothing uses it."""
    from docker.errors import APIError

    try:
        client(REMOVE_S).remove_image(image)
    except APIError:  # not there, or used
        return False
    return True


# -- the engine itself


def mounted() -> set[str]:
    """Folders of this host that containers have, running or not."""
    return {mount["Source"] for facts in containers() for mount in facts["Mounts"] if mount["Type"] == "bind"}


def facts() -> dict[str, Any]:
    """What `docker info` says."""
    with asked() as api:
        return dict(api.info())


def data_folder() -> Path | None:
    """Where the engine keeps images, when that is on this machine."""
    folder = Path(facts()["DockerRootDir"])
    return folder if folder.is_dir() else None


def need_disk(folder: Path, gib: float, what: str) -> None:
    """Raise Failure when the disk that `folder` is on has less than `gib` GiB free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise Failure(
            f"{what} needs {gib:.0f} GiB on the disk of {folder}, and {free:.1f} GiB are free: make room"
        )
