"""A vision-language student through all stages, from the plan to an answer of the pulled files about an image.

Everything is real but the teacher, the scripted one of image_teacher, and the student's weights, which are random. The
student learns the form of a call and the end of a turn, which the gate requires, and nothing else.
"""

import asyncio
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import image_teacher
import pytest
import tiny_vl
import yaml
from http_server import HttpServer
from image_teacher import Teacher
from oci_server import needs_registry, oci_server
from oras.client import OrasClient
from small_students import trl_template
from typer.testing import CliRunner

from flows import distill
from flows.cli import main
from flows.report import html
from flows.run_context import RunContext
from flows.run_directory import STAGES
from flows.stages import PIPELINE
from schemas.documents import check_document
from schemas.errors import InputError
from schemas.files import read_json, read_jsonl, sha256, write_json
from schemas.filter import FilterSettings, check_trace
from schemas.tags import variant_tag
from student import evaluate
from student.export import untrained
from student.models import base
from student.registry.lookup import resolve
from student.registry.open_store import open_store
from student.rendering.examples import examples, turns
from student.rendering.served import as_served
from teacher.inference.client import Client
from teacher.inference.journal import Journal
from teacher.inference.llama_server import serve
from teacher.models import catalog
from teacher.scenes.images import request_messages

pytestmark = pytest.mark.slow

TEMPLATE = (catalog.TEMPLATES / "qwen2.5-vl-tools.jinja").read_text(encoding="utf-8")
WITH_VISION = {
    "capabilities": {"tools": True, "vision": True, "thinking": False},
    "images": {"max_count": 4, "max_bytes": 4_000_000},
}
SETTINGS = {
    "tasks.train": "10",
    "tasks.exam": "5",
    "generate.blind": "false",
    # The student overfits to its few traces.
    "train.rank": "64",
    "train.alpha": "64",
    "train.epochs": "40",
    "train.batch_size": "2",
    "train.learning_rate": "8.0e-3",
    "train.warmup_ratio": "0",
    "train.holdout": "0",
    "train.dtype": "float32",
    "train.save_steps": "1000",
    "evaluate.concurrency": "1",
    "evaluate.max_tokens": "32",
    "evaluate.max_steps": "3",
    "gate.min_gain": "-1",
    "gate.min_well_formed": "0",
    "publish.data": "true",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), TEMPLATE, "qwen2_5_vl")


