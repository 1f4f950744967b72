"""Students that see: what they learn is what their server is asked, with tools and pictures."""

import json
from typing import Any

import pytest
import tiny_vl
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from small_students import END, TINY, tiny_tokenizer, trls
from transformers import AutoTokenizer
from turns import IMAGE, TOOLS, calls, page, result, says, stretches, text, trace, user, written

from schemas.errors import InputError
from schemas.recipe import Train
from student.export.image_limits import limit_images
from student.models import base, introspect
from student.rendering import vision as rendering_vision
from student.rendering.examples import (
    IGNORED,
    Renderer,
    Unrenderable,
    as_served,
    examples,
    template_message,
)
from student.rendering.vision import VisionRenderer
from student.training import vision
from teacher.models import catalog
from teacher.scenes import kinds
from teacher.scenes.images import ImageStore
from teacher.scenes.scene import MAX_SIDE

# Each family with the template that its students have: the hub's own where it shows tools.
TEMPLATES = {
    "qwen2_5_vl": (catalog.TEMPLATES / "qwen2.5-vl-tools.jinja").read_text(),
    "qwen3_vl": trls("qwen3_vl"),
}
STUDENT = {"lora_targets": "all-linear", "capabilities": {"vision": True}}


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    return ImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def pages(album):
    """Three small pages of different sizes."""
    return [album.add(page(f"C-{n}", 150 + 60 * n, 260 - 70 * n)) for n in range(3)]


@pytest.fixture(scope="module", params=rendering_vision.FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def directory(family, tmp_path_factory):
    """A random student with bytes as tokens, its pictures limited as in an exported one."""
    to = tiny_vl.write(tiny_tokenizer(), TEMPLATES[family], tmp_path_factory.mktemp(family), family)
    limit_images(to)
    return to


@pytest.fixture(scope="module")
def seeing(family, directory, album):
    """Its renderer, with transformers' own processor beside it."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    renderer: Any = VisionRenderer(tokenizer, TEMPLATES[family], [END], album, directory)
    renderer.theirs = processor(family, tokenizer, directory)
    return renderer


def conversation(pages, tools=TOOLS, tool_errors=()):
    """Two pages with the request, one that a tool returns."""
    messages = [
        {"role": "system", "content": "You are a paralegal."},
        user([IMAGE, IMAGE, text("When does it end?")]),
        calls({"key": "C-1"}, content="I look."),
        result([text("page 3"), IMAGE]),
        says("On 2 March 2027."),
        user("Sure?"),
        says("Yes."),
    ]
    return trace(messages, tools, tool_errors) | {"id": "t/1", "images": pages}


def processor(family, tokenizer, directory):
    """transformers' own processor of the family, without the one of videos, which needs torchvision."""
    from transformers import Qwen2_5_VLProcessor, Qwen3VLProcessor

    whole: Any = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}[family]

    class OfPictures(whole):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    return OfPictures(rendering_vision.image_processor(directory), tokenizer, TEMPLATES[family])


def prompts(renderer, made):
    """Token ids of each assistant's prompt, and what the model is given with them, by transformers' own processor."""
    left, found = iter(made["images"]), []
    seen: list[Any] = []
    for index, message in enumerate(made["messages"]):
        if message["role"] == "assistant":
            given = renderer.theirs.apply_chat_template(
                [template_message(m) for m in made["messages"][:index]],
                tools=made["tools"] or None,
                add_generation_prompt=True,
                tokenize=False,
            )
            opened = [Image.open(renderer.image_store.directory / f"{name}.png") for name in seen]
            found.append(renderer.theirs(images=opened or None, text=given))
        content = message["content"]
        parts = content if isinstance(content, list) else []
        seen += [next(left) for part in parts if part == IMAGE]
    return found


# ------------------------------------------------------------------------------------- ids and labels


def check(renderer, made):
    turns = [m for m in made["messages"] if m["role"] == "assistant"]
    learned = examples(made, renderer)
    found = stretches(learned)
    assert [renderer.tokenizer.decode(labels) for _, labels in found] == [
        written(turn) for turn in turns
    ]
    assert [prompt for prompt, _ in found] == [
        asked["input_ids"][0] for asked in prompts(renderer, made)
    ]
    return learned


