"""What tests of the export gate share: conversations, a GGUF without tensors, a scripted llama-server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gguf import GGUFWriter
from small_students import END, SHIPPED, tiny_tokenizer
from turns import TOOLS

from student.rendering.renderer import Renderer
from teacher.inference.endpoint import Endpoint

RENDERER = Renderer(tiny_tokenizer(), SHIPPED, [END])


def call(arguments, content="", number=0):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    function = {"name": "find", "arguments": text}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}],
    }


def result(content, number=0):
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


def trace(name="t/0", tools=TOOLS, messages=None):
    return {
        "id": name,
        "tools": tools,
        "messages": messages
        or [
            {"role": "system", "content": "You are a paralegal."},
            {"role": "user", "content": "When does C-1 end?"},
            call({"key": "C-1"}),
            result('{"end": "2027-03-02"}'),
            {"role": "assistant", "content": "On 2 March 2027."},
        ],
    }


TALK = trace(
    "talk/0",
    messages=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}],
)


def write_gguf(path: Path, **metadata) -> Path:
    """A GGUF without tensors."""
    writer = GGUFWriter(path, "llama")
    if "template" in metadata:
        writer.add_chat_template(metadata["template"])
    if "eos" in metadata:
        writer.add_eos_token_id(metadata["eos"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


class ScriptedServer:
    """Answers each request with the next of `replies` (an int is an HTTP status) and records the requests."""

    def __init__(self, *replies):
        self.replies: list[Any] = list(replies)
        self.requests: list[tuple[str, Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers["Content-Length"])
                scripted.requests.append((self.path, json.loads(self.rfile.read(length))))
                reply = scripted.replies.pop(0)
                status = reply if isinstance(reply, int) else 200
                self.send_response(status)
                self.end_headers()
                content = {"error": "cannot parse"} if status != 200 else reply
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.endpoint = Endpoint(f"http://127.0.0.1:{self.server.server_port}/v1", "key", "model")

    def close(self):
        self.server.shutdown()
        self.server.server_close()
