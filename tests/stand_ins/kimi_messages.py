"""Tools, calls and messages of Kimi, and replies parsed by its dialect."""

from typing import Any

from teacher.dialects.kimi import Kimi

OFFERED = ["get_contract", "close_matter"]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Of a firm.",
            "parameters": {
                "type": "object",
                "properties": {"id": {"type": "string", "default": "C-1"}},
                "required": ["id"],
            },
        },
    }
    for name in OFFERED
]
MODES: dict[str, Any] = {
    "thinking": {
        "sampling": {"temperature": 1.0, "top_p": 0.95},
        "body": {
            "vllm": {"chat_template_kwargs": {"thinking": True}},
            "moonshot": {"thinking": {"type": "enabled"}},
        },
    },
    "instant": {
        "sampling": {"temperature": 0.6, "top_p": 0.95},
        "body": {
            "vllm": {"chat_template_kwargs": {"thinking": False}},
            "moonshot": {"thinking": {"type": "disabled"}},
        },
    },
}
VLLM, MOONSHOT = Kimi(MODES), Kimi(MODES, "moonshot")
BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


def raw(name: str, arguments: str, index: int | str = 0) -> str:
    """A call as Kimi writes it."""
    return (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{arguments}"
        "<|tool_call_end|>"
    )


def section(*calls: str) -> str:
    return BEGIN + "".join(calls) + END


def call(name: str, arguments: Any = '{"id": "C-1"}', call_id: Any = "functions.x:0") -> dict:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def turn(*names: str, ids: list[str] | None = None, **more: Any) -> dict[str, Any]:
    calls = [call(n, call_id=(ids or [f"call_{n}"] * 9)[i]) for i, n in enumerate(names)]
    return {"role": "assistant", "content": "", "tool_calls": calls, **more}


def result(call_id: str, content: str = "{}") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def read(finish_reason: str | None = None, **message: Any) -> Any:
    reason = finish_reason or ("tool_calls" if message.get("tool_calls") else "stop")
    return VLLM.parse_reply({"role": "assistant", **message}, reason, OFFERED)


def found(reading: Any) -> list[tuple[str, str]]:
    return [(d.name, d.remedy) for d in reading.detected]
