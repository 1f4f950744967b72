"""The held-out exam on vLLM: its CPU build serves the default student's directory (student/evaluate.py)."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from schemas.errors import InputError
from schemas.recipe import Evaluate
from student import evaluate
from student.export import untrained
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
    ("machine", "weights", "gpus"),
    [("cpu-64GB", 20, 0), ("1xH200", 65, 1), ("2xH100-80GB", 65, 2), ("8xH100-80GB", 141, 4)],
)
def test_vllm_gets_as_many_gpus_as_the_weights_need(machine: str, weights: int, gpus: int) -> None:
    assert evaluate.vllm_gpus(weights * 1e9, hardware.parse(machine)) == gpus


def test_a_student_that_the_gpus_do_not_hold_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match=r"evaluate.engine: found vllm: 141 GB .* 1xH100-80GB"):
        evaluate.vllm_gpus(141e9, hardware.parse("1xH100-80GB"))


@pytest.mark.slow
@pytest.mark.alone
def test_the_exam_runs_on_vllm_with_the_prompts_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    try:
        vllm_server.interpreter()
    except InputError as error:
        pytest.skip(str(error))
    student = base.load("smollm2-135m")
    directory = untrained.vllm_directory(student)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    renderer = Renderer(tokenizer, chat_template(student, directory), student["stop"])
    parsers = vllm_parsers(renderer)
    assert parsers.tool == "hermes"
    domain, images = pack.load("legal"), ImageStore(tmp_path / "images")
    rows = tasks.sample(domain, "exam", 2, seed=7, image_store=images, mix={"lookup": 1})
    traces = evaluate.run_exam(
        evaluate.Candidate("base", directory, "0" * 64, vllm=evaluate.Vllm("hermes", None, gpus=0)),
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
