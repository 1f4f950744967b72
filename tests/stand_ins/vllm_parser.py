"""Runs vLLM's own argument parser in vLLM's environment."""

import json
import shlex
import subprocess
from typing import Any

import pytest

from schemas.errors import InputError
from teacher.inference import vllm_server

_SCRIPT = """\
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
results = []
for arguments in json.load(sys.stdin):
    try:
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            raise ValueError(f"unknown: {unknown}")
        validate_parsed_serve_args(parsed)
        for given, known in (
            (parsed.tool_call_parser, ToolParserManager.list_registered()),
            (parsed.reasoning_parser, ReasoningParserManager.list_registered()),
        ):
            if given and given not in known:
                raise ValueError(f"no parser {given}")
        results.append(json.loads(json.dumps(vars(parsed), default=str)))
    except (Exception, SystemExit) as error:
        results.append({"error": repr(error)})
print("RESULTS", json.dumps(results))
"""


def parse(commands: list[list[str]]) -> list[dict[str, Any]]:
    """The parsed values of each list of arguments, or {"error"}. Skips the test if vLLM is not installed."""
    try:
        python = vllm_server.interpreter()
    except InputError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [str(python), "-P", "-c", _SCRIPT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stderr[-2000:]
    return json.loads(lines[-1].removeprefix("RESULTS "))


def serve_arguments(line: str) -> list[str]:
    """The arguments of `vllm serve` on a line of `shell_commands`."""
    words = shlex.split(line)
    return words[words.index("serve") + 1 :]
