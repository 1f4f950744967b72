"""A PostgreSQL server of its own on loopback, by the programs of Debian's package."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from teacher.inference.process import free_port


def program(name: str) -> str | None:
    """The path of one of its programs, which Debian keeps off PATH; None where it is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


@contextmanager
def postgres() -> Iterator[str]:
    """Yields the URL, as Prefect takes it, of an empty database that is gone after the block."""
    # It does not run as root, and its user cannot enter pytest's directories.
    user = "postgres" if os.getuid() == 0 else None
    initdb, server = program("initdb"), program("postgres")
    assert initdb and server
    with tempfile.TemporaryDirectory(prefix="stillhouse-postgres-") as directory:
        if user:
            shutil.chown(directory, user)
        data, port = Path(directory) / "data", free_port()
        command = [initdb, "--auth=trust", "--username=stillhouse", "--no-sync", str(data)]
        subprocess.run(command, user=user, cwd=directory, check=True, capture_output=True)
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", directory, "-c", "fsync=off"]
        with (Path(directory) / "log").open("wb") as log:
            process = subprocess.Popen(
                [server, "-D", str(data), *options],
                user=user,
                cwd=directory,
                stdout=log,
                stderr=log,
            )
        try:
            yield f"postgresql+asyncpg://stillhouse@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait(60)