def test_each_turn_is_learned_with_its_stop_token_after_the_prompt_of_transformers_processor(
    seeing, pages
):
    (only,) = check(seeing, conversation(pages))
    assert only.image_names == pages
    shown = only.input_ids.count(seeing.tokenizer.convert_tokens_to_ids(seeing.placeholder))
    assert shown == sum(map(seeing.tokens, pages)) > 60


@st.composite
def conversations(draw, pages):
    """Requests, calls and results with pictures and texts in any order."""
    words = st.text("ab \n<é", max_size=8)
    parts = st.lists(st.one_of(words.map(text), st.just(IMAGE)), min_size=1, max_size=3)
    content = st.one_of(words, parts)
    messages = [user(draw(content))]
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            messages += [calls({"key": draw(words)}, {"key": "b"}), result(draw(content), 0)]
            messages += [result(draw(content), 1)]
        messages += [says("So: " + draw(words)), user(draw(content))]
    messages.append(says("Done."))
    contents = [m["content"] for m in messages if isinstance(m["content"], list)]
    number = sum(part == IMAGE for content in contents for part in content)
    images = draw(st.lists(st.sampled_from(pages), min_size=number, max_size=number))
    return trace(messages, draw(st.sampled_from([TOOLS, []]))) | {"images": images}


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_same_holds_for_any_order_of_texts_pictures_calls_and_results(seeing, pages, data):
    check(seeing, data.draw(conversations(pages)))


def test_the_template_of_qwen25_vl_shows_text_conversations_as_qwen25_does():
    messages = [
        {"role": "system", "content": "You are a paralegal."},
        user("When?"),
        calls({"key": "C-1"}, {"key": "C-2"}),
        result("{}", 0),
        result("{}", 1),
        says("Never."),
    ]
    seeing = Renderer(TINY, TEMPLATES["qwen2_5_vl"], [END])
    qwen25 = Renderer(TINY, trls("qwen2_5"), [END])
    for tools in (TOOLS, []):
        assert seeing.text(messages, tools) == qwen25.text(messages, tools)


def test_a_turn_whose_call_failed_is_read_but_not_learned(seeing, pages):
    (only,) = examples(conversation(pages, tool_errors=[3]), seeing)
    assert [seeing.tokenizer.decode(labels) for _, labels in stretches([only])] == [
        f"On 2 March 2027.{END}",
        f"Yes.{END}",
    ]


def test_more_pictures_than_are_named_or_a_placeholder_in_words_is_refused(seeing, pages):
    with pytest.raises(Unrenderable, match="3 images in the messages, 2 named"):
        examples(conversation(pages[:2]), seeing)
    forged = conversation(pages)
    forged["messages"][0]["content"] = "<|image_pad|>"
    with pytest.raises(Unrenderable, match="shows 3 images of 2"):
        examples(forged, seeing)


# ------------------------------------------------------------------------------------- in words


def test_a_text_only_student_reads_what_its_server_is_sent(album, pages):
    renderer = Renderer(TINY, trls("qwen2_5"), [END], album)
    made = conversation(pages)
    (only,) = examples(made, renderer)
    assert only.image_names == []
    read = TINY.decode(only.input_ids)
    for name in pages:
        assert kinds.as_text(album.description(name)["source"]) in read
    served = as_served(made, renderer)
    shown: Any = renderer.text(renderer.server_messages(served["messages"]), TOOLS)
    assert shown in f"{read}\n"


def test_where_a_template_allows_one_call_a_turn_each_image_follows_its_own_call(album, pages):
    one = Renderer(TINY, trls("llama3_1"), ["<|eot_id|>"], album)
    messages = [user("?"), calls({"key": "a"}, {"key": "b"})]
    messages += [result([IMAGE], 1), result([IMAGE], 0), says("Done.")]
    made = trace(messages) | {"images": pages[:2]}
    served = as_served(made, one)
    assert served["images"] == [pages[1], pages[0]]
    assert as_served(served, one)["messages"] == served["messages"]


# ------------------------------------------------------------------------------------- batches and limits


