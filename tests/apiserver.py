"""A stand-in for a cluster's API server: it speaks as the real one does, with certificates of its own.

It can be silent, be gone, forget, and be another cluster's, which a real one cannot be asked for.
"""

import base64
import contextlib
import datetime
import functools
import ipaddress
import json
import queue
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.places.kind.api import Api, connect

RESOURCES = {
    "/api/v1": [("nodes", "Node", False), ("pods", "Pod", True), ("events", "Event", True)],
    "/apis/kubeflow.org/v1": [("pytorchjobs", "PyTorchJob", True)],
}
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
Object = dict[str, Any]
Event = tuple[str, Object]


def discovered(path: str) -> Object | None:
    """What the server says of its kinds."""
    if path == "/version":
        return {"gitVersion": "v1.34.4"}
    if path == "/apis":
        groups = []
        for each in RESOURCES:
            if each.startswith("/apis/"):
                _, _, name, version = each.split("/")
                one = {"groupVersion": f"{name}/{version}", "version": version}
                groups.append({"name": name, "versions": [one], "preferredVersion": one})
        return {"kind": "APIGroupList", "groups": groups}
    if path in RESOURCES:
        kinds = [
            {"name": name, "kind": kind, "namespaced": namespaced, "verbs": []}
            for name, kind, namespaced in RESOURCES[path]
        ]
        return {"kind": "APIResourceList", "resources": kinds}
    return None


@dataclass
class Cluster:
    """What the stand-in has, by path, and what it does when it is asked."""

    objects: dict[str, Object] = field(default_factory=dict)
    version: int = 1
    changes: "queue.Queue[Event | None]" = field(default_factory=queue.Queue)  # None: the connection ends
    refuse: tuple[int, str] | None = None  # status and message
    silent: bool = False
    html: bool = False
    asked: list[str] = field(default_factory=list)

    def put(self, path: str, each: Object) -> Object:
        self.version += 1
        metadata = {"uid": path, **each["metadata"], "resourceVersion": str(self.version)}
        self.objects[path] = {**each, "metadata": metadata}
        return self.objects[path]

    def change(self, what: str, name: str) -> None:
        """A node comes or goes, and a watch tells of it."""
        path = f"/api/v1/nodes/{name}"
        each = self.put(path, {"metadata": {"name": name}})
        if what == "DELETED":
            del self.objects[path]
        self.changes.put((what, each))

    def listed(self, path: str) -> list[Object] | None:
        """Those of a list's path, of one namespace or of all; None when there is no such list."""
        parts = path.rsplit("/", 3)
        head = "/".join(parts[:-3]) if parts[-3:-2] == ["namespaces"] else path.rsplit("/", 1)[0]
        kinds = [name for name, _, _ in RESOURCES.get(head, [])]
        if parts[-1] not in kinds:
            return None
        inside = f"{path.rsplit('/', 1)[0]}/"
        found = [key for key in self.objects if key.startswith(inside) and key.split("/")[-2] == parts[-1]]
        return [self.objects[key] for key in found]


def handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # who has asked is gone
                super().handle()

        def answer(self, status: int, body: Any, kind: str = "application/json") -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, status: int, message: str) -> None:
            self.answer(status, {"kind": "Status", "code": status, "message": message})

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            cluster.asked.append(f"{self.command} {self.path}")
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if cluster.silent:
                time.sleep(2)
            elif cluster.html or path == "/html":
                self.answer(200, b"<html>", "text/html")
            elif found := discovered(path):
                self.answer(200, found)
            elif cluster.refuse:
                self.refuse(*cluster.refuse)
            elif "watch=true" in query:
                self.watch()
            elif self.command in ("PATCH", "POST"):
                self.answer(200, self.made(path, json.loads(text)))
            elif path in cluster.objects:
                there = cluster.objects[path]
                if self.command == "DELETE":
                    del cluster.objects[path]
                self.answer(200, there)
            elif (items := cluster.listed(path)) is not None:
                meta = {"resourceVersion": str(cluster.version)}
                self.answer(200, {"kind": "List", "metadata": meta, "items": items})
            else:
                self.refuse(404, f"{path} not found")

        do_PATCH = do_POST = do_DELETE = do_GET

        def made(self, path: str, body: Object) -> Object:
            metadata = body["metadata"]
            if self.command == "POST":
                metadata.setdefault("name", f"{metadata.get('generateName')}x7k2p")
                path = f"{path}/{metadata['name']}"
            note = metadata.get("annotations", {}).pop(LAST_APPLIED, None)
            if note:
                metadata["annotations"][LAST_APPLIED] = json.dumps(body)
            return cluster.put(path, body)

        def watch(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            while event := cluster.changes.get():
                line = json.dumps({"type": event[0], "object": event[1]}).encode() + b"\n"
                self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    return Handler


def key_and_certificate(name: str) -> tuple[bytes, bytes]:
    """Of one that signs itself, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, made.public_bytes(serialization.Encoding.PEM)


@functools.cache
def keys() -> dict[str, tuple[bytes, bytes]]:
    return {name: key_and_certificate(name) for name in ("server", "client", "other")}


def kubeconfig(file: Path, port: int, trusted: str = "server") -> Path:
    """Write a kubeconfig for the stand-in at `port`, as kind does; `trusted`: whose certificate it expects."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": text(keys()[trusted][1])}
    user = {
        "client-certificate-data": text(keys()["client"][1]),
        "client-key-data": text(keys()["client"][0]),
    }
    file.write_text(
        json.dumps({"clusters": [{"name": "x", "cluster": cluster}], "users": [{"name": "x", "user": user}]})
    )
    return file


@dataclass
class Served:
    """The stand-in, running, and the kubeconfig that leads to it."""

    cluster: Cluster
    file: Path
    port: int

    @property
    def api(self) -> Api:
        return connect(self.file)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """For as long as the block takes; files are in `folder`."""
    cluster = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(cluster))
    server.daemon_threads = True
    pem = folder / "server.pem"
    pem.write_bytes(b"".join(keys()["server"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=keys()["client"][1].decode())
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    port = server.server_address[1]
    try:
        yield Served(cluster, kubeconfig(folder / "kubeconfig", port), port)
    finally:
        cluster.changes.put(None)
        server.shutdown()
        server.server_close()
