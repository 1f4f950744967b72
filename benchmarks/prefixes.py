"""Measures what a template that rewrites earlier turns costs in training: tokens computed per token of the traces,
with each turn as a row of its own and with what the turns of a trace share computed once.

    python -m benchmarks.prefixes [FILE.jsonl]

The traces come from a file in chat format ({"messages", "tools"?} a line), or are the solutions of 200 tasks of the
legal pack. The templates are the originals in TRL's wheel and the project's own. The tokenizer is SmolLM2's with the
templates' special tokens, and splits text as the tokenizers of Qwen and Llama 3 do (a line feed is separate from the
text after it).
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
from student.rendering.examples import join, turns
from student.rendering.renderer import Renderer
from student.training.shared_prefix import make_pieces
from teacher.domain import pack, tasks
from teacher.domain.prompts import demonstration
from teacher.models import catalog

# From tokenizer.json of Llama 3; Qwen2.5 and Qwen3 differ only in the number of digits.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REASONING = "The user wants to know this; I look up what is there first, and then say it."


def solutions() -> list[dict[str, Any]]:
    """The solutions of 200 tasks of the legal pack, as rows in chat format."""
    legal = pack.load("legal")
    return [
        {
            "messages": [
                {"role": "system", "content": task["system"]},
                *demonstration(task, legal),
            ],
            "tools": [legal.tools[name] for name in task["tools"]],
        }
        for task in tasks.sample(
            legal, "train", 200, seed=0, mix={"document": 0, "chart": 0, "extract": 0}
        )
    ]


def with_reasoning(row: dict[str, Any]) -> dict[str, Any]:
    """The row with reasoning before each turn of the assistant."""
    reasoning = {"reasoning_content": REASONING}
    messages = [{**m, **(reasoning if m["role"] == "assistant" else {})} for m in row["messages"]]
    return {**row, "messages": messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "file", nargs="?", type=Path, help="traces in chat format (default: solutions)"
    )
    file = parser.parse_args().file
    rows = list(read_jsonl(file)) if file else solutions()
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
        "| template | reasoning | traces | turns | examples | tokens / tokens of the traces | computed once |"
    )
    print("|---|---|---|---|---|---|---|")
    for path, stop in (
        (wheel / "qwen2_5.jinja", "<|im_end|>"),
        (wheel / "qwen3.jinja", "<|im_end|>"),
        (catalog.TEMPLATES / "deepseek-r1-tools.jinja", "<｜end▁of▁sentence｜>"),
        (wheel / "llama3_1.jinja", "<|eot_id|>"),
    ):
        renderer = Renderer(tokenizer, path.read_text(encoding="utf-8"), [stop])
        for reasoning in (False, True):
            computed = shared = whole = examples = count = 0
            for row in map(with_reasoning, rows) if reasoning else rows:
                own_turns = turns({"tools": [], "outcome": {"tool_errors": []}, **row}, renderer)
                joined = list(join(own_turns))
                count += len(own_turns)
                examples += len(joined)
                computed += sum(len(example.input_ids) for example in joined)
                pieces = make_pieces([vars(example) for example in joined])
                shared += sum(len(piece.input_ids) for piece in pieces)
                whole += max(map(len, own_turns), default=0)
            answer = "yes" if reasoning else "no"
            print(
                f"| {path.stem} | {answer} | {len(rows)} | {count} | {examples} | {computed / whole:.2f} |"
                f" {shared / whole:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
