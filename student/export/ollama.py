"""Writes Ollama's Modelfile for a GGUF, and says what Ollama shows the student otherwise than its training did.

From 0.30 on, Ollama runs llama.cpp's server, which renders with the chat template in the GGUF as long as the model has
no TEMPLATE, RENDERER or PARSER (server/routes.go, usesOllamaRenderedChat). A TEMPLATE is in Go's language and cannot
write what the student was trained on: its JSON has no spaces and sorted keys. So a Modelfile has none.

Ollama reads a request into structures of its own first (api/types.go). They keep some keywords of a tool's JSON Schema,
in an order of their own, and no reasoning of earlier turns.
"""

from collections.abc import Sequence
from typing import Any, cast

from schemas.trace import Message, Tool
from student.export.served_student import Served
from student.rendering.renderer import Renderer

MODELFILE = "Modelfile-"  # and the variant
REQUIRES = "0.30.0"
_MIN_P = 0.05  # llama.cpp's own, as in the exam; Ollama's is 0
_PARAMETERS = ("type", "$defs", "items", "required", "properties")
_PROPERTY = ("anyOf", "type", "items", "description", "enum", "properties", "required")
_REASONING = "reasoned-before"


def modelfile(served: Served, variant: str, notes: Sequence[str]) -> str:
    """Returns the Modelfile of a variant. Its paths are relative to the file, as Ollama reads them."""
    lines = [
        f"# ollama create {served.name}:{variant.lower()} -f {MODELFILE}{variant}",
        "# Ollama renders with the chat template in the GGUF, tools included. A TEMPLATE here would",
        "# replace it.",
        *(f"# Otherwise than in training: {note}" for note in notes),
        f"FROM ./{served.ggufs[variant]}",
        *([f"FROM ./{served.projector}"] if served.projector else []),
        f"REQUIRES {REQUIRES}",
        f"PARAMETER num_ctx {served.context}",
        f"PARAMETER temperature {served.temperature:g}",
        "PARAMETER top_p 1",
        f"PARAMETER min_p {_MIN_P:g}",
        f'LICENSE """{served.licence.replace(chr(34), chr(39))}"""',
    ]
    return "\n".join(lines) + "\n"


def deviations(renderer: Renderer, tools: Sequence[Tool]) -> list[str]:
    """Returns what Ollama shows the student otherwise than in training, one line each; nothing where all is the same.

    tools: of the domain.
    """
    request: Message = {"role": "user", "content": "?"}
    notes = []
    passed = [passed_tool(tool) for tool in tools]
    if renderer.text([request], passed) != renderer.text([request], list(tools)):
        notes.append("Ollama lists the tools with their keywords in another order, and drops some")
    call = {"id": "call00000", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turn: Message = {"role": "assistant", "content": "", "tool_calls": [cast(Any, call)]}
    result: Message = {"role": "tool", "tool_call_id": "call00000", "content": "?"}
    reasoned = cast(Message, {**turn, "reasoning_content": _REASONING})
    if _REASONING in renderer.text([request, reasoned, result], [], add_generation_prompt=True):
        notes.append("Ollama drops the reasoning before earlier calls")
    return notes


def passed_tool(tool: Tool) -> Tool:
    """Returns a tool as Ollama hands it to the chat template."""
    function: dict[str, Any] = dict(tool["function"])
    parameters = function["parameters"]
    kept = {key: _sorted(parameters[key]) for key in _PARAMETERS if key in parameters}
    kept["properties"] = _properties(parameters.get("properties", {}))
    kept = {key: value for key, value in kept.items() if value or key in ("type", "properties")}
    passed = {key: function[key] for key in ("name", "description") if function.get(key)}
    return cast(Tool, {"type": tool["type"], "function": {**passed, "parameters": kept}})


def _properties(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: _property(schema) for name, schema in properties.items()}


def _property(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: schema[key] for key in _PROPERTY if schema.get(key)}
    if "anyOf" in kept:
        kept["anyOf"] = [_property(one) for one in kept["anyOf"]]
    if "properties" in kept:
        kept["properties"] = _properties(kept["properties"])
    return {key: _sorted(value) if key == "items" else value for key, value in kept.items()}


def _sorted(value: Any) -> Any:
    """A value that Ollama has as a map of Go: its keys are sorted, at every depth."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, list) else value
