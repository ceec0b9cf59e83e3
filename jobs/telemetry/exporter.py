"""The last step's figures over HTTP, in Prometheus' text format, when SLIPWAY_METRICS_PORT says on which port.

One process of each node answers. It never holds the training up: a scrape reads what the last step left.
"""

import math
import os
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PREFIX = "slipway_train_"


class Exporter:
    """Answers from its making on, in a thread of its own; `port` is None when there is none to answer on."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.latest: dict[str, float | None] = {}
        self.port: int | None = None
        port = os.environ.get("SLIPWAY_METRICS_PORT")
        if not port:
            return
        try:
            server = ThreadingHTTPServer(("", int(port)), self._handler())
        except OSError as error:  # taken: training matters more
            print(f"no metrics on port {port}: {error.strerror}", flush=True)
            return
        server.daemon_threads = True
        self.port = int(server.server_address[1])
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def show(self, line: Mapping[str, float | None]) -> None:
        """Let `line`, a step's figures, be what the next scrape gets."""
        self.latest = dict(line)

    def text(self) -> str:
        """Every figure as a gauge; one that is not known is left out, as Prometheus wants it."""
        lines = []
        for name, value in self.latest.items():
            if value is None:
                continue
            lines += [
                f"# TYPE {PREFIX}{name} gauge",
                f"{PREFIX}{name}{{run={_label(self.run)}}} {_value(value)}",
            ]
        return "\n".join([*lines, ""])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text().encode()
                self.send_response(200 if self.path == "/metrics" else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: a scrape is no event of the job."""

        return Handler


def _label(text: str) -> str:
    """A label's value as Prometheus reads it."""
    for odd, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        text = text.replace(odd, escaped)
    return f'"{text}"'


def _value(number: float) -> str:
    if math.isfinite(number):
        return repr(number)
    return "NaN" if math.isnan(number) else f"{'+' if number > 0 else '-'}Inf"
