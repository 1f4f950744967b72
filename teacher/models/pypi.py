"""Downloads one pinned distribution from the package registry."""

import subprocess
import sys
from pathlib import Path

from schemas.error_text import last_line
from schemas.errors import StageError


def pip_download(requirement: str, sha256: str, to: Path, source_only: bool = False) -> Path:
    """Downloads one distribution into `to`, without its dependencies, and checks its sha256 (pip's hash mode).

    Args:
        requirement: an exact version, such as "llama-cpp-python==0.3.36".
        source_only: download the sdist; otherwise the wheel.

    Raises:
        StageError: the registry cannot be reached, has no such version, or the sha256 differs.
    """
    pinned = to / "requirement.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    name = requirement.split("==")[0]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    command += ["--no-binary", name] if source_only else ["--only-binary", name]
    done = subprocess.run([*command, "-d", to, "-r", pinned], capture_output=True, text=True)
    if done.returncode:
        raise StageError(
            f"{requirement}: cannot be fetched from the package registry: {last_line(done.stderr)}"
        )
    return next(p for p in to.iterdir() if p != pinned)
