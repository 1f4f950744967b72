"""Writes how a student is served beside its files: SERVING.md with command lines, and a Modelfile for each GGUF.

The context and the sampling are those of the exam. The commands run in the directory that has SERVING.md, the GGUF
files and vllm/.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.files import write_text
from schemas.trace import Tool
from student.export import ollama
from student.export.conversations import CONVERSATIONS
from student.export.served_student import Served
from student.rendering.renderer import Renderer

PAGE = "SERVING.md"
PORT = 8080


@dataclass(frozen=True)
class Parsers:
    """vLLM's names of what reads calls and reasoning out of a reply; None where none fits or none is needed."""

    tool: str | None
    reasoning: str | None


def write(directory: Path, served: Served, renderer: Renderer, tools: Sequence[Tool]) -> None:
    """Writes SERVING.md and the Modelfiles into a directory, which has nothing else. tools: of the domain."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    notes = ollama.deviations(renderer, tools)
    for variant in served.ggufs:
        text = ollama.modelfile(served, variant, notes)
        write_text(directory / f"{ollama.MODELFILE}{variant}", text)
    write_text(directory / PAGE, _page(served, vllm_parsers(renderer), notes))


def vllm_parsers(renderer: Renderer) -> Parsers:
    """Returns vLLM's parsers for the form in which the student's template writes a call and its reasoning."""
    conversation = CONVERSATIONS[1]
    messages = conversation["messages"]
    at = next(index for index, message in enumerate(messages) if message.get("tool_calls"))
    _, call = renderer.turn(messages, conversation["tools"], at)
    tool = reasoning = None
    if "<tool_call>" in call:
        tool = "qwen3_coder" if "<function=" in call else "hermes"
    elif '"parameters":' in call:
        tool = "llama3_json"
    if "</think>" in renderer.template:
        reasoning = "qwen3" if "enable_thinking" in renderer.template else "deepseek_r1"
    return Parsers(tool, reasoning)


def llama_command(served: Served, variant: str) -> list[str]:
    """Returns the command of llama.cpp's server, for one conversation at a time."""
    words = ["llama-server", "--model", served.ggufs[variant]]
    words += ["--mmproj", served.projector] if served.projector else []
    words += ["--alias", served.name, "--jinja", "--parallel", "1"]
    words += ["--ctx-size", str(served.context), "--temp", f"{served.temperature:g}"]
    return [*words, "--top-p", "1", "--port", str(PORT)]


def vllm_command(served: Served, parsers: Parsers) -> list[str]:
    """Returns the command of vLLM's server. The defaults of generation_config.json are left out, as in the exam."""
    words = ["vllm", "serve", "./vllm", "--served-model-name", served.name]
    words += ["--max-model-len", str(served.context), "--generation-config", "vllm"]
    words += ["--override-generation-config", json.dumps({"temperature": served.temperature})]
    if parsers.tool:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", parsers.tool]
    if parsers.reasoning:
        words += ["--reasoning-parser", parsers.reasoning]
    return [*words, "--port", str(PORT)]


def docker_commands(served: Served, variant: str) -> list[str]:
    """Returns the commands that load a GGUF into Docker Model Runner, which wants absolute paths."""
    reference = shlex.quote(f"{served.name}:{variant.lower()}")
    tower = f' --mmproj "$PWD/{served.projector}"' if served.projector else ""
    return [
        f'docker model package --gguf "$PWD/{served.ggufs[variant]}"{tower}'
        f" --context-size {served.context} {reference}",
        f"docker model run --detach {reference}",
    ]


def _page(served: Served, parsers: Parsers, notes: Sequence[str]) -> str:
    first = next(iter(served.ggufs))
    reference = shlex.quote(f"{served.name}:{first.lower()}")
    others = ", ".join(f"`{file}`" for file in list(served.ggufs.values())[1:])
    other = f"The other files are served alike: {others}." if others else ""
    parts = [
        f"# How {served.name} is served",
        "Run the commands in this directory. Each serves the OpenAI chat API. Pass the tools in `tools`: the student's "
        f"own chat template renders them. A conversation has {served.context} tokens, and the temperature is "
        f"{served.temperature:g}, as in the exam. {other}".rstrip(),
        _section("llama.cpp", [shlex.join(llama_command(served, first))]),
        "For N conversations at once, multiply `--ctx-size` by N and set `--parallel N`.",
    ]
    if served.vllm:
        parts.append(_section("vLLM", [shlex.join(vllm_command(served, parsers))]))
        if not parsers.tool:
            parts.append("No parser of vLLM is known for this template: calls come as text.")
    parts += [
        _section(
            "Ollama",
            [f"ollama create {reference} -f {ollama.MODELFILE}{first}", f"ollama run {reference}"],
        ),
        f"Ollama {ollama.REQUIRES} or later uses the chat template in the GGUF. "
        + "".join(f"{note}, otherwise than in training. " for note in notes).rstrip(),
        _section("Docker Model Runner", docker_commands(served, first)),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _section(title: str, commands: list[str]) -> str:
    return f"## {title}\n\n```sh\n" + "\n".join(commands) + "\n```"
