"""A small HTTP server on this machine, in a thread: the base of the tests' scripted servers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """A handler that responds with `reply` and writes no log."""

    protocol_version = "HTTP/1.1"

    def body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        """Sends a response. content: a JSON value, or bytes, sent unchanged (as text/html if they start with <)."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        page = data.startswith(b"<")
        self.send_header("Content-Type", "text/html" if page else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        pass  # the client closed the connection


class HttpServer:
    """Serves from its construction until `close`."""

    def __init__(self, handler: type[Handler], port: int = 0) -> None:
        self._http = _Threads(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
