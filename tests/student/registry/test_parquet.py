"""The published form of kept traces, read back as a trainer reads it."""

import io
import json

from PIL import Image
from turns import IMAGE, TOOLS, calls, page, result, says, text, trace, user

from student.registry import parquet
from teacher.scenes.images import ImageStore


def test_a_parquet_file_has_messages_tools_and_the_bytes_of_images(tmp_path):
    import datasets

    image_store = ImageStore(tmp_path / "images")
    names = [image_store.add(page("C-1", 100, 60)), image_store.add(page("C-2", 80, 90))]
    messages = [
        user([IMAGE, text("When does it end?")]),
        calls({"key": "C-1"}, {"z": [1, None]}, reasoning_content="I look."),
        result([text("page"), IMAGE]),
        result("{}", 1),
        says("Never."),
    ]
    rows = [trace(messages) | {"images": names}, trace([user("Hi"), says("Hello.")], [])]
    assert parquet.write(rows, image_store, tmp_path / "train.parquet") == 2
    read = datasets.Dataset.from_parquet(
        str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )
    first, second = read[0], read[1]
    assert [image.size for image in first["images"]] == [(100, 60), (80, 90)]
    stored = read.with_format("arrow")[0]["images"][0].as_py()
    assert stored[0]["bytes"] == image_store.png(names[0])
    assert Image.open(io.BytesIO(stored[1]["bytes"])).size == (80, 90)
    assert json.loads(first["tools"]) == TOOLS and json.loads(second["tools"]) == []
    request, call, page_result, _, answer = first["messages"]
    assert [part["type"] for part in request["content"]] == ["image", "text"]
    assert [c["function"] for c in call["tool_calls"]] == [
        c["function"] for c in messages[1]["tool_calls"]
    ]
    assert call["reasoning_content"] == "I look." and page_result["tool_call_id"] == "call_0"
    assert answer["content"] == [{"type": "text", "text": "Never."}]
    assert second["images"] == []
    assert [turn["from"] for turn in first["llama_factory"]] == [
        "human",
        "function_call",
        "observation",
        "gpt",
    ]
    request, call, observation, answer = (turn["value"] for turn in first["llama_factory"])
    assert request == "<image>When does it end?" and answer == "Never."
    assert call.startswith("<think>\nI look.\n</think>\n\n[{")
    assert json.loads(call.split("\n\n")[1]) == [
        {"name": "find", "arguments": {"key": "C-1"}},
        {"name": "find", "arguments": {"z": [1, None]}},
    ]
    assert observation == "page<image>\n</tool_response>\n<tool_response>\n{}"


def test_a_text_with_llama_factorys_placeholder_does_not_become_an_image():
    (turn,) = parquet._turns([user("What is <image>?")])
    assert "<image>" not in turn["value"]
