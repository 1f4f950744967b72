"""The conversations that any model with tools can be checked on, where no traces are given."""

import json
from typing import Any

from student.export.checks import Conversation


def _tool(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def _call(name: str, arguments: dict[str, Any], number: int = 0) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call{number:05}", "type": "function", "function": function}


_SYSTEM = {"role": "system", "content": "You are a helpful clerk. Look things up with the tools."}
# Few values each, so that a constrained call ends soon also for a model that was never trained to call.
_CITY = {"type": "string", "enum": ["Zürich", "Oslo", 'Saint John\'s "\n"']}
_DAYS = {"type": "array", "items": {"type": "integer", "enum": [0, 1]}, "maxItems": 2}
_WEATHER = _tool(
    "get_weather", "Get the weather of a city, days from today.", city=_CITY, days=_DAYS
)
_TIME = _tool("get_time", "Get the time of a city.", city=_CITY)
# A talk without tools, a call and its result, and two calls at once with text that is often escaped wrongly.
CONVERSATIONS: list[Conversation] = [
    {
        "id": "talk",
        "messages": [
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris."},
        ],
        "tools": [],
    },
    {
        "id": "a call",
        "messages": [
            _SYSTEM,
            {"role": "user", "content": "What is the weather in Zürich today and tomorrow?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [_call("get_weather", {"city": "Zürich", "days": [0, 1]})],
            },
            {"role": "tool", "tool_call_id": "call00000", "content": '{"sky": "<clear> & dry"}'},
            {"role": "assistant", "content": "Clear & dry on both days."},
        ],
        "tools": [_WEATHER, _TIME],
    },
    {
        "id": "two calls",
        "messages": [
            {
                "role": "user",
                "content": 'What time is it in Oslo and in "Saint John\'s"?\n\nThanks!',
            },
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    _call("get_time", {"city": "Oslo"}, 1),
                    _call("get_time", {"city": 'Saint John\'s "\\n"'}, 2),
                ],
            },
            {"role": "tool", "tool_call_id": "call00001", "content": "14:05"},
            {"role": "tool", "tool_call_id": "call00002", "content": "09:35"},
            {"role": "assistant", "content": "14:05 and 09:35."},
            {"role": "user", "content": "  And tomorrow? 🙂  "},
            {"role": "assistant", "content": "The same."},
        ],
        "tools": [_TIME],
    },
]