def test_a_batch_has_the_pixels_of_its_pictures_and_their_places(seeing, directory, album):
    import torch

    # Of whole tokens: others are scaled by llama.cpp's rule, which is not that of transformers.
    sides = [(4, 6), (5, 3), (9, 2)]
    whole = [album.add(page("C-9", w * seeing.side, h * seeing.side)) for w, h in sides]
    plain = trace([user("Hi"), says("Hello.")])
    rows = [vars(e) for made in (plain, conversation(whole)) for e in examples(made, seeing)]
    batch = vision.Collator(directory, album)(rows)
    last = prompts(seeing, conversation(whole))[-1]
    assert torch.equal(batch["pixel_values"], torch.as_tensor(last["pixel_values"]))
    assert batch["image_grid_thw"].tolist() == last["image_grid_thw"].tolist()
    kinds = batch["mm_token_type_ids"]
    assert kinds[0].sum() == 0 and kinds[1].sum() == sum(map(seeing.tokens, whole))
    asked = last["mm_token_type_ids"][0]
    assert kinds[1][: len(asked)].tolist() == list(asked)
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_a_picture_that_is_missing_is_said(seeing, pages, album):
    made = conversation(["0" * 64, *pages[1:]])
    with pytest.raises(Exception, match="no such image"):
        examples(made, seeing)


def test_the_largest_picture_takes_no_more_tokens_than_the_server_gives_it(seeing, monkeypatch):
    about = {"height": MAX_SIDE, "width": MAX_SIDE}
    monkeypatch.setattr(ImageStore, "description", lambda self, name: about)
    assert 4000 < seeing.tokens("large") <= rendering_vision.MOST_TOKENS
    about.update(height=20, width=20)
    assert seeing.tokens("small") >= rendering_vision.FEWEST_TOKENS


def test_a_picture_takes_the_tokens_that_transformers_gives_it_but_where_a_side_is_half_a_token():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for side in (28, 32):
        limits = (rendering_vision.FEWEST_TOKENS * side**2, rendering_vision.MOST_TOKENS * side**2)
        for width, height in [(1000, 701), (2048, 2047), (2048, 3000), (30, 45), (17, 300)]:
            theirs = smart_resize(height, width, side, *limits)
            assert rendering_vision.fit_size(width, height, side) == theirs[::-1]
        half = 22 * side + side // 2
        assert rendering_vision.fit_size(half, 40 * side, side) == (23 * side, 40 * side)
        assert smart_resize(40 * side, half, side, *limits) == (40 * side, 22 * side)


def test_a_scaled_picture_keeps_its_shape_in_the_middle_of_black():
    scaled = rendering_vision.scale_image(Image.new("RGB", (90, 128), "white"), 32)
    assert scaled.size == (96, 128)
    assert scaled.getbbox() == (3, 0, 93, 128)


def test_the_limits_are_written_wherever_transformers_looks_for_them(seeing, directory, tmp_path):
    from transformers import AutoImageProcessor

    plain = json.loads((directory / "preprocessor_config.json").read_text())
    old = {k: v for k, v in plain.items() if k != "size"} | {"min_pixels": 1, "max_pixels": 9}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    for _ in range(2):  # once with either file
        limit_images(tmp_path)
        read = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
        assert read.size["shortest_edge"] == 8 * seeing.side**2
        assert read.size["longest_edge"] == 4096 * seeing.side**2
        (tmp_path / "processor_config.json").unlink(missing_ok=True)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))


def test_a_text_model_is_no_student_that_sees(album, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="model_type: found llama, expected one of qwen2_5_vl"):
        VisionRenderer(TINY, TEMPLATES["qwen2_5_vl"], [END], album, tmp_path)


