"""Training of vision-language students: batches with images, training on pixels, and the exported student's server."""

import json
from typing import Any

import pytest
from stored_examples import stored
from turns import TOOLS, page, says, trace, user
from vision_students import conversation, prompts

from schemas.recipe import Train
from student.rendering import vision as rendering_vision
from student.rendering.examples import examples
from student.rendering.labels import IGNORED
from student.rendering.served import as_served
from student.training import vision

pytest_plugins = ["vision_fixtures"]

STUDENT = {"lora_targets": "all-linear", "capabilities": {"vision": True}}


def test_a_batch_has_the_pixels_of_its_images_and_their_positions(
    vision_renderer, vision_directory, image_store
):
    import torch

    # Sides of whole tokens: llama.cpp and transformers scale others differently.
    sides = [(4, 6), (5, 3), (9, 2)]
    whole = [
        image_store.add(page("C-9", w * vision_renderer.side, h * vision_renderer.side))
        for w, h in sides
    ]
    text_only = trace([user("Hi"), says("Hello.")])
    rows = [
        vars(e)
        for made in (text_only, conversation(whole))
        for e in examples(made, vision_renderer)
    ]
    batch = vision.Collator(vision_directory, image_store)(rows)
    last = prompts(vision_renderer, conversation(whole))[-1]
    assert torch.equal(batch["pixel_values"], torch.as_tensor(last["pixel_values"]))
    assert batch["image_grid_thw"].tolist() == last["image_grid_thw"].tolist()
    kinds = batch["mm_token_type_ids"]
    assert kinds[0].sum() == 0 and kinds[1].sum() == sum(map(vision_renderer.tokens, whole))
    expected = last["mm_token_type_ids"][0]
    assert kinds[1][: len(expected)].tolist() == list(expected)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


# ------------------------------------------------------------------------------------- trained, exported, served

