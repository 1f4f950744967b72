"""The held-out exam on vLLM: its CPU build serves the default student as it is exported (student/evaluate.py)."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import InputError
from schemas.recipe import Evaluate
from student import evaluate
from student.export.merge import merge
from student.export.serving import vllm_parsers
from student.models import base
from student.models.chat_template import chat_template
from student.rendering.renderer import Renderer
from teacher.domain import pack, tasks
from teacher.inference import vllm_server
from teacher.planning import hardware
from teacher.scenes.images import ImageStore

GIB = 2**30


@pytest.mark.parametrize(
    ("machine", "weights", "share", "gpus"),
    [
        ("cpu-64GB", 20, 0.9, 0),
        ("1xH200", 65, 0.9, 1),
        ("2xH200", 65, 0.5, 2),
        ("2xH100-80GB", 65, 0.9, 2),
        ("8xH100-80GB", 141, 0.9, 4),
    ],
)
def test_vllm_gets_as_many_gpus_as_the_weights_need(
    machine: str, weights: int, share: float, gpus: int
) -> None:
    assert evaluate.vllm_gpus(weights * 1e9, hardware.parse(machine), share) == gpus


def test_a_student_that_the_gpus_do_not_hold_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        InputError,
        match=r"evaluate.engine: found vllm: 141 GB .* 1xH100-80GB.* with serve.gpu_memory_utilization 0.9",
    ):
        evaluate.vllm_gpus(141e9, hardware.parse("1xH100-80GB"), 0.9)


def exported(student: dict[str, Any], to: Path) -> Renderer:
    """Writes the directory that the export makes for vLLM of the student with a random adapter."""
    import torch

    source = base.prepare(student)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapter = to.with_name("adapter")
    get_peft_model(model, lora).save_pretrained(str(adapter))
    template = chat_template(student, source)
    merge(source, adapter, to, template)
    return Renderer(AutoTokenizer.from_pretrained(to), template, student["stop"])


@pytest.mark.slow
@pytest.mark.alone
def test_the_exam_of_an_exported_student_runs_on_vllm_with_the_prompts_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    try:
        vllm_server.interpreter()
    except InputError as error:
        pytest.skip(str(error))
    student = base.load("smollm2-135m")
    directory = tmp_path / "vllm"
    renderer = exported(student, directory)
    parsers = vllm_parsers(renderer)
    assert parsers.tool == "hermes"
    domain, images = pack.load("legal"), ImageStore(tmp_path / "images")
    rows = tasks.sample(domain, "exam", 2, seed=7, image_store=images, mix={"lookup": 1})
    traces = evaluate.run_exam(
        evaluate.Candidate(
            "student",
            directory,
            "0" * 64,
            vllm=evaluate.Vllm("hermes", None, gpus=0, memory_share=0.9),
        ),
        rows,
        domain=domain,
        settings=Evaluate(engine="vllm", concurrency=2, max_steps=2, max_tokens=24),
        context=4096,
        journal=tmp_path / "journal",
        log=tmp_path / "logs" / "exam.log",
        grounding="source",
        image_store=images,
        report_episode=lambda trace: None,
    )
    assert [trace["teacher"]["engine"] for trace in traces] == ["vllm", "vllm"]
    for trace in traces:
        first = next(i for i, m in enumerate(trace["messages"]) if m["role"] == "assistant")
        before = trace["messages"][:first]
        prompt = renderer.text(before, trace["tools"], add_generation_prompt=True)
        assert trace["calls"][0]["usage"]["prompt_tokens"] == len(renderer.ids(prompt))