def write_model(to: Path, template: str, family: str) -> Path:
    """Writes a random student in Hugging Face's form, with a licence."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.prepare(base.load("smollm2-135m")))
    directory = tiny_vl.write(tokenizer, template, to / "tiny-vl", family)
    (directory / "LICENSE").write_text("Apache-2.0\n")
    return directory


def described(model: Path, to: Path) -> Path:
    """Writes a description of the student, as a user may, to `to`."""
    student = {
        "name": "tiny-vl",
        "description": "a random Qwen2.5-VL",
        "source": {"path": str(model)},
        "template": "qwen2.5-vl-tools.jinja",
        "licence": {"id": "Apache-2.0"},
        "context": 8192,
        "stop": ["<|im_end|>"],
        "parameters": 7_000_000,
        "capabilities": {"vision": True},
        "lora_targets": "all-linear",
    }
    to.write_text(yaml.safe_dump(student))
    return to


def run_all(context: RunContext, until: str | None = None) -> dict[str, Any]:
    return distill.run_stages(context, until)


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The context of a run of all stages, its summary, and the requests to its teacher."""
    directory = tmp_path_factory.mktemp("vision")
    Teacher.tasks, Teacher.requests = {}, []
    server = HttpServer(Teacher)
    changes = {
        **SETTINGS,
        "student": str(described(model, directory / "tiny-vl.yaml")),
        "publish.store": str(directory / "store"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLHOUSE_TEACHER_KEY", "secret")
        patch.setenv("STILLHOUSE_STORE", str(directory / "store"))
        try:
            context = image_teacher.open_context(directory, server.url, WITH_VISION, **changes)
            with context.run:
                run_all(context, "plan")
                rows = read_jsonl(context.path("tasks", "train.jsonl"))
                Teacher.tasks = {task["id"]: task for task in rows}
                summary = run_all(context)
                yield SimpleNamespace(
                    context=context, summary=summary, requests=list(Teacher.requests)
                )
        finally:
            server.close()


def test_the_run_goes_through_all_stages(finished: SimpleNamespace) -> None:
    assert list(finished.summary["stages"]) == list(STAGES)


def test_the_examples_hold_the_images_and_all_their_tokens(finished: SimpleNamespace) -> None:
    context = finished.context
    renderer = context.renderer()
    kept = list(read_jsonl(context.path("filter", "kept.jsonl")))
    learned = [example for trace in kept for example in examples(trace, renderer)]
    shown = [name for example in learned for name in example.image_names]
    assert shown == [name for trace in kept for name in trace["images"]] and len(shown) > 8
    placeholder = renderer.tokenizer.convert_tokens_to_ids(renderer.placeholder)
    assert sum(e.input_ids.count(placeholder) for e in learned) == sum(map(renderer.tokens, shown))
    counts = read_json(context.path("train", "examples.json"))
    assert counts["tokens"] == sum(len(example.input_ids) for example in learned)
    assert counts["pictures"] == len(shown)
    assert f"{len(shown)} images read as pixels" in html.write(context.directory).read_text()
    assert {t["grounding"] for t in kept if t["images"]} == {"pixels"}


def test_the_export_is_complete_and_its_gate_compared_images(finished: SimpleNamespace) -> None:
    context = finished.context
    names = {file.name for file in context.path("export", "gguf").iterdir()}
    assert names == {f"fees-tiny-vl-{v}.gguf" for v in ("Q8_0", "Q4_K_M", "mmproj")}
    vllm = context.path("export", "vllm")
    assert (vllm / "chat_template.jinja").read_bytes() == TEMPLATE.encode()
    assert read_json(vllm / "tokenizer_config.json")["chat_template"] == TEMPLATE
    assert read_json(vllm / "preprocessor_config.json")["size"]["longest_edge"] == 4096 * 28 * 28
    gate = read_json(context.path("export", "gate.json"))
    assert set(gate) == {"16 bits", "Q8_0", "Q4_K_M"}
    assert [check["name"] for check in gate.pop("16 bits")] == ["logits"]
    for checks in gate.values():
        assert all(check["passed"] for check in checks)
        assert "prompts with images" in checks[-1]["detail"]


def test_base_and_student_are_evaluated_on_pixels(finished: SimpleNamespace) -> None:
    context = finished.context
    exam = {row["id"]: row for row in read_jsonl(context.path("tasks", "exam.jsonl"))}
    # The answer is a point on the page, which only pixels show.
    assert "where_is_the_fee" in {row["template"] for row in exam.values()}
    renderer = context.renderer()
    for name in ("base", "student"):
        traces = list(read_jsonl(context.path("evaluate", f"{name}.jsonl")))
        with_images = [trace for trace in traces if exam[trace["task"]["id"]].get("pictures")]
        assert len(with_images) > 2
        for trace in with_images:
            assert trace["grounding"] == "pixels" and trace["outcome"]["ended"] != "teacher_error"
            image_tokens = sum(
                renderer.tokens(p["sha256"]) for p in exam[trace["task"]["id"]]["pictures"]
            )
            assert trace["calls"][0]["usage"]["prompt_tokens"] > image_tokens
        assert "mmproj" in context.path("logs", f"exam-{name}.log").read_text(errors="replace")
    for file in context.path("journal").iterdir():
        assert "base64" not in file.read_text()
    check_document(read_json(context.path("evaluate", "scorecard.json")), "scorecard", "scorecard")


def test_the_model_card_names_vision_and_the_command_that_serves_it(
    finished: SimpleNamespace,
) -> None:
    card = finished.context.path("publish", "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-text-to-text"
    assert "Images were shown as pixels." in card
    assert (
        "llama-server -m fees/fees-tiny-vl-Q8_0.gguf --mmproj fees/fees-tiny-vl-mmproj.gguf" in card
    )


@pytest.fixture
def pulled(
    finished: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, str]:
    """The directory with one pulled variant, and the output of the command."""
    monkeypatch.setenv("STILLHOUSE_STORE", str(finished.context.recipe.publish.store))
    to = tmp_path / "pulled"
    result = CliRunner().invoke(main.app, ["pull", "fees", "--variant", "Q4_K_M", "--to", str(to)])
    assert result.exit_code == 0, result.output
    return to, result.output


def test_a_pulled_variant_has_its_vision_tower_and_answers_about_an_image(
    finished: SimpleNamespace, pulled: tuple[Path, str]
) -> None:
    directory, output = pulled
    assert {file.name for file in directory.glob("*.gguf")} == {
        "fees-tiny-vl-Q4_K_M.gguf",
        "fees-tiny-vl-mmproj.gguf",
    }
    [line] = [line for line in output.splitlines() if line.startswith("serve it: ")]
    words = shlex.split(line.removeprefix("serve it: "))
    assert Path(words[0]).name == "llama-server" and shutil.which(words[0])
    assert words[1] == "--jinja"
    weights, tower = (Path(words[words.index(option) + 1]) for option in ("-m", "--mmproj"))

    context = finished.context
    kept = list(read_jsonl(context.path("filter", "kept.jsonl")))
    trace = next(t for t in kept if t["task"]["template"] == "fee_on_page")
    renderer = context.renderer()
    expected = len(turns(trace, renderer)[0].prompt_ids)
    messages = as_served(trace, renderer)["messages"][:2]

    async def ask() -> Any:
        with serve(weights, directory / "log", 1, 4096, projector=tower) as endpoint:
            journal = Journal(directory / "journal")
            identity = {"model": "m", "revision": "r"}
            async with Client(endpoint, identity, journal, 1, 120, context.image_store) as client:
                sent = request_messages(messages, "pixels", context.image_store)
                return await client.complete(sent, trace["tools"], 0, max_tokens=32)

    reply = asyncio.run(ask())
    assert reply.error is None and reply.message
    assert reply.usage["prompt_tokens"] == expected


def test_the_traces_are_published_with_their_images(
    finished: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setenv("STILLHOUSE_STORE", str(finished.context.recipe.publish.store))
    arguments = ["pull", "fees", "--variant", "data", "--to", str(tmp_path)]
    result = CliRunner().invoke(main.app, arguments)
    assert result.exit_code == 0, result.output
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "data" / "train.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    kept = list(read_jsonl(finished.context.path("filter", "kept.jsonl")))
    assert [len(row["images"]) for row in rows] == [len(trace["images"]) for trace in kept]
    assert not list(tmp_path.glob("*.gguf"))


def test_a_second_run_does_nothing(finished: SimpleNamespace, capfd: pytest.CaptureFixture) -> None:
    request_count = len(Teacher.requests)
    run_all(finished.context)
    assert capfd.readouterr().err.count("is done already") == len(STAGES)
    assert len(Teacher.requests) == request_count


def test_published_again_under_a_tag_it_is_the_same_version(finished: SimpleNamespace) -> None:
    context = finished.context
    published = context.recipe.publish
    named = published.model_copy(update={"tag": "audited"})
    tagged = replace(context, recipe=context.recipe.model_copy(update={"publish": named}))
    PIPELINE["publish"].run(tagged)
    model = resolve(open_store(Path(published.store)), "fees:audited")
    assert model.tag == "1" and set(model.tags) == {"1", "latest", "audited"}
    assert context.run.receipt("publish")["result"]["tag"] == "1"


@needs_registry
def test_it_is_published_to_a_registry_and_pulled_by_another(
    finished: SimpleNamespace, tmp_path: Path
) -> None:
    context = finished.context
    variant = context.recipe.evaluate.variant
    with oci_server(tmp_path / "registry") as server, pytest.MonkeyPatch.context() as patch:
        store = server.store()
        patch.setenv("STILLHOUSE_STORE", store.location)
        PIPELINE["publish"].run(context)
        result = context.run.receipt("publish")["result"]
        assert (result["tag"], result["store"]) == ("1", store.location)
        assert PIPELINE["publish"].is_current(context)
        assert main._run(["pull", "fees", "--to", str(tmp_path / "out")]) == 0
        oras = OrasClient(hostname=server.host, insecure=True)
        tag = variant_tag(1, variant)
        oras.pull(f"{server.host}/team/students/fees:{tag}", outdir=str(tmp_path / "oras"))
    PIPELINE["publish"].run(context)  # the run's receipt names its own store again
    for name in (context.gguf_name(variant), context.gguf_name("mmproj")):
        original = sha256(context.path("export", "gguf", name))
        assert sha256(tmp_path / "out" / name) == sha256(tmp_path / "oras" / name) == original


# ------------------------------------------------------------------------------------- the other family

# Its training, export and gate are in training/test_vision.py.


def test_a_qwen3_vl_is_planned_by_its_directory_and_evaluated_with_its_own_template(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path, trl_template("qwen3_vl"), "qwen3_vl")
    context = planned(tmp_path, model)
    with context.run:
        PIPELINE["plan"].run(context)
        renderer = context.renderer()
        row = next(r for r in read_jsonl(context.path("tasks", "exam.jsonl")) if "pictures" in r)
        file, tower = untrained.gguf(context.student, "Q8_0"), untrained.projector(context.student)
        candidate = evaluate.Candidate(
            "base", file, sha256(file), template=catalog.template(context.student), projector=tower
        )
        [trace] = evaluate.run_exam(
            candidate,
            [row],
            domain=context.domain,
            settings=context.recipe.evaluate,
            context=8192,
            journal=context.path("journal"),
            log=context.path("logs", "exam-base.log"),
            grounding="pixels",
            image_store=context.image_store,
            report_episode=lambda trace: None,
        )
    assert context.student["shape"]["model_type"] == "qwen3_vl"
    assert trace["grounding"] == "pixels" and trace["outcome"]["ended"] != "teacher_error"
    messages = as_served(cast(Any, trace), renderer)["messages"][:2]
    prompt = renderer.text(messages, trace["tools"], add_generation_prompt=True)
    expected = len(renderer.ids(prompt, renderer.image_names(messages)))
    assert trace["calls"][0]["usage"]["prompt_tokens"] == expected


# ------------------------------------------------------------------------------------- what is refused


def planned(directory: Path, student: Path | str, **changes: str) -> RunContext:
    settings = {**SETTINGS, "tasks.train": "4", "tasks.exam": "2", "student": str(student)}
    return image_teacher.open_context(
        directory, "http://127.0.0.1:1/v1", WITH_VISION, **{**settings, **changes}
    )


def test_a_vision_language_student_is_trained_on_words_by_recipe(
    finished: SimpleNamespace, model: Path, tmp_path: Path
) -> None:
    context = planned(tmp_path, described(model, tmp_path / "s.yaml"), **{"train.images": "source"})
    with context.run:
        PIPELINE["plan"].run(context)
        exam = [*read_jsonl(context.path("tasks", "exam.jsonl"))]
        assert "where_is_the_fee" not in {row["template"] for row in exam}
        renderer = context.renderer()
    renderer.image_store = finished.context.image_store
    kept = list(read_jsonl(finished.context.path("filter", "kept.jsonl")))
    learned = [example for trace in kept for example in examples(trace, renderer)]
    assert not any(example.image_names for example in learned)
    assert any("Fee due" in renderer.tokenizer.decode(e.input_ids) for e in learned)


def test_a_trace_whose_images_take_too_many_tokens_is_too_long(
    finished: SimpleNamespace,
) -> None:
    renderer = finished.context.renderer()

    def lengths(trace: Any, enough: int) -> list[int]:
        return [len(turn) for turn in turns(trace, renderer)]

    kept = list(read_jsonl(finished.context.path("filter", "kept.jsonl")))
    assert max(len(trace["messages"]) for trace in kept) < 8  # so the words are not what is long
    settings = FilterSettings(max_tokens=400, near_duplicate=0.95, contamination=0.9, per_task=1)
    reasons = {check_trace(trace, settings, lengths)["reason"] for trace in kept if trace["images"]}
    assert reasons == {"too_long"}


def test_pixels_for_a_text_only_student_are_refused(tmp_path: Path) -> None:
    context = planned(tmp_path, "smollm2-135m", **{"train.images": "pixels"})
    with context.run, pytest.raises(InputError) as raised:
        PIPELINE["plan"].run(context)
    assert str(raised.value) == (
        "train.images: found pixels, expected source: smollm2-135m is a text-only model"
    )


def without_settings(directory: Path) -> None:
    (directory / "preprocessor_config.json").unlink()


def with_broken_settings(directory: Path) -> None:
    (directory / "preprocessor_config.json").write_text("{")


def with_a_template_for_texts(directory: Path) -> None:
    text = TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    (directory / "chat_template.jinja").write_text(text)


def of_another_family(directory: Path) -> None:
    config = read_json(directory / "config.json")
    write_json(directory / "config.json", {**config, "model_type": "qwen2_vl"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_settings, "no preprocessor_config.json"),
        (with_broken_settings, "preprocessor_config.json: not JSON: "),
        (with_a_template_for_texts, "its chat template shows no images"),
        (of_another_family, "model_type: found qwen2_vl, expected one of qwen2_5_vl, qwen3_vl"),
    ],
)
@pytest.mark.parametrize("form", ["directory", "file"])
def test_a_student_that_cannot_train_on_pixels_is_refused_at_load(
    change: Callable[[Path], None], message: str, form: str, model: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "broken"
    shutil.copytree(model, directory)
    change(directory)
    name = directory
    if form == "file":
        name = described(directory, tmp_path / "broken.yaml")
        student = yaml.safe_load(name.read_text())
        name.write_text(yaml.safe_dump({**student, "template": None}))
    with pytest.raises(InputError, match=re.escape(message)):
        base.load(str(name))