SETTINGS = Train(rank=4, scheduler="constant", warmup_ratio=0, dtype="float32", log_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_computed_at_once_changes_nothing_that_is_learned(
    method, vision_directory, vision_renderer, pages, image_store, tmp_path
):
    from student.training import sft

    text_only = trace([user("Hi"), says("Hello.")])
    traces = [text_only, conversation(pages), trace([user("Who?"), says("A notary of Bern.")])]
    learned = [e for one in traces for e in examples(one, vision_renderer)]
    losses = []
    for limit in (16, 16384):
        steps = {"epochs": 3, "batch_size": 3, "learning_rate": 0.001, "micro_batch": limit}
        settings = SETTINGS.model_copy(update={"method": method, **steps})
        work = tmp_path / str(limit)
        sft.train(
            vision_directory,
            STUDENT,
            settings,
            examples=[stored(learned, tmp_path)],
            held_out=stored(learned, tmp_path),
            work=work,
            log=lambda text: None,
            image_store=image_store,
        )
        rows = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
        losses.append([row.get("loss", row.get("eval_loss")) for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    # The held-out loss after the first step is the training loss of the same examples in the second step.
    first, held_out, second = losses[0][:3]
    assert held_out == pytest.approx(second, rel=1e-3) and second < first


@pytest.fixture(scope="module")
def trained(smollm_vision, pages, image_store, tmp_path_factory):
    from student.export import gguf, merge
    from student.training import sft

    directory, renderer = smollm_vision
    work = tmp_path_factory.mktemp("trained")
    text_only = trace([user("Hi"), says("Hello.")])
    learned = [e for made in (conversation(pages), text_only) for e in examples(made, renderer)]
    steps = {"epochs": 2, "batch_size": 2, "learning_rate": 0.02}
    settings = SETTINGS.model_copy(update=steps)
    result = sft.train(
        directory,
        STUDENT,
        settings,
        examples=[stored(learned, work)],
        held_out=stored(learned[:1], work),
        work=work,
        log=lambda text: None,
        image_store=image_store,
    )
    merge.merge(directory, work / "adapter", work / "merged", renderer.template)
    gguf.convert(work / "merged", work / "full.gguf")
    gguf.convert(work / "merged", work / "mmproj.gguf", projector=True)
    gguf.quantize(work / "full.gguf", work / "q8.gguf", "Q8_0")
    return work, result


@pytest.mark.slow
def test_two_steps_on_pixels_and_tools_train_the_language_model_alone(trained, smollm_vision):
    import torch
    from safetensors.torch import load_file

    work, result = trained
    assert result["steps"] == 2
    losses = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if "loss" in row]
    assert losses[1] < losses[0]
    assert result["eval_loss"] is not None
    before = load_file(smollm_vision[0] / "model.safetensors")
    after = load_file(work / "merged" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if ".layers." in n and n.endswith("_proj.weight")}


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    from teacher.inference.llama_server import serve

    work, log = trained[0], tmp_path_factory.mktemp("served") / "log"
    with serve(work / "full.gguf", log, 1, 8192, projector=work / "mmproj.gguf") as endpoint:
        yield endpoint


@pytest.mark.slow
def test_the_server_reads_pixels_of_any_size_as_transformers_does_in_training(
    served, trained, smollm_vision, pages, image_store
):
    import torch
    from transformers import AutoModelForImageTextToText

    from student.export import image_check

    directory, renderer = smollm_vision
    model = AutoModelForImageTextToText.from_pretrained(trained[0] / "merged", dtype=torch.float32)
    half = renderer.side // 2
    # Sides with half a token, an image below the limit, and a long one.
    odd = [(5 * half, 9 * half), (23, 41), (37 * half, 101)]
    odd = [image_store.add(page(f"C-{n}", *size)) for n, size in enumerate(odd)]
    for shown in (pages, odd):
        (only,) = examples(conversation(shown), renderer)
        whole = vision.Collator(directory, image_store)([vars(only)])
        end = next(i for i, label in enumerate(only.labels) if label != IGNORED)  # the first answer
        first = ("input_ids", "attention_mask", "mm_token_type_ids")
        inputs = {key: whole[key][:, :end] for key in first}
        two = whole["image_grid_thw"][:2]
        patches = whole["pixel_values"][: two.prod(1).sum()]
        with torch.no_grad():
            logits = model(**inputs, image_grid_thw=two, pixel_values=patches).logits
        expected = logits[0, -1].log_softmax(-1)
        messages = as_served(conversation(shown), renderer)["messages"][:2]
        tokens, likely = image_check.next_token(served, renderer.server_messages(messages), TOOLS)
        assert tokens == end
        for token, logprob in likely:  # the server computes in bfloat16
            assert logprob == pytest.approx(expected[token].item(), abs=0.05)


@pytest.mark.slow
def test_the_gate_notices_images_of_another_size_and_images_that_are_not_read(
    served, trained, smollm_vision, pages, tmp_path, monkeypatch
):
    import torch
    from safetensors.torch import load_file, save_file

    from student.export import gguf, image_check
    from teacher.inference.llama_server import serve

    renderer = smollm_vision[1]
    traces: list[Any] = [as_served(conversation(pages), renderer)]
    assert image_check.check_image_round_trip(served, traces, renderer)["passed"]
    with monkeypatch.context() as patch:
        patch.setattr(rendering_vision, "FEWEST_TOKENS", 200)
        check = image_check.check_image_round_trip(served, traces, renderer)
    assert not check["passed"] and "in training" in check["detail"]
    # Where no trace has an image, one is drawn.
    text_only: Any = trace([user("Hi"), says("Hello.")]) | {"id": "t/2"}
    assert image_check.check_image_round_trip(served, [text_only], renderer)["passed"]

    blind = tmp_path / "blind"
    blind.mkdir()
    for file in (trained[0] / "merged").iterdir():
        (blind / file.name).write_bytes(file.read_bytes())
    weights = load_file(blind / "model.safetensors")
    for name in weights:  # the last layers of the tower's projectors into the language model
        if "merger" in name and (".mlp.2." in name or ".linear_fc2." in name):
            weights[name] = torch.full_like(weights[name], 0.01 if name.endswith("bias") else 0)
    save_file(weights, blind / "model.safetensors", metadata={"format": "pt"})
    gguf.convert(blind, tmp_path / "mmproj.gguf", projector=True)
    work, tower = trained[0], tmp_path / "mmproj.gguf"
    with serve(work / "full.gguf", tmp_path / "log", 1, 8192, projector=tower) as endpoint:
        check = image_check.check_image_round_trip(endpoint, traces, renderer)
    assert not check["passed"] and "not read" in check["detail"]


@pytest.mark.slow
def test_the_exported_student_passes_the_gate_with_images(trained, smollm_vision, pages, tmp_path):
    from student.export import gate

    work, renderer = trained[0], smollm_vision[1]
    traces: list[Any] = [as_served(conversation(pages), renderer)]
    checks = gate.run_gate(
        work / "q8.gguf",
        traces,
        renderer,
        context=8192,
        log=tmp_path / "log",
        projector=work / "mmproj.gguf",
    )
    results = {check["name"]: check for check in checks}
    # A random model neither ends turns nor calls tools, so those checks fail.
    for name in ("template", "stop_token", "rendering", "token_ids", "image_round_trip"):
        assert results[name]["passed"], results[name]
    assert "3 prompts with images" in results["image_round_trip"]["detail"]
