"""Rendering for vision-language students (student/rendering/vision.py), against transformers' own processors.

A student is trained on the prompts that its server receives, with tools and images.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from small_students import END, TINY, trl_template
from turns import IMAGE, TOOLS, calls, result, says, stretches, text, trace, user, written
from vision_students import TEMPLATES, conversation, prompts

from schemas.errors import InputError
from student.rendering import vision
from student.rendering.errors import Unrenderable
from student.rendering.examples import examples
from student.rendering.renderer import Renderer
from student.rendering.served import as_served
from student.rendering.vision import VisionRenderer
from teacher.scenes import kinds
from teacher.scenes.images import ImageStore
from teacher.scenes.scene import MAX_SIDE

pytest_plugins = ["vision_fixtures"]

# ------------------------------------------------------------------------------------- ids and labels


def check(renderer, made):
    """Checks the targets and the prompts of all turns of a trace, and returns its examples."""
    turns = [m for m in made["messages"] if m["role"] == "assistant"]
    learned = examples(made, renderer)
    targets = stretches(learned)
    assert [renderer.tokenizer.decode(labels) for _, labels in targets] == [
        written(turn) for turn in turns
    ]
    assert [prompt for prompt, _ in targets] == [
        inputs["input_ids"][0] for inputs in prompts(renderer, made)
    ]
    return learned


def test_each_turn_is_learned_with_its_stop_token_after_the_prompt_of_transformers_processor(
    vision_renderer, pages
):
    (only,) = check(vision_renderer, conversation(pages))
    assert only.image_names == pages
    shown = only.input_ids.count(
        vision_renderer.tokenizer.convert_tokens_to_ids(vision_renderer.placeholder)
    )
    assert shown == sum(map(vision_renderer.tokens, pages)) > 60


@st.composite
def conversations(draw, pages):
    """Requests, calls and results with images and texts in any order."""
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
def test_the_same_holds_for_any_order_of_texts_images_calls_and_results(
    vision_renderer, pages, data
):
    check(vision_renderer, data.draw(conversations(pages)))


def test_the_template_of_qwen25_vl_shows_text_conversations_as_qwen25_does():
    messages = [
        {"role": "system", "content": "You are a paralegal."},
        user("When?"),
        calls({"key": "C-1"}, {"key": "C-2"}),
        result("{}", 0),
        result("{}", 1),
        says("Never."),
    ]
    renderer = Renderer(TINY, TEMPLATES["qwen2_5_vl"], [END])
    qwen25 = Renderer(TINY, trl_template("qwen2_5"), [END])
    for tools in (TOOLS, []):
        assert renderer.text(messages, tools) == qwen25.text(messages, tools)


def test_a_turn_whose_call_failed_is_read_but_not_learned(vision_renderer, pages):
    (only,) = examples(conversation(pages, tool_errors=[3]), vision_renderer)
    assert [vision_renderer.tokenizer.decode(labels) for _, labels in stretches([only])] == [
        f"On 2 March 2027.{END}",
        f"Yes.{END}",
    ]


def test_more_images_than_are_named_or_a_placeholder_in_words_is_refused(vision_renderer, pages):
    with pytest.raises(Unrenderable, match="3 images in the messages, 2 named"):
        examples(conversation(pages[:2]), vision_renderer)
    forged = conversation(pages)
    forged["messages"][0]["content"] = "<|image_pad|>"
    with pytest.raises(Unrenderable, match=r"<\|image_pad\|> in its text is a control token"):
        examples(forged, vision_renderer)


def test_a_missing_image_is_reported(vision_renderer, pages, image_store):
    made = conversation(["0" * 64, *pages[1:]])
    with pytest.raises(Exception, match="no such image"):
        examples(made, vision_renderer)


def test_a_text_only_model_is_refused(image_store, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InputError, match="model_type: found llama, expected one of qwen2_5_vl"):
        VisionRenderer(TINY, TEMPLATES["qwen2_5_vl"], [END], image_store, tmp_path)


# ------------------------------------------------------------------------------------- in words


def test_a_text_only_student_reads_what_its_server_is_sent(image_store, pages):
    renderer = Renderer(TINY, trl_template("qwen2_5"), [END], image_store)
    made = conversation(pages)
    (only,) = examples(made, renderer)
    assert only.image_names == []
    decoded = TINY.decode(only.input_ids)
    for name in pages:
        assert kinds.as_text(image_store.description(name)["source"]) in decoded
    served = as_served(made, renderer)
    shown: Any = renderer.text(renderer.server_messages(served["messages"]), TOOLS)
    assert shown in f"{decoded}\n"


def test_where_a_template_allows_one_call_a_turn_each_image_follows_its_own_call(
    image_store, pages
):
    renderer = Renderer(TINY, trl_template("llama3_1"), ["<|eot_id|>"], image_store)
    messages = [user("?"), calls({"key": "a"}, {"key": "b"})]
    messages += [result([IMAGE], 1), result([IMAGE], 0), says("Done.")]
    made = trace(messages) | {"images": pages[:2]}
    served = as_served(made, renderer)
    assert served["images"] == [pages[1], pages[0]]
    assert as_served(served, renderer)["messages"] == served["messages"]


# ------------------------------------------------------------------------------------- sizes


def test_the_largest_image_takes_no_more_tokens_than_the_server_gives_it(
    vision_renderer, monkeypatch
):
    description = {"height": MAX_SIDE, "width": MAX_SIDE}
    monkeypatch.setattr(ImageStore, "description", lambda self, name: description)
    assert 4000 < vision_renderer.tokens("large") <= vision.MOST_TOKENS
    description.update(height=20, width=20)
    assert vision_renderer.tokens("small") >= vision.FEWEST_TOKENS


def test_an_image_takes_the_tokens_that_transformers_gives_it_but_where_a_side_is_half_a_token():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for side in (28, 32):
        limits = (vision.FEWEST_TOKENS * side**2, vision.MOST_TOKENS * side**2)
        for width, height in [(1000, 701), (2048, 2047), (2048, 3000), (30, 45), (17, 300)]:
            theirs = smart_resize(height, width, side, *limits)
            assert vision.fit_size(width, height, side) == theirs[::-1]
        half = 22 * side + side // 2
        assert vision.fit_size(half, 40 * side, side) == (23 * side, 40 * side)
        assert smart_resize(40 * side, half, side, *limits) == (40 * side, 22 * side)


def test_a_scaled_image_keeps_its_shape_in_the_middle_of_black():
    scaled = vision.scale_image(Image.new("RGB", (90, 128), "white"), 32)
    assert scaled.size == (96, 128)
    assert scaled.getbbox() == (3, 0, 93, 128)