# What of the 32B models' towers is not transformers' default: for Qwen3-VL nothing; for Qwen2.5-VL the two numbers with
# which the sum is that of the weights on the hub, 66,905,436,672 bytes in 16 bits (Qwen3-VL's are 66,714,780,128).
@pytest.mark.parametrize(
    ("name", "tower"),
    [("qwen2.5-vl-32b", {"hidden_size": 1280, "intermediate_size": 3456}), ("qwen3-vl-32b", {})],
)
def test_the_parameters_in_a_description_are_those_of_its_shape_with_its_tower(name, tower):
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    student = base.load(name)
    shape = student["shape"]
    text = {key: shape[field] for field, key in introspect._SHAPE.items() if field != "model_type"}
    tower = tower | {"out_hidden_size": shape["hidden"]}
    config = AutoConfig.for_model(shape["model_type"], text_config=text, vision_config=tower)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert model.num_parameters() == student["parameters"]
    assert sum(p.numel() for p in model.model.visual.parameters()) == shape["vision"]


# ------------------------------------------------------------------------------------- trained, exported, served


@pytest.fixture(scope="module")
def embedded(family, album, tmp_path_factory):
    """A random student with the embedded student's tokenizer, and its renderer."""
    tokenizer = AutoTokenizer.from_pretrained(base.prepare(base.load("smollm2-135m")))
    to = tmp_path_factory.mktemp("embedded")
    directory = tiny_vl.write(tokenizer, TEMPLATES[family], to, family)
    return directory, VisionRenderer(tokenizer, TEMPLATES[family], [END], album, directory)


