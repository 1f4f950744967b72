"""vLLM's CPU build loads the directory of a tiny student of each file, and its prompts are those of training.

Qwen3.5 and the vision-language students have the layers of Qwen3 and Qwen2.5 here: vLLM's own need torchvision, of
which there is no build for its CPU build.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from families import STUDENTS, renderer_of
from transformers import AutoConfig, AutoModelForCausalLM

from schemas.errors import InputError
from student.export.conversations import CONVERSATIONS
from student.export.merge import set_template
from student.rendering.renderer import DATE, Renderer
from student.rendering.served import as_served
from teacher.inference import vllm_server

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# A mixture of experts has as many as the real model unless it is told.
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
# One process for all, the engines in it, so that vLLM is imported once. An engine ends before the next begins.
SCRIPT = """\
import json, sys
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

if __name__ == "__main__":
    jobs, date = json.load(sys.stdin)
    one = SamplingParams(max_tokens=1, temperature=0)
    for name, (directory, requests) in jobs.items():
        try:
            model = LLM(directory, enforce_eager=True, max_model_len=2048, max_num_seqs=1)
            more = {"tools": None, "chat_template_kwargs": date, "use_tqdm": False}
            done = [model.chat(m, one, **more | {"tools": t or None})[0] for m, t in requests]
            assert all(len(d.outputs[0].token_ids) == 1 for d in done)
            result = [list(d.prompt_token_ids) for d in done]
            del model
            cleanup_dist_env_and_memory()
        except Exception as error:
            result = repr(error)
        print("RESULT", json.dumps([name, result]), flush=True)
"""


def tiny_student(name: str, to: Path) -> Renderer:
    """Writes a directory as the export does for vLLM: the family's tokenizer and template, tiny random weights."""
    import torch

    renderer, source = renderer_of(name)
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("*.safetensors*"))
    config = AutoConfig.from_pretrained(source)
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
    for key, value in (small | heads | EXPERTS).items():
        if hasattr(config, key):
            setattr(config, key, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(to)
    set_template(to, renderer.template)
    return renderer


def requests_of(renderer: Renderer) -> list[tuple[list[Any], list[Any]]]:
    """The prompt of each assistant's turn: a talk, a call, its result, calls side by side.

    A turn without text has null as its content, as vLLM's replies have: Qwen3-VL's template, to which vLLM hands texts
    in lists, takes an empty text for one and writes a line break after it.
    """
    requests = []
    for conversation in CONVERSATIONS:
        trace: Any = {**conversation, "outcome": {"tool_errors": []}}
        shown = as_served(trace, renderer)
        for index, message in enumerate(shown["messages"]):
            if message["role"] == "assistant":
                before = [{**m, "content": m["content"] or None} for m in shown["messages"][:index]]
                requests.append((before, list(shown["tools"])))
    return requests


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """By student, the prompt ids of vLLM, or its error, and those of training."""
    try:
        python = vllm_server.interpreter()
    except InputError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("vllm")
    expected, jobs = {}, {}
    for name in STUDENTS:
        renderer = tiny_student(name, home / name)
        requests = requests_of(renderer)
        jobs[name] = str(home / name), requests
        expected[name] = [
            renderer.ids(renderer.text(messages, tools, add_generation_prompt=True))
            for messages, tools in requests
        ]
    (home / "prompts.py").write_text(SCRIPT)
    done = subprocess.run(
        [str(python), "-P", str(home / "prompts.py")],
        input=json.dumps([jobs, DATE]),
        env={
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
        },
        capture_output=True,
        text=True,
    )
    (home / "log").write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    results = dict(json.loads(line.removeprefix("RESULT ")) for line in lines)
    return {name: (results.get(name, done.stderr[-2000:]), expected[name]) for name in STUDENTS}


@pytest.mark.parametrize("name", STUDENTS)
def test_vllm_loads_the_directory_and_makes_the_prompts_of_training(
    name: str, prompts: dict[str, tuple[Any, Any]]
) -> None:
    actual, expected = prompts[name]
    assert actual == expected
    assert len(expected) >= 5
