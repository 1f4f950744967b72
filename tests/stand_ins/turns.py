"""Messages and traces in chat format, and the text that a student must write for them."""

import io
import json

from PIL import Image, ImageDraw
from small_students import END

from student.rendering.examples import Example
from student.rendering.labels import IGNORED
from teacher.scenes.scene import DrawnImage, Scene

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Does {name}.",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}},
        },
    }
    for name in ("find", "set_end")
]


def trace(messages, tools=TOOLS, tool_errors=()):
    return {
        "messages": messages,
        "tools": tools,
        "outcome": {"tool_errors": list(tool_errors)},
    }


def user(content):
    return {"role": "user", "content": content}


def says(content, **more):
    return {"role": "assistant", "content": content, **more}


def calls(*arguments, content="", **more):
    """A turn that calls `find` once for each of the arguments."""
    return says(
        content,
        tool_calls=[
            {
                "id": f"call_{number}",
                "type": "function",
                "function": {"name": "find", "arguments": json.dumps(value)},
            }
            for number, value in enumerate(arguments)
        ],
        **more,
    )


def result(content, number=0):
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


def stretches(examples: list[Example]) -> list[tuple[list[int], list[int]]]:
    """(tokens of the example before it, labels) of each run of labelled tokens."""
    labelled = []
    for example in examples:
        assert len(example.input_ids) == len(example.labels)
        start = None
        for at, label in enumerate([*example.labels, IGNORED]):
            if label != IGNORED:
                assert label == example.input_ids[at]
                start = at if start is None else start
            elif start is not None:
                labelled.append((example.input_ids[:start], example.labels[start:at]))
                start = None
    return labelled


def called(
    message, form='<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
) -> list[str]:
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return [
        form.format(f["name"], json.dumps(json.loads(f["arguments"]), ensure_ascii=False))
        for f in functions
    ]


def written(message, end=END) -> str:
    """The text that the student must write for a turn, made without the template."""
    return (
        "\n".join([*([message["content"]] if message["content"] else []), *called(message)]) + end
    )


TWO_REQUESTS = [
    {"role": "system", "content": "You are a paralegal."},
    user("When does C-1 end?"),
    calls({"key": "C-1"}),
    result('{"end": "2027-03-02"}'),
    says("On 2 March 2027."),
    user("And C-2?"),
    calls({"key": "C-2"}, {"key": "C-3"}),
    result("{}", 0),
    result("{}", 1),
    says("It has no end."),
]


IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


def page(number, width, height):
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((10, 10), f"Contract {number}", fill="black")
    file = io.BytesIO()
    image.save(file, "PNG")
    scene = Scene("document", {"variant": "letter", "title": number}, 0)
    return DrawnImage(scene, file.getvalue(), width, height, (), f"Contract {number}")
