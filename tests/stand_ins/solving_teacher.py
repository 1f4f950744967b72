"""A teacher whose server is tests/stand_ins/solving_server.py, started as llama-server is: settings and environment."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEACHER = {
    "name": "solver",
    "description": "solves its tasks by their solutions",
    "engine": "llama.cpp",
    "licence": {"id": "MIT", "url": "https://example.com/licence"},
    "context": 8192,
    "capabilities": {"tools": True, "vision": False, "thinking": False},
    "sampling": {"temperature": 0.5, "top_p": 1.0},
}


def solving_teacher(
    directory: Path, tasks: Path, log: Path, seconds: float = 0.05, others: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Writes the teacher's files; returns the settings of a recipe that uses it, and the environment of its runs.

    Args:
        tasks: the run's tasks/train.jsonl, or a pattern of such files. log: what the server writes (solving_server.py).
        seconds: of a request. others: the llama-server of other weights, in runs that start one.
    """
    programs = directory / "llama.cpp"
    programs.mkdir(parents=True)
    program = programs / "llama-server"
    source = (ROOT / "tests" / "stand_ins" / "solving_server.py").read_text()
    program.write_text(f"#!{sys.executable} -SE\n{source}")
    program.chmod(0o755)
    weights, teacher = directory / "m.gguf", directory / "solver.yaml"
    weights.write_bytes(b"GGUF")
    teacher.write_text(json.dumps({**TEACHER, "source": {"path": str(weights)}}))
    settings = [
        f"teacher={teacher}",
        f"publish.store={directory / 'store'}",
        "tasks.train=24",
        "tasks.exam=2",
        "tasks.mix={lookup: 1, workflow: 1, document: 0, chart: 0}",
        "generate.preflight=false",
        "generate.constrain=false",
        "generate.examples=0",
        "generate.concurrency=4",
    ]
    environment = {
        "STILLHOUSE_LLAMA_CPP": str(programs),
        "SOLVING_TASKS": str(tasks),
        "SOLVING_LOG": str(log),
        "SOLVING_WEIGHTS": str(weights),
        "SOLVING_OTHERS": str(others),
        "SOLVING_SECONDS": str(seconds),
        "PYTHONPATH": str(ROOT),
    }
    return settings, environment
