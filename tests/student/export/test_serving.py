"""What is written beside a student to serve it: commands that run, and Modelfiles that keep tools."""

import re
import shlex
import shutil
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from families import STUDENTS, renderer_of, served
from gate_inputs import RENDERER
from turns import TOOLS
from vllm_parser import parse

from student.export import ollama, serving
from student.export.early_gate import random_student
from student.export.llama_server import get, post
from student.export.served_student import Served
from teacher.domain import pack
from teacher.inference.endpoint import Endpoint
from teacher.inference.llamacpp import binary
from teacher.inference.process import free_port

SERVED = Served(
    name="legal",
    ggufs={"Q8_0": "legal-tiny-Q8_0.gguf", "Q4_K_M": "legal-tiny-Q4_K_M.gguf"},
    projector=None,
    vllm=True,
    context=2560,
    temperature=0.6,
    licence='Apache-2.0, "as is"',
)
# vLLM's names by the template's form of a call and of reasoning.
PARSERS = {
    "deepseek-r1-distill-llama-70b": ("hermes", "deepseek_r1"),
    "deepseek-r1-distill-qwen-32b": ("hermes", "deepseek_r1"),
    "llama-3.3-70b": ("llama3_json", None),
    "qwen2.5-32b": ("hermes", None),
    "qwen2.5-vl-32b": ("hermes", None),
    "qwen3-32b": ("hermes", "qwen3"),
    "qwen3-coder-30b": ("qwen3_coder", None),
    "qwen3-vl-32b": ("hermes", None),
    "qwen3.5-27b": ("qwen3_coder", "qwen3"),
    "smollm2-135m": ("hermes", None),
}
# The instructions of Ollama's parser/parser.go, and the parameters of its api/types.go that a Modelfile here may have.
LINE = re.compile(
    r"#.*|FROM \./\S+\.gguf|REQUIRES \d+\.\d+\.\d+|PARAMETER (num_ctx \d+|(temperature|top_p|min_p) [\d.]+)"
    r'|LICENSE """[^"]*"""'
)


def commands(page: str, title: str) -> list[list[str]]:
    """The commands of a section of SERVING.md, as a shell splits them."""
    block = page.split(f"## {title}\n\n```sh\n")[1].split("\n```")[0]
    return [shlex.split(line) for line in block.splitlines()]


def test_each_gguf_has_a_modelfile_without_a_template_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "Modelfile-Q6_K").write_text("of an earlier export")
    serving.write(tmp_path, SERVED, RENDERER, TOOLS)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"SERVING.md", "Modelfile-Q8_0", "Modelfile-Q4_K_M"}
    lines = (tmp_path / "Modelfile-Q4_K_M").read_text().splitlines()
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert lines[0] == "# ollama create legal:q4_k_m -f Modelfile-Q4_K_M"
    instructions = [line for line in lines if not line.startswith("#")]
    assert instructions[:4] == [
        "FROM ./legal-tiny-Q4_K_M.gguf",
        "REQUIRES 0.30.0",
        "PARAMETER num_ctx 2560",
        "PARAMETER temperature 0.6",
    ]
    assert instructions[-1] == 'LICENSE """Apache-2.0, \'as is\'"""'


def test_a_vision_language_student_is_served_with_its_vision_tower_everywhere(
    tmp_path: Path,
) -> None:
    tower = "legal-tiny-mmproj.gguf"
    serving.write(tmp_path, replace(SERVED, projector=tower), RENDERER, TOOLS)
    page = (tmp_path / "SERVING.md").read_text()
    for title in ("llama.cpp", "Docker Model Runner"):
        words = commands(page, title)[0]
        assert words[words.index("--mmproj") + 1].endswith(tower)
    assert f"FROM ./{tower}" in (tmp_path / "Modelfile-Q8_0").read_text().splitlines()


def test_docker_gets_absolute_paths_and_the_context(tmp_path: Path) -> None:
    serving.write(tmp_path, SERVED, RENDERER, TOOLS)
    package, run = commands((tmp_path / "SERVING.md").read_text(), "Docker Model Runner")
    assert package == shlex.split(
        'docker model package --gguf "$PWD/legal-tiny-Q8_0.gguf" --context-size 2560 legal:q8_0'
    )
    assert run == ["docker", "model", "run", "--detach", "legal:q8_0"]


