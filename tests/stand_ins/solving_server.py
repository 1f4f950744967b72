"""A llama-server whose model solves the tasks of a file by their solutions: a program with the standard library alone.

    solving_server.py --port 20001        the environment has LLAMA_API_KEY, SOLVING_TASKS and SOLVING_LOG

SOLVING_TASKS is a file or a pattern of files. Started with other weights than those that SOLVING_WEIGHTS names, it is
the llama-server of SOLVING_OTHERS. tests/stand_ins/solving_teacher.py makes the rest of such a teacher.

A reply is decided by its request alone. Without a hint, it fails two of three tasks, so that runs have retries. It
carries its request's sha256 as `request`, which the journal keeps and traces do not. SOLVING_LOG gets a line at each
start and at each request.
"""

import glob
import hashlib
import http.server
import json
import os
import sys
import threading
import time

LOG = os.environ["SOLVING_LOG"]
SECONDS = float(os.environ.get("SOLVING_SECONDS", "0.01"))


def note(**line):
    # One write of O_APPEND, so that a kill leaves whole lines.
    file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps({"pid": os.getpid(), **line}).encode() + b"\n")
    os.close(file)


def solve(tasks, body):
    """The message for a request."""
    texts = [message.get("content") or "" for message in body["messages"]]
    task = next((tasks[text] for text in texts if text in tasks), None)
    is_hinted = sum(message["role"] == "system" for message in body["messages"]) > 1
    step = sum(message["role"] == "tool" for message in body["messages"])
    if task is None or (not is_hinted and len(task["request"]) % 3):
        return {"role": "assistant", "content": "I do not know."}
    if step == len(task["plan"]):
        return {"role": "assistant", "content": task["reply"]}
    function = {
        "name": task["plan"][step]["tool"],
        "arguments": json.dumps(task["plan"][step]["arguments"]),
    }
    call = {"id": "call", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    tasks: dict = {}

    def reply(self, content):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.reply(b"")

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        request = hashlib.sha256(data).hexdigest()
        note(request=request)
        time.sleep(SECONDS)
        message = solve(self.tasks, json.loads(data)) | {"request": request}
        reason = "tool_calls" if "tool_calls" in message else "stop"
        self.reply({"choices": [{"index": 0, "message": message, "finish_reason": reason}]})

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    if os.environ["SOLVING_WEIGHTS"] not in sys.argv:
        os.execv(os.environ["SOLVING_OTHERS"], [os.environ["SOLVING_OTHERS"], *sys.argv[1:]])
    note(start=True)
    rows = []
    for path in glob.glob(os.environ["SOLVING_TASKS"]):
        with open(path, encoding="utf-8") as file:
            rows += [json.loads(line) for line in file]
    Handler.tasks = {row["request"]: row for row in rows}
    port = int(sys.argv[sys.argv.index("--port") + 1])
    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()


if __name__ == "__main__":
    main()
