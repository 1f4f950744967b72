"""Vision-language students of each family: templates, a conversation with images, transformers' own processor."""

from typing import Any

from PIL import Image
from small_students import trl_template
from turns import IMAGE, TOOLS, calls, result, says, text, trace, user

from student.rendering.renderer import template_message
from student.rendering.vision import image_processor
from teacher.models import catalog

# Each family with its students' template: the hub's own where that renders tools.
TEMPLATES = {
    "qwen2_5_vl": (catalog.TEMPLATES / "qwen2.5-vl-tools.jinja").read_text(),
    "qwen3_vl": trl_template("qwen3_vl"),
}


def conversation(pages, tools=TOOLS, tool_errors=()):
    """A trace with two pages in the request and one that a tool returns."""
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
    """transformers' own processor of the family, without its video processor, which needs torchvision."""
    from transformers import Qwen2_5_VLProcessor, Qwen3VLProcessor

    full: Any = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}[family]

    class ImageProcessorOnly(full):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    return ImageProcessorOnly(image_processor(directory), tokenizer, TEMPLATES[family])


def prompts(renderer, trace):
    """The model's inputs for each assistant's prompt, made by `renderer.reference`, transformers' own processor."""
    names, inputs = iter(trace["images"]), []
    shown: list[Any] = []
    for index, message in enumerate(trace["messages"]):
        if message["role"] == "assistant":
            prompt = renderer.reference.apply_chat_template(
                [template_message(m) for m in trace["messages"][:index]],
                tools=trace["tools"] or None,
                add_generation_prompt=True,
                tokenize=False,
            )
            images = [Image.open(renderer.image_store.directory / f"{name}.png") for name in shown]
            inputs.append(renderer.reference(images=images or None, text=prompt))
        content = message["content"]
        parts = content if isinstance(content, list) else []
        shown += [next(names) for part in parts if part == IMAGE]
    return inputs
