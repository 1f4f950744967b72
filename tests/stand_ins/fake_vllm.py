"""A stand-in for vLLM: a script that starts, logs and answers as vLLM does, and a teacher for it."""

import stat
import sys
import time
from pathlib import Path
from typing import Any

import psutil

SMOLLM: dict[str, Any] = {
    "name": "smollm2-135m",
    "engine": "vllm",
    "source": {"path": "/weights"},
    "template": "smollm2-tools.jinja",
    "context": 8192,
    "capabilities": {"tools": True, "vision": False, "thinking": False},
    "vllm": {"tool_parser": "hermes"},
}

# Appends how it was started to FAKE_STATE, logs as vLLM does, and answers with its port. FAKE_END=exits makes it fail.
_SCRIPT = """\
import http.server, json, os, signal, sys
started = {"pid": os.getpid(), "argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}
with open(os.environ["FAKE_STATE"], "a") as file:
    file.write(json.dumps(started) + "\\n")
print("Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:01<00:00, 1.0s/it]", flush=True)
if os.environ.get("FAKE_END") == "exits":
    print("(EngineCore pid=1) ERROR 11-24 [core.py:1] ValueError: no room for the KV cache", flush=True)
    print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(1)
port = int(sys.argv[sys.argv.index("--port") + 1])

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": "m"}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"port": port, "session": self.headers["X-Session-ID"],
                     "authorization": self.headers["Authorization"]})
    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever(0.01)
"""


def install(python: Path) -> None:
    """Writes the script as the interpreter of a virtual environment; -S and -E make it start in milliseconds."""
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable} -SE\n{_SCRIPT}")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)


def gone(pid: int) -> bool:
    """Whether a process ends within 20 seconds."""
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(pid)
