"""A cluster's API server, asked by Kubernetes' own client: get, apply, create, patch, delete, watch.

Nothing of the person's surroundings is read: the kubeconfig is the one that is named, and the server is on this
machine, so no proxy leads to it. Every call has a time-out. Objects are plain dictionaries, as kubectl prints them.
What goes wrong is a Failure of one line, and its type says of which kind it is.
"""

import functools
import json
import os
import ssl
import threading
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from kubernetes.watch import Watch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from infra.base.errors import Failure
from infra.places.kind.manifests import Manifest
from infra.places.kind.objects import (
    Exists,
    Expired,
    Missing,
    NotYet,
    Object,
    Refused,
    Resource,
    Unanswered,
    Undefined,
)

CONNECT_S, ANSWER_S = 3, 60  # to be connected; between two parts of an answer
WATCH_S = 30  # of one request of a watch, which the next one follows
JSON = "application/json"
MANAGER = "slipway"  # who has set a field, for the API server


@functools.lru_cache(maxsize=4)
def _connected(kubeconfig: Path, written: int) -> "Api":
    return Api(kubeconfig)


def connect(kubeconfig: Path) -> "Api":
    """The API server of a kubeconfig, which is read again when it was written again. Raises Unanswered."""
    try:
        return _connected(kubeconfig, kubeconfig.stat().st_mtime_ns)
    except (OSError, YAMLError, LookupError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise Unanswered(f"{kubeconfig}: no kubeconfig that can be read: {cause}") from None


class _Client(ApiClient):  # type: ignore[misc]
    """No call without a time-out, whoever makes it: the discovery of kinds names none."""

    def call_api(
        self, method: str, url: str, header_params: Any = None, body: Any = None, *words: Any, **more: Any
    ) -> Any:
        more["_request_timeout"] = more.get("_request_timeout") or (CONNECT_S, ANSWER_S)
        answer = super().call_api(method, url, header_params, body, *words, **more)
        said = answer.headers.get("Content-Type", "")
        if answer.status < 300 and header_params["Accept"] != "*/*" and not said.startswith(JSON):
            raise urllib3.exceptions.HTTPError("what listens there is no API server")
        return answer


class Api:
    """One API server. Its methods raise Unanswered, NotYet or Refused."""

    def __init__(self, kubeconfig: Path) -> None:
        data = YAML(typ="safe").load(kubeconfig.read_text())
        (cluster,), (user,) = data["clusters"], data["users"]
        self.server = str(cluster["cluster"]["server"])
        self._file = kubeconfig
        configuration = Configuration(host=self.server)
        configuration.proxy = None
        self._client = _Client(configuration)
        self._client.rest_client.pool_manager = urllib3.PoolManager(
            # False: tell of the first failure instead of warning on the screen and trying three times
            retries=False,
            maxsize=8,  # connections that are kept: a view has one for each kind
            ssl_context=_context(cluster["cluster"], user["user"]),
        )
        self._lock = threading.Lock()

    def get(self, kind: Resource, *, namespace: str | None = None, selector: str = "") -> list[Object]:
        """Every object of a kind, of all namespaces unless one is named."""
        return self.listed(kind, namespace, selector)[0]

    def read(self, kind: Resource, name: str, namespace: str | None = None) -> Object | None:
        """One object; None when it is not there."""
        try:
            found: Object = self._call(kind, "get", name=name, namespace=namespace)
        except Missing:
            return None
        return found

    def raw(self, path: str, *, timeout_s: float = ANSWER_S) -> str:
        """What the API server answers to GET, as text."""
        with self._told():
            wait = (min(CONNECT_S, timeout_s), timeout_s)
            answer = self._client.call_api(
                "GET", self.server + path, {"Accept": "*/*"}, _request_timeout=wait
            )
            text = str(answer.read().decode(errors="replace"))
        if answer.status >= 300:
            raise refusal(answer.status, text, answer.reason)
        return text

    def log(self, pod: str, namespace: str) -> str:
        """What the first container of a pod has said."""
        return self.raw(f"/api/v1/namespaces/{namespace}/pods/{pod}/log")

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        try:
            self.raw("/readyz", timeout_s=5)
        except Failure:
            return False
        return True

    def apply(
        self, manifests: Iterable[Manifest], *, namespace: str = "default", manager: str = MANAGER
    ) -> list[Object]:
        """Make objects what these say (server-side apply); returns them as they are then.

        Fields that another has set meanwhile are taken back: the files are what the cluster should be. `namespace`
        is for those that name none.
        """
        return [
            self._call(
                each.resource,
                "server_side_apply",
                body=each.body,
                name=each.name,
                namespace=each.namespace or namespace,
                field_manager=manager,
                force_conflicts=True,
                query_params=[("fieldValidation", "Strict")],
            )
            for each in manifests
        ]

    def create(self, each: Manifest, *, namespace: str = "default") -> Object:
        """Make an object; returns it as it is then, with the name that it was given. Raises Exists."""
        made: Object = self._call(
            each.resource,
            "create",
            body=each.body,
            namespace=each.namespace or namespace,
            query_params=[("fieldValidation", "Strict"), ("fieldManager", MANAGER)],
        )
        return made

    def patch(self, kind: Resource, name: str, patch: list[Object], namespace: str | None = None) -> None:
        """Change single fields, by the operations of a JSON patch."""
        self._call(
            kind,
            "patch",
            name=name,
            namespace=namespace,
            body=patch,
            content_type="application/json-patch+json",
        )

    def delete(
        self, kind: Resource, name: str, namespace: str | None = None, *, grace_s: int | None = None
    ) -> None:
        """Ask for its removal; one that is not there is removed. view.gone waits for the end of that."""
        try:
            self._call(kind, "delete", name=name, namespace=namespace, grace_period_seconds=grace_s)
        except Missing:
            return

    def watch(self) -> Watch:
        """What another thread stops one run of `changes` by."""
        return Watch()

    def changes(
        self,
        kind: Resource,
        since: str,
        *,
        namespace: str | None = None,
        selector: str = "",
        watch: Watch | None = None,
    ) -> Iterator[tuple[str, Object]]:
        """ADDED, MODIFIED, DELETED or BOOKMARK, and the object, of every change since a version.

        For half a minute, or until the connection ends. Raises Expired for a version that is forgotten.
        """
        with self._told(reading=True):
            resource = self._resource(kind)
            wanted: dict[str, Any] = {"namespace": namespace, "label_selector": selector or None}
            for event in (watch or Watch()).stream(
                resource.get,
                serialize=False,
                resource_version=since,
                allow_watch_bookmarks=True,
                timeout_seconds=WATCH_S,
                _request_timeout=(CONNECT_S, WATCH_S + 5),
                **wanted,
            ):
                yield event["type"], event["raw_object"]

    def listed(
        self, kind: Resource, namespace: str | None = None, selector: str = ""
    ) -> tuple[list[Object], str]:
        """Every object of a kind, and the version that `changes` goes on from."""
        found = self._call(kind, "get", namespace=namespace, label_selector=selector or None)
        items: list[Object] = found["items"]
        for each in items:  # the server says it of the list only
            each |= {"apiVersion": kind.version, "kind": kind.name}
        return items, str(found["metadata"]["resourceVersion"])

    def _call(self, kind: Resource, verb: str, **words: Any) -> Any:
        with self._told(reading=verb == "get"):
            return getattr(self._resource(kind), verb)(serializer=lambda client, data: data, **words)

    @functools.cached_property
    def _dynamic(self) -> DynamicClient:
        # Kinds are asked for anew: a file of them in /tmp would be another cluster's, or another person's.
        return DynamicClient(self._client, cache_file=os.devnull + "/none")

    def _resource(self, kind: Resource) -> Any:
        where = {} if "/" in kind.version else {"prefix": "api"}
        with self._lock:  # what it finds it keeps, in plain dictionaries
            return self._dynamic.resources.get(api_version=kind.version, kind=kind.name, **where)

    @contextmanager
    def _told(self, *, reading: bool = False) -> Iterator[None]:
        """What the client raises, as a Failure of one line."""
        try:
            yield
        except ResourceNotFoundError as error:
            raise Undefined(f"the API server knows no such kind: {error}") from None
        except ApiException as error:
            if not error.status:
                raise self._unanswered(error) from None
            refused = refusal(error.status, error.body, error.reason)
            if reading and error.status == 403:
                # An administrator may read all, once the server has read its own rules: seconds after its start.
                raise NotYet(str(refused)) from None
            raise refused from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise self._unanswered(error) from None

    def _unanswered(self, error: BaseException) -> Unanswered:
        """With the cause below all that the client has wrapped it in."""
        causes = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        system = [each.strerror for each in causes if isinstance(each, OSError) and each.strerror]
        if any(isinstance(each, ssl.SSLError) for each in causes):
            why = f"its certificate is not the one of {self._file}, which is another cluster's"
        elif any(isinstance(each, TimeoutError) for each in causes):
            why = "it took too long"
        else:
            why = " ".join((system[-1] if system else str(error)).split()).lower()
        return Unanswered(f"the API server ({self.server}) does not answer: {why}")


def refusal(status: Any, body: Any, reason: Any) -> Failure:
    """The Failure of an answer that is none of the 200s, by its status code."""
    try:
        told = json.loads(body or "{}")
    except ValueError:
        told = {}
    text = " ".join(str(told.get("message") or reason or f"status {status}").split())
    if status == 404:
        return Missing(text)
    if status == 409:
        return Exists(text)
    if status == 410:
        return Expired(text)
    # 500: "Internal error occurred: failed calling webhook", as long as nobody listens there
    if status in (429, 500, 502, 503, 504):
        return NotYet(text)
    return Refused(text)


def _context(cluster: Object, user: Object) -> ssl.SSLContext | None:
    """Their certificates and our key. They touch no disk: files would stay when this process is replaced or killed."""
    if not cluster["server"].startswith("https://"):
        return None
    context = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    file = os.memfd_create("client")
    try:
        os.write(file, b64decode(user["client-certificate-data"]) + b64decode(user["client-key-data"]))
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context
