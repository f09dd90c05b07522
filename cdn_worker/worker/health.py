"""Whether a worker lives, whether it takes work, and its figures: `/healthz`, `/readyz`, `/metrics` (Prometheus' text format)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cdn_worker.domain.errors import BadInput
from cdn_worker.worker.worker import Figures

STUCK_S = 60.0
"""A loop that has not turned for so long is stuck: an orchestrator should replace it."""


CONNECTIONS_MAX = 16
ANSWERED_WITHIN_S = 10.0
"""From the beginning of a connection to its end: a prober that gets no answer in that time has given up, too."""
LOOPBACK = "127.0.0.1"


class _Server(ThreadingHTTPServer):
    """Never holds more than CONNECTIONS_MAX connections, nor one for longer than ANSWERED_WITHIN_S.

    The oldest makes room for a new one: whoever opens connections and says nothing keeps no prober out, and takes no
    descriptors from the copying.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._since: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._since[request] = time.monotonic()
            crowd = list(self._since)[:-CONNECTIONS_MAX]
        self._hang_up(crowd)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called twice a second."""
        late = time.monotonic() - ANSWERED_WITHIN_S
        with self._lock:
            overdue = [request for request, since in self._since.items() if since < late]
        self._hang_up(overdue)

    def _hang_up(self, requests: Iterable[Any]) -> None:
        for request in requests:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)  # its thread sees the end, and closes it

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody hung up, or was hung up on: that is not worth a traceback."""


class Health:
    """Serves on a port, in threads of its own. Raises BadInput when the port cannot be had. port 0: any that is free."""

    def __init__(self, figures: Callable[[], Figures], port: int, address: str = LOOPBACK) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answered(self.path, figures())
                self.send_response(status)
                kind = "text/plain; version=0.0.4" if self.path == "/metrics" else "text/plain"
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """A probe comes every few seconds: it is not worth a line."""

        try:
            self._server = _Server((address, port), Handler)
        except OSError as error:
            raise BadInput(
                f"--health-address {address} --health-port {port}: {error.strerror}; give others, or no port"
            ) from error
        self.address, self.port = str(self._server.server_address[0]), self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def answered(path: str, figures: Figures) -> tuple[int, bytes]:
    """The status and the body for a path."""
    stuck = time.monotonic() - figures.turned_at > STUCK_S
    match path:
        case "/healthz":
            return (503, b"stuck: the loop does not turn\n") if stuck else (200, b"ok\n")
        case "/readyz":
            why = "draining" if figures.draining else figures.queue_away or figures.trouble or ("stuck" if stuck else "")
            return (503, f"{why}\n".encode()) if why else (200, b"ok\n")
        case "/metrics":
            return 200, "".join(lines(figures)).encode()
    return 404, b"there is /healthz, /readyz and /metrics\n"


def lines(figures: Figures) -> Iterator[str]:
    """The figures in Prometheus' text format."""
    yield from _family("objects_total", "counter", "Objects by verdict.", "verdict", figures.objects)
    yield from _family("bytes_total", "counter", "Bytes of objects by verdict.", "verdict", figures.bytes)
    yield from _family("errors_total", "counter", "Objects that are not at the sink, by error.", "error", figures.errors)
    yield from _family("tasks_total", "counter", "Tasks that were reported, by kind.", "kind", figures.tasks)
    yield from _family("host_concurrency", "gauge", "Requests that a host is given at once by now.", "host", figures.concurrency)
    for name, kind, says, value in (
        ("listed_total", "counter", "Keys listed.", figures.listed),
        ("in_flight", "gauge", "Objects being copied, or about to be.", figures.in_flight),
        ("jobs", "gauge", "Prefix jobs with tasks here.", figures.jobs),
        ("lease_age_seconds", "gauge", "How long the oldest lease has been held.", round(figures.oldest_s, 3)),
        ("process_restarts_total", "counter", "Copying processes that died.", figures.restarts),
        ("queue_up", "gauge", "Whether the queue answers.", int(not figures.queue_away)),
        ("trouble", "gauge", "Whether nothing goes on, for a cause that all tasks share.", int(bool(figures.trouble))),
    ):
        yield f"# HELP cdn_worker_{name} {says}\n# TYPE cdn_worker_{name} {kind}\ncdn_worker_{name} {value}\n"


def _family(name: str, kind: str, says: str, label: str, values: Mapping[str, int]) -> Iterator[str]:
    yield f"# HELP cdn_worker_{name} {says}\n# TYPE cdn_worker_{name} {kind}\n"
    for value, number in sorted(dict(values).items()):
        yield f'cdn_worker_{name}{{{label}="{value}"}} {number}\n'
