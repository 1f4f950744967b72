"""Writes docs/pipeline.svg, the diagram of the pipeline in the README.

    python docs/pipeline_diagram.py

The diagram has no background of its own. Boxes carry their own fill and follow prefers-color-scheme; lines and labels
outside the boxes have a mid-tone grey that is readable on white and on black, also where the page and the system
disagree about the scheme.
"""

from html import escape
from pathlib import Path

FILE = Path(__file__).with_name("pipeline.svg")

# Each stage: what it does, in lines that fit into its box, and the files it leaves in the run's directory.
STAGES = {
    "plan": (["samples tasks,", "proves each one", "solvable"], ["tasks/", "plan.json"]),
    "generate": (["teacher works the", "tasks with tools;", "replies on disk"], ["journal/", "traces/"]),
    "filter": (["checks each trace,", "names one reason", "per rejection"], ["kept.jsonl", "rejected.jsonl",
               "ledger.json"]),
    "train": (["LoRA or QLoRA on", "the assistant's", "tokens only"], ["adapter/", "log.jsonl"]),
    "export": (["merges, writes", "GGUF and vLLM,", "checks each file"], ["gguf/", "vllm/", "gate.json"]),
    "evaluate": (["base and exported", "student on the", "held-out exam"], ["scorecard.json"]),
    "publish": (["if the gate passed,", "a version in the", "artifact store"], ["store/"]),
}  # fmt: skip

# What comes in from outside, above the stage that reads it.
INPUTS = {
    "plan": ("domain pack", ["tools and task", "templates"]),
    "generate": ("teacher", ["behind llama.cpp,", "vLLM or an API"]),
    "train": ("student", ["base weights and", "chat template"]),
}

_WIDTH, _GAP, _MARGIN = 124, 12, 8
_INPUT_Y, _INPUT_HEIGHT = 8, 62
_STAGE_Y, _STAGE_HEIGHT = 98, 86
_FILES_Y, _FILES_HEIGHT = 208, 64
_EXAM_Y = 298
_TOTAL = 2 * _MARGIN + len(STAGES) * _WIDTH + (len(STAGES) - 1) * _GAP
_HEIGHT = 322

_STYLE = """
text { font: 11.5px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328; }
.name { font-weight: 600; font-size: 14px; }
.file { font: 11px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.label { fill: #767676; }
.stage { fill: #ddf4ff; stroke: #0969da; }
.input { fill: #fff8c5; stroke: #9a6700; }
.files { fill: #f6f8fa; stroke: #767676; }
.line { fill: none; stroke: #767676; stroke-width: 1.5; }
.head { fill: #767676; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .label { fill: #767676; }
  .stage { fill: #0c2d6b; stroke: #58a6ff; }
  .input { fill: #3b2300; stroke: #d29922; }
  .files { fill: #161b22; stroke: #767676; }
}
"""


def svg() -> str:
    """The diagram as SVG text."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_TOTAL} {_HEIGHT}" role="img">',
        "<title>The pipeline of stillhouse: seven stages, their inputs and the files they leave</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for number, (name, (text, files)) in enumerate(STAGES.items()):
        x = _left(number)
        if name in INPUTS:
            parts += _input(number, *INPUTS[name])
        parts.append(_box("stage", x, _STAGE_Y, _WIDTH, _STAGE_HEIGHT))
        parts.append(_text(x + 10, _STAGE_Y + 22, name, "name"))
        parts += [_text(x + 10, _STAGE_Y + 42 + 16 * row, line) for row, line in enumerate(text)]
        parts.append(_box("files", x, _FILES_Y, _WIDTH, _FILES_HEIGHT))
        parts += [_text(x + 10, _FILES_Y + 20 + 17 * row, line, "file") for row, line in enumerate(files)]  # fmt: skip
        parts.append(_arrow(f"M{_middle(number)} {_STAGE_Y + _STAGE_HEIGHT}V{_FILES_Y - 1}"))
        if number:
            parts.append(_arrow(f"M{x - _GAP} {_STAGE_Y + _STAGE_HEIGHT // 2}H{x - 1}"))
    parts += _exam()
    return "\n".join([*parts, "</svg>"]) + "\n"


def _input(number: int, name: str, text: list[str]) -> list[str]:
    """An input's box and its arrow down to the stage."""
    x = _left(number)
    return [
        _box("input", x, _INPUT_Y, _WIDTH, _INPUT_HEIGHT),
        _text(x + 10, _INPUT_Y + 19, name, "name"),
        *(_text(x + 10, _INPUT_Y + 37 + 16 * row, line) for row, line in enumerate(text)),
        _arrow(f"M{_middle(number)} {_INPUT_Y + _INPUT_HEIGHT}V{_STAGE_Y - 1}"),
    ]


def _exam() -> list[str]:
    """The way of the held-out tasks from the plan to the filter and to the exam, under the files."""
    names = list(STAGES)
    start, branch, end = (_middle(names.index(name)) for name in ("plan", "filter", "evaluate"))
    bottom = _FILES_Y + _FILES_HEIGHT
    return [
        _arrow(f"M{start} {bottom}V{_EXAM_Y}H{end}V{bottom + 1}"),
        _arrow(f"M{branch} {_EXAM_Y}V{bottom + 1}"),
        _text(start + 10, _EXAM_Y + 16,
              "tasks/exam.jsonl: held-out tasks; the filter drops traces that resemble them", "label"),
    ]  # fmt: skip


def _left(number: int) -> int:
    return _MARGIN + number * (_WIDTH + _GAP)


def _middle(number: int) -> int:
    return _left(number) + _WIDTH // 2


def _box(kind: str, x: int, y: int, width: int, height: int) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x}" y="{y}">{escape(text)}</text>'


def _arrow(path: str) -> str:
    return f'<path class="line" d="{path}" marker-end="url(#head)"/>'


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
    print(f"wrote {FILE}")
