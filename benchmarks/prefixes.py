"""What a template that rewrites earlier turns costs in training: tokens computed against tokens of the traces.

    python -m benchmarks.prefixes [FILE.jsonl]

The traces are those of a file in chat format ({"messages", "tools"?} a line), or the gold plans of 200 tasks of the
legal pack. The templates are the originals in TRL's wheel and the project's own; the tokenizer is SmolLM2's with their
special tokens, and text split as Qwen's and Llama 3's tokenizers split it (line feeds apart from what follows).
"""

import argparse
from pathlib import Path
from typing import Any

import trl
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from transformers import AutoTokenizer

from schemas.files import read_jsonl
from student.models import base
from student.rendering.examples import Renderer, join, turns
from teacher.domain import pack, tasks
from teacher.domain.prompts import demonstration
from teacher.models import catalog

# tokenizer.json of Llama 3 and, but for the number of digits, of Qwen2.5 and Qwen3.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
THOUGHT = "The user wants to know this; I look up what is there first, and then say it."


def gold() -> list[dict[str, Any]]:
    legal = pack.load("legal")
    return [
        {
            "messages": [
                {"role": "system", "content": task["system"]},
                *demonstration(task, legal),
            ],
            "tools": [legal.tools[name] for name in task["tools"]],
        }
        for task in tasks.sample(legal, "train", 200, 0, {"document": 0, "chart": 0})
    ]


def thinking(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a thought before each turn of the assistant."""
    thought = {"reasoning_content": THOUGHT}
    messages = [{**m, **(thought if m["role"] == "assistant" else {})} for m in row["messages"]]
    return {**row, "messages": messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "file", nargs="?", type=Path, help="traces in chat format (default: gold plans)"
    )
    file = parser.parse_args().file
    rows = list(read_jsonl(file)) if file else gold()
    directory = base.prepare(base.load("smollm2-135m"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(SPLIT), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.add_tokens(
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], special_tokens=True
    )
    tokenizer.add_tokens(
        ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"], special_tokens=True
    )
    wheel = Path(trl.__file__).parent / "chat_templates"
    print(
        "| template | thoughts | traces | turns | examples | tokens computed / tokens of the traces |"
    )
    print("|---|---|---|---|---|---|")
    for path, stop in (
        (wheel / "qwen2_5.jinja", "<|im_end|>"),
        (wheel / "qwen3.jinja", "<|im_end|>"),
        (catalog.TEMPLATES / "deepseek-r1-tools.jinja", "<｜end▁of▁sentence｜>"),
        (wheel / "llama3_1.jinja", "<|eot_id|>"),
    ):
        renderer = Renderer(tokenizer, path.read_text(encoding="utf-8"), [stop])
        for thinks in (False, True):
            computed = whole = examples = count = 0
            for row in map(thinking, rows) if thinks else rows:
                made = turns({"tools": [], "outcome": {"tool_errors": []}, **row}, renderer)
                joined = list(join(made))
                count += len(made)
                examples += len(joined)
                computed += sum(len(example.input_ids) for example in joined)
                whole += max(map(len, made), default=0)
            said = "yes" if thinks else "no"
            print(
                f"| {path.stem} | {said} | {len(rows)} | {count} | {examples} | {computed / whole:.2f} |"
            )


if __name__ == "__main__":
    main()
