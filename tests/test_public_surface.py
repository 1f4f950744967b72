"""What users and their scripts rely on: commands, options, exit codes and the fields of every file.

The listing in tests/golden/public_surface.json was made before the code moved into rooms. A change to it changes the
public interface: make it on purpose, state it in the commit, and write the listing again with

    python tests/test_public_surface.py
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden" / "public_surface.json"

# Invocations that end before anything heavy is loaded, with the exit code of each.
INVOCATIONS = [
    "",
    "--version",
    "--help",
    "distil",
    "distill",
    "distill ./none",
    "distill legal --recipe none",
    "distill legal --set train.epoch=3",
    "distill legal --set train.epochs=-1",
    "distill legal --until end",
    "plan ./none",
    "plan legal --gpus nonsense",
    "generate none",
    "filter none",
    "train none",
    "export none",
    "evaluate none",
    "publish none",
    "report none",
    "models",
    "pull none",
    "validate none.jsonl",
    "verify none.gguf --against none",
    "new-domain 9",
    "deploy --file none",
    "serve none",
    "check-teacher http://127.0.0.1:9/v1 --model none --teacher none",
]


def commands() -> dict[str, Any]:
    """Every command with its parameters: names, placeholder, default and whether it is required."""
    import typer

    from flows.cli.main import app

    group: Any = typer.main.get_command(app)
    return {
        name: [
            {
                "names": sorted([*parameter.opts, *parameter.secondary_opts]),
                "metavar": parameter.metavar,
                "default": None if callable(parameter.default) else str(parameter.default),
                "required": parameter.required,
                "several": parameter.multiple or parameter.nargs != 1,
            }
            for parameter in command.params
        ]
        for name, command in sorted({**group.commands, "": group}.items())
    }


def fields(schema: Any, path: str = "") -> dict[str, Any]:
    """A JSON Schema without its prose: every keyword by its path."""
    if isinstance(schema, dict):
        listed: dict[str, Any] = {}
        for key, value in schema.items():
            names_a_field = path.endswith(("/properties", "/$defs"))
            if key in {"description", "title", "$id", "$comment", "examples"} and not names_a_field:
                continue
            listed |= fields(value, f"{path}/{key}")
        return listed
    return {path: schema}


def schemas() -> dict[str, Any]:
    files = sorted((ROOT / "schemas").glob("*.schema.json"))
    return {file.name: fields(json.loads(file.read_text(encoding="utf-8"))) for file in files}


def exit_code(arguments: str) -> int:
    from flows.cli import main

    try:
        return main._run(arguments.split())
    except SystemExit as end:
        return int(end.code or 0)


def surface() -> dict[str, Any]:
    return {
        "commands": commands(),
        "exit_codes": {line: exit_code(line) for line in INVOCATIONS},
        "schemas": schemas(),
    }


def test_commands_and_their_options_are_unchanged() -> None:
    assert commands() == json.loads(GOLDEN.read_text())["commands"]


def test_the_fields_of_every_file_are_unchanged() -> None:
    assert schemas() == json.loads(GOLDEN.read_text())["schemas"]


@pytest.mark.slow
def test_exit_codes_are_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_STORE", str(tmp_path / "store"))
    expected = json.loads(GOLDEN.read_text())["exit_codes"]
    assert {line: exit_code(line) for line in INVOCATIONS} == expected


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        os.environ["STILLHOUSE_STORE"] = "store"
        text = json.dumps(surface(), indent=1, sort_keys=True, ensure_ascii=False)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
