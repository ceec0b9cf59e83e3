"""Running other programs: in an environment of ours, with an end to waiting, a failure being one line that names it.

What a person has in a shell is meant for that shell: COMPOSE_PROJECT_NAME puts a lab's containers into another
project, SLURM_CONF asks another cluster, LC_ALL=tr_TR has another idea of upper case. So a program that we start sees
what stands in `PASSED`, and no more. Nothing else in infra/ starts one (tests/unit/test_process.py), and `settle` does
the same for libraries that do: Pulumi's SDK, Docker's.
"""

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from infra.base.errors import Failure

ANSWER_S = 60.0  # for a program that is asked something; on a loaded machine `docker inspect` has taken 8
LONG_S = (
    600.0  # for one that does something, beside builds and installations, which take as long as they take
)

# Lower and upper case are both in use for proxies; `docker context use` is in HOME, and need not be here.
PERSON = (
    "PATH HOME USER LOGNAME SHELL TERM COLORTERM NO_COLOR COLUMNS LINES TMPDIR SUDO_USER SUDO_UID SUDO_GID"
)
FOLDERS = "XDG_CACHE_HOME XDG_CONFIG_HOME XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS SSH_AUTH_SOCK"
WAY_OUT = (
    "http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY SSL_CERT_FILE SSL_CERT_DIR"
    " REQUESTS_CA_BUNDLE CURL_CA_BUNDLE PIP_CERT GIT_SSL_CAINFO NODE_EXTRA_CA_CERTS NIX_SSL_CERT_FILE"
    " GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
)
ENGINE = "DOCKER_HOST DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_CONFIG DOCKER_API_VERSION"
PACKAGES = (
    "UV_DEFAULT_INDEX UV_INDEX_URL UV_CACHE_DIR UV_NATIVE_TLS UV_SYSTEM_CERTS UV_HTTP_TIMEOUT PIP_INDEX_URL"
    " GOPROXY GOPRIVATE GONOPROXY GONOSUMDB GOSUMDB GOPATH GOCACHE GOMODCACHE"
)
STATE = "PULUMI_ACCESS_TOKEN"  # for a state that lies at Pulumi's
PASSED = frozenset(" ".join((PERSON, FOLDERS, WAY_OUT, ENGINE, PACKAGES, STATE)).split())
FAMILIES = ("SLIPWAY_", "AWS_", "GOOGLE_", "CLOUDSDK_", "AZURE_")

_persons: dict[
    str, str
] = {}  # the environment that we were started with, once `settle` has put another in its place


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program that we start sees: ours, and `more` of it. Words are English, bytes are UTF-8."""
    ours = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(FAMILIES)}
    return {**ours, "HOME": home(), "LC_ALL": "C.UTF-8", **(more or {})}


def persons() -> dict[str, str]:
    """The environment of the person's own shell: for what is theirs, and for variables that a file names."""
    return _persons | os.environ if _persons else dict(os.environ)


def settle() -> None:
    """Give this process what its children get, once, before it does anything. Files that it makes are readable.

    What must not be says so by its mode; a umask of 077 would hide Slurm's configuration from Slurm.
    """
    os.umask(0o022)
    if not _persons:
        _persons.update(os.environ)
    ours = environment()
    os.environ.clear()
    os.environ.update(ours)


def home() -> str:
    """HOME, which services and `env -i` leave unset. Raises Failure for a user who has none at all."""
    if there := os.environ.get("HOME"):
        return there
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        raise Failure(
            f"HOME is not set, and user {os.getuid()} has no entry in /etc/passwd: set HOME"
        ) from None


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    **how: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` in our environment and `env`, without `check`.

    Raises Failure when the program is not there, or has not ended after `timeout_s`.
    """
    words = [str(word) for word in command]
    if "input" not in how:
        how.setdefault("stdin", subprocess.DEVNULL)
    try:
        return subprocess.run(words, env=environment(env), timeout=timeout_s, check=False, **how)
    except subprocess.TimeoutExpired:
        raise Failure(f"{_called(words)}: no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise _missing(words, error) from None


def start(
    command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **how: Any
) -> subprocess.Popen[Any]:
    """`subprocess.Popen` in our environment and `env`. Raises Failure when the program is not there."""
    words = [str(word) for word in command]
    how.setdefault("stdin", subprocess.DEVNULL)
    try:
        return subprocess.Popen(words, env=environment(env), **how)
    except OSError as error:
        raise _missing(words, error) from None


def become(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process, so that Ctrl-C and the exit status are the command's own. Raises Failure."""
    words = [str(word) for word in command]
    try:
        os.execvpe(words[0], words, environment(env))  # noqa: S606 - no shell is wanted
    except OSError as error:
        raise _missing(words, error) from None


def output(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = LONG_S,
) -> str:
    """What `command` prints, without the last newline. Raises Failure with its last line of error.

    Who only asks a question has `answer`.
    """
    done = run(
        command, env=env, timeout_s=timeout_s, cwd=cwd, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Failure(f"{command[0]} failed ({done.returncode}): {lines[-1] if lines else 'no message'}")
    return str(done.stdout).rstrip("\n")


def answer(command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """As `output`, of a program that only looks, and should have looked within ANSWER_S."""
    return output(command, env=env, timeout_s=ANSWER_S)


def succeeds(command: Sequence[str | Path], *, timeout_s: float | None = None) -> bool:
    """Whether `command` is there, ends in time and exits with 0. What it prints is dropped."""
    try:
        done = run(command, timeout_s=timeout_s or ANSWER_S, capture_output=True)
    except Failure:
        return False
    return done.returncode == 0


def logged(
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | None = subprocess.DEVNULL,
) -> None:
    """Run `command` with everything that it prints appended to `log`.

    Raises Failure with the command's name, its last line and the log's path.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ {' '.join(str(word) for word in command)}\n".encode())
        file.flush()
        done = run(command, env=env, cwd=cwd, stdin=stdin, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise Failure(f"{command[0]} failed ({done.returncode}): {lines[-1].strip()}\n  log: {log}")


def _called(words: Sequence[str]) -> str:
    """A command as a message names it: its program, and what it was to do."""
    verb = next((word for word in words[1:] if not word.startswith(("-", "/"))), "")
    return f"{Path(words[0]).name} {verb}".rstrip()


def _missing(words: Sequence[str], error: OSError) -> Failure:
    # not a folder to start it in; execvpe names the last place where it has looked
    if (
        isinstance(error, FileNotFoundError)
        and Path(os.fsdecode(error.filename or words[0])).name == Path(words[0]).name
    ):
        return Failure(f"{words[0]}: not on this machine; install it, or put it on PATH")
    return Failure(f"{words[0]} could not be started: {error.strerror or error}")