SETTINGS = Train(rank=4, scheduler="constant", warmup_ratio=0, dtype="float32", log_steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_computed_at_once_changes_nothing_that_is_learned(
    method, directory, seeing, pages, album, tmp_path
):
    from student.training import sft

    plain = trace([user("Hi"), says("Hello.")])
    made = [plain, conversation(pages), trace([user("Who?"), says("A notary of Bern.")])]
    learned = [e for one in made for e in examples(one, seeing)]
    losses = []
    for limit in (16, 16384):
        steps = {"epochs": 3, "batch_size": 3, "learning_rate": 0.001, "micro_batch": limit}
        settings = SETTINGS.model_copy(update={"method": method, **steps})
        work = tmp_path / str(limit)
        sft.train(
            directory,
            STUDENT,
            settings,
            examples=learned,
            held_out=learned,
            work=work,
            log=lambda text: None,
            image_store=album,
        )
        rows = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
        losses.append([row.get("loss", row.get("eval_loss")) for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    # The held-out loss after the first step is that of the same examples in the second.
    first, held_out, second = losses[0][:3]
    assert held_out == pytest.approx(second, rel=1e-3) and second < first


@pytest.fixture(scope="module")
def trained(embedded, pages, album, tmp_path_factory):
    from student.export import gguf, merge
    from student.training import sft

    directory, renderer = embedded
    work = tmp_path_factory.mktemp("trained")
    plain = trace([user("Hi"), says("Hello.")])
    learned = [e for made in (conversation(pages), plain) for e in examples(made, renderer)]
    steps = {"epochs": 2, "batch_size": 2, "learning_rate": 0.02}
    settings = SETTINGS.model_copy(update=steps)
    done = sft.train(
        directory,
        STUDENT,
        settings,
        examples=learned,
        held_out=learned[:1],
        work=work,
        log=lambda text: None,
        image_store=album,
    )
    merge.merge(directory, work / "adapter", work / "merged", renderer.template)
    gguf.convert(work / "merged", work / "full.gguf")
    gguf.convert(work / "merged", work / "mmproj.gguf", projector=True)
    gguf.quantize(work / "full.gguf", work / "q8.gguf", "Q8_0")
    return work, done


@pytest.mark.slow
def test_two_steps_on_pixels_and_tools_train_the_language_model_alone(trained, embedded):
    import torch
    from safetensors.torch import load_file

    work, done = trained
    assert done["steps"] == 2
    losses = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if "loss" in row]
    assert losses[1] < losses[0]
    assert done["eval_loss"] is not None
    before = load_file(embedded[0] / "model.safetensors")
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
    served, trained, embedded, pages, album
):
    import torch
    from transformers import AutoModelForImageTextToText

    from student.export import image_check

    directory, renderer = embedded
    model = AutoModelForImageTextToText.from_pretrained(trained[0] / "merged", dtype=torch.float32)
    half = renderer.side // 2
    # Sides of half a token, smaller than the limit, and a long one.
    odd = [(5 * half, 9 * half), (23, 41), (37 * half, 101)]
    odd = [album.add(page(f"C-{n}", *size)) for n, size in enumerate(odd)]
    for shown in (pages, odd):
        (only,) = examples(conversation(shown), renderer)
        whole = vision.Collator(directory, album)([vars(only)])
        end = next(i for i, label in enumerate(only.labels) if label != IGNORED)  # the first answer
        first = ("input_ids", "attention_mask", "mm_token_type_ids")
        asked = {key: whole[key][:, :end] for key in first}
        two = whole["image_grid_thw"][:2]
        patches = whole["pixel_values"][: two.prod(1).sum()]
        with torch.no_grad():
            logits = model(**asked, image_grid_thw=two, pixel_values=patches).logits
        expected = logits[0, -1].log_softmax(-1)
        messages = as_served(conversation(shown), renderer)["messages"][:2]
        tokens, likely = image_check.next_token(served, renderer.server_messages(messages), TOOLS)
        assert tokens == end
        for token, logprob in likely:  # the server computes in bfloat16
            assert logprob == pytest.approx(expected[token].item(), abs=0.05)


@pytest.mark.slow
def test_the_gate_notices_pictures_of_another_size_and_pictures_that_are_not_read(
    served, trained, embedded, pages, tmp_path, monkeypatch
):
    import torch
    from safetensors.torch import load_file, save_file

    from student.export import gguf, image_check
    from teacher.inference.llama_server import serve

    renderer = embedded[1]
    traces: list[Any] = [as_served(conversation(pages), renderer)]
    assert image_check.check_image_round_trip(served, traces, renderer)["passed"]
    with monkeypatch.context() as larger:
        larger.setattr(rendering_vision, "FEWEST_TOKENS", 200)
        found = image_check.check_image_round_trip(served, traces, renderer)
    assert not found["passed"] and "in training" in found["detail"]
    # Where no trace has a picture, one is drawn.
    plain: Any = trace([user("Hi"), says("Hello.")]) | {"id": "t/2"}
    assert image_check.check_image_round_trip(served, [plain], renderer)["passed"]

    blind = tmp_path / "blind"
    blind.mkdir()
    for file in (trained[0] / "merged").iterdir():
        (blind / file.name).write_bytes(file.read_bytes())
    weights = load_file(blind / "model.safetensors")
    for name in weights:  # the last layer of each way from the tower into the language model
        if "merger" in name and (".mlp.2." in name or ".linear_fc2." in name):
            weights[name] = torch.full_like(weights[name], 0.01 if name.endswith("bias") else 0)
    save_file(weights, blind / "model.safetensors", metadata={"format": "pt"})
    gguf.convert(blind, tmp_path / "mmproj.gguf", projector=True)
    work, tower = trained[0], tmp_path / "mmproj.gguf"
    with serve(work / "full.gguf", tmp_path / "log", 1, 8192, projector=tower) as endpoint:
        found = image_check.check_image_round_trip(endpoint, traces, renderer)
    assert not found["passed"] and "not read" in found["detail"]


@pytest.mark.slow
def test_a_directory_of_a_student_that_sees_describes_itself(embedded, tmp_path):
    directory = tmp_path / "student"
    directory.mkdir()
    for file in embedded[0].iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "LICENSE").write_text("Apache-2.0\n")
    student = introspect.describe(str(directory))
    assert base.has_vision(student) and student["lora_targets"] == "all-linear"


@pytest.mark.slow
def test_the_exported_student_passes_the_gate_with_pictures(trained, embedded, pages, tmp_path):
    from student.export import gate

    work, renderer = trained[0], embedded[1]
    traces: list[Any] = [as_served(conversation(pages), renderer)]
    checks = gate.run_gate(
        work / "q8.gguf",
        traces,
        renderer,
        context=8192,
        log=tmp_path / "log",
        projector=work / "mmproj.gguf",
    )
    found = {check["name"]: check for check in checks}
    # A random student neither ends a turn nor calls a tool.
    for name in ("template", "stop_token", "rendering", "token_ids", "image_round_trip"):
        assert found[name]["passed"], found[name]
    assert "3 prompts with images" in found["image_round_trip"]["detail"]