def test_without_a_directory_for_vllm_there_is_no_command_of_vllm(tmp_path: Path) -> None:
    serving.write(tmp_path, replace(SERVED, vllm=False), RENDERER, TOOLS)
    assert "vllm" not in (tmp_path / "SERVING.md").read_text().lower()


def test_a_tool_keeps_in_ollama_what_its_structures_have() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds.",
            "parameters": {
                "type": "object",
                "properties": {
                    "rows": {
                        "description": "Rows",
                        "items": {"type": "object", "minItems": 1, "default": None},
                        "type": "array",
                        "maxItems": 3,
                    },
                    "kind": {"enum": [], "type": ["string", "null"], "default": "x"},
                },
                "required": ["rows"],
                "additionalProperties": False,
            },
        },
    }
    parameters = ollama.passed_tool(tool)["function"]["parameters"]
    assert list(parameters) == ["type", "required", "properties"]
    assert parameters["properties"] == {
        "rows": {
            "type": "array",
            "items": {"default": None, "minItems": 1, "type": "object"},
            "description": "Rows",
        },
        "kind": {"type": ["string", "null"]},
    }
    assert list(parameters["properties"]["rows"]) == ["type", "items", "description"]
    assert list(parameters["properties"]["rows"]["items"]) == ["default", "minItems", "type"]


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDENTS)
def test_each_family_gets_the_parsers_of_its_form_and_the_deviations_of_ollama(name: str) -> None:
    renderer, _ = renderer_of(name)
    parsers = serving.vllm_parsers(renderer)
    assert (parsers.tool, parsers.reasoning) == PARSERS[name]
    notes = ollama.deviations(renderer, list(pack.load("legal").tools.values()))
    # SmolLM2's template writes names, types and descriptions only; the others write a tool as JSON.
    assert any("keywords" in note for note in notes) == (name != "smollm2-135m")
    reasons = name in ("qwen3-32b", "qwen3.5-27b") or "r1" in name
    assert any("reasoning" in note for note in notes) == reasons


@pytest.mark.slow
def test_the_command_of_llama_cpp_serves_the_student_with_its_tools(tmp_path: Path) -> None:
    renderer, directory = renderer_of("qwen2.5-32b")
    shutil.copy(random_student(directory, renderer), tmp_path / SERVED.ggufs["Q8_0"])
    serving.write(tmp_path / "serving", SERVED, renderer, TOOLS)
    (words,) = commands((tmp_path / "serving" / "SERVING.md").read_text(), "llama.cpp")
    port = free_port()
    words[0] = str(binary("llama-server"))
    words[words.index("--port") + 1] = str(port)
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "none", "legal")
    request = [{"role": "user", "content": "When does C-1 end?"}]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(words, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(port, process)
            props = get(endpoint, "/props")
            assert props["default_generation_settings"]["n_ctx"] == SERVED.context
            assert props["total_slots"] == 1
            body = {"messages": request, "tools": TOOLS, "max_tokens": 1}
            prompt = post(endpoint, "/apply-template", body)["prompt"]
            assert prompt == renderer.text(request, TOOLS, add_generation_prompt=True)
            usage = post(endpoint, "/v1/chat/completions", body)["usage"]
            assert usage["prompt_tokens"] == len(renderer.ids(prompt))
        finally:
            process.terminate()
            process.wait(30)


def _wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None, "llama-server ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("llama-server did not answer")


@pytest.mark.slow
def test_llama_cpp_renders_ollamas_tools_as_said_in_the_modelfile(tmp_path: Path) -> None:
    tools = list(pack.load("legal").tools.values())
    body = {
        "messages": [{"role": "user", "content": "?"}],
        "tools": [ollama.passed_tool(tool) for tool in tools],
    }
    with served("smollm2-135m", tmp_path / "log") as running:
        prompt = post(running.endpoint, "/apply-template", body)["prompt"]
        trained = running.renderer.text(body["messages"], tools, add_generation_prompt=True)
    assert prompt == trained and ollama.deviations(running.renderer, tools) == []


@pytest.mark.slow
@pytest.mark.alone
def test_vllms_own_parser_takes_the_command_of_each_family() -> None:
    cases = [
        serving.vllm_command(SERVED, serving.Parsers(*names))[2:]
        for names in sorted(set(PARSERS.values()), key=str)
    ]
    for result in parse([*cases]):
        assert "error" not in result
        assert result["max_model_len"] == SERVED.context
        assert result["override_generation_config"] == {"temperature": 0.6}


def test_every_student_file_is_tried() -> None:
    assert set(PARSERS) == set(STUDENTS)
