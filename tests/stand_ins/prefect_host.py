"""A Prefect server on loopback with its database in a directory, and workers beside it, as a team runs them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from prefect.client.orchestration import SyncPrefectClient

from teacher.inference.process import free_port

ROOT = Path(__file__).resolve().parents[2]
Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], seconds: float, log: Path | None = None) -> Value:
    """Returns the first true value of `condition`, called twice a second; fails with the end of the log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    end = log.read_text(errors="replace")[-4000:] if log else ""
    raise AssertionError(f"not within {seconds:g} seconds\n{end}")


class PrefectHost:
    """The server, its workers, and the environment in which commands use them.

    Attributes:
        client: while the server's SQLite is busy it answers 503; this client retries.
    """

    def __init__(self, directory: Path, database: str | None = None, **environment: str) -> None:
        """database: a URL; None for SQLite in the directory. environment: further variables of all programs."""
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.directory, self.api = directory, f"http://127.0.0.1:{port}/api"
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(directory / "prefect"),
            "PREFECT_API_URL": self.api,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }
        if database:
            self.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
        self.processes: list[subprocess.Popen[bytes]] = []
        self.client = SyncPrefectClient(self.api)
        address = ["--host", "127.0.0.1", "--port", str(port)]
        server = self.start("prefect", "server", "start", *address, log="server.log")
        log = directory / "server.log"
        wait_for(lambda: server.poll() is not None or not self.client.api_healthcheck(), 600, log)
        assert server.poll() is None, log.read_text()

    def start(self, *module: str, log: str) -> subprocess.Popen[bytes]:
        """Starts `python -m MODULE ...` in the background; its output is added to a file of the directory."""
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self, pool: str) -> subprocess.Popen[bytes]:
        arguments = ["worker", "start", "--type", "process", "--pool", pool]
        return self.start("prefect", *arguments, log=f"{pool}.log")

    def stillhouse(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def close(self) -> None:
        """Ends all that was started, and what that started."""
        groups = [process.pid for process in self.processes]
        children = [
            child
            for pid in groups
            if psutil.pid_exists(pid)
            for child in psutil.Process(pid).children(recursive=True)
        ]
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in children:
            if child.is_running():
                child.kill()
