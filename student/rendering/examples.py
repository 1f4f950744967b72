"""Traces to token ids and labels: the student is trained on exactly what the server will send it.

A turn's prompt is the shipped chat template rendered up to that turn, its target the text that the template
renders for the turn, up to and with the token that ends it. Turns whose prompt continues the turn before
(the template only appended) share one example. Where the template rewrites earlier turns, each turn becomes
an example of its own, with the prompt that the server would really send. Where the template allows one call a turn,
parallel calls become turns of one call, each followed by its result. A picture is read in words, as the server of a
text-only student is sent it; student/training/vision.py has the renderer of those that see.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from schemas.json_text import parse_json
from student.rendering.labels import IGNORED
from teacher.scenes.images import ImageStore, attach_images, message_images, request_messages


@dataclass
class Example:
    """input_ids: [T]; labels: [T], the token itself where the assistant wrote it, else IGNORED; pictures: the sha256 of
    those whose pixels are read, in the order of their tokens."""

    input_ids: list[int]
    labels: list[int]
    pictures: list[str] = field(default_factory=list)

    @property
    def learned(self) -> int:
        return sum(label != IGNORED for label in self.labels)


@dataclass
class Turn:
    """An assistant's turn: the prompt [P] that it is asked with, and what it writes [T]; pictures: as an Example's."""

    prompt_ids: list[int]
    target_ids: list[int]
    pictures: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


class Unrenderable(ValueError):
    """The student's template cannot show a conversation, in words that name the message."""


class Renderer:
    """A student's tokenizer with the template that ships with it.

    Args:
        tokenizer: a transformers tokenizer; template: the Jinja text; stop: the tokens that end a turn.
        album: what the pictures show that messages name (teacher/scenes/images.py).
    """

    def __init__(
        self, tokenizer: Any, template: str, stop: list[str], album: ImageStore | None = None
    ) -> None:
        self.tokenizer, self.template, self.stop = tokenizer, template, stop
        self.album = album

    def text(
        self, messages: list[dict], tools: list[dict], add_generation_prompt: bool = False
    ) -> str:
        """The conversation as the server renders it.

        Raises:
            Unrenderable: the template refuses it, or stumbles over it.
        """
        try:
            return self.tokenizer.apply_chat_template(
                [as_template_reads(message) for message in self.shown(messages)],
                tools=tools or None,
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError) as error:  # TypeError: None or a list where it joins text
            raise Unrenderable(f"the student's template: {error}") from error

    def shown(self, messages: Sequence[dict]) -> list[dict]:
        """Messages as the template is given them."""
        return request_messages(messages, "source", self.album)

    def sent(self, messages: Sequence[dict]) -> list[dict]:
        """Messages as the student's server is sent them."""
        return self.shown(messages)

    def pictures(self, messages: Sequence[dict]) -> list[str]:
        """The pictures of messages whose pixels the student reads."""
        return []

    def ids(self, text: str, pictures: Sequence[str] | None = None) -> list[int]:
        """Token ids of rendered text; special tokens are in the text already, and pictures in words."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def turn(self, messages: list[dict], tools: list[dict], index: int) -> tuple[str, str]:
        """Prompt and target of the assistant's turn at `index`.

        Raises:
            Unrenderable: the template does not render the turn after its own prompt, so no server could produce it.
        """
        prompt = self.text(messages[:index], tools, add_generation_prompt=True)
        whole = self.text(messages[: index + 1], tools)
        if not whole.startswith(prompt):
            raise Unrenderable(
                f"the student's template renders message {index} otherwise than after its generation prompt"
            )
        target = whole[len(prompt) :]
        ends = [target.rfind(token) + len(token) for token in self.stop if token in target]
        if not ends:
            raise Unrenderable(
                f"the student's template ends message {index} with none of {self.stop}"
            )
        return prompt, target[: max(ends)]

    @cached_property
    def one_call_a_turn(self) -> bool:
        """Whether the template shows one call in a turn, but not two: it raises, or leaves one out (Llama 3)."""
        parameters = {"type": "object", "properties": {"key": {"type": "string"}}}
        tool = {"name": "probe", "description": "Probes.", "parameters": parameters}
        calls = [
            {
                "id": f"probe000{number}",  # nine letters and digits: Mistral's templates want so many
                "type": "function",
                "function": {"name": "probe", "arguments": json.dumps({"key": f"mark-{number}"})},
            }
            for number in range(2)
        ]

        def shows(number: int) -> bool:
            turn = {"role": "assistant", "content": "", "tool_calls": calls[:number]}
            asked = {"role": "user", "content": "?"}
            try:
                text = self.text([asked, turn], [{"type": "function", "function": tool}])
            except Unrenderable:
                return False
            return all(f"mark-{i}" in text for i in range(number))

        return shows(1) and not shows(2)


def as_template_reads(message: dict[str, Any]) -> dict[str, Any]:
    """A message as servers hand it to a template: arguments are objects, not JSON text; no empty list of calls."""
    if not message.get("tool_calls"):
        return {key: value for key, value in message.items() if key != "tool_calls"}
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": _parsed(call["function"]["arguments"]),
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _parsed(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return parse_json(arguments)
    except ValueError as error:
        raise Unrenderable(f"a call's arguments are not JSON: {error}") from error


def as_served(trace: dict[str, Any], renderer: Renderer) -> dict[str, Any]:
    """The trace as a server with the student's template could have led it.

    Where a turn may have one call, a turn of n calls becomes n turns, each followed by its own result. The calls were
    made in this order and knew nothing of each other's results, so the world answers them the same. Of calls at the
    very end that have no result, only the first is kept: the server would stop there. Each picture is named where it
    is shown.

    Raises:
        Unrenderable: it shows more pictures than it names, or fewer.
    """
    images, count = trace.get("images") or [], _pictures_in(trace["messages"])
    if len(images) != count:
        raise Unrenderable(f"{count} pictures in the messages, {len(images)} named in `images`")
    if images:
        trace = {**trace, "messages": attach_images(trace["messages"], images)}
    messages = trace["messages"]
    if not renderer.one_call_a_turn or all(len(m.get("tool_calls") or []) < 2 for m in messages):
        return trace
    shown: list[dict[str, Any]] = []
    errors: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            continue  # placed after its call
        calls = message.get("tool_calls") or []
        results = _results(messages, index) if calls else {}
        unanswered = [call for call in calls if call["id"] not in results]
        said = message
        for call in [call for call in calls if call["id"] in results] + unanswered[:1]:
            shown.append({**said, "tool_calls": [call]})
            said = {"role": "assistant", "content": ""}  # the thought came once, before all of them
            if call["id"] in results:
                at = results[call["id"]]
                errors += [len(shown)] if at in trace["outcome"]["tool_errors"] else []
                shown.append(messages[at])
        if not calls:
            shown.append(message)
    served = {**trace, "messages": shown, "outcome": {**trace["outcome"], "tool_errors": errors}}
    return served | ({"images": message_images(shown)} if images else {})


def _pictures_in(messages: list[dict]) -> int:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return sum(part["type"] == "image" for part in parts)


def _results(messages: list[dict], index: int) -> dict[str | None, int]:
    """Where the results of the calls of the turn at `index` are, by the calls' ids."""
    found = {}
    for at in range(index + 1, len(messages)):
        if messages[at]["role"] == "assistant":
            break
        if messages[at]["role"] == "tool":
            found[messages[at].get("tool_call_id")] = at
    return found


def turns(trace: dict[str, Any], renderer: Renderer) -> list[Turn]:
    """The turns that a trace teaches, each with the prompt that the server would really send.

    A turn whose call came back as an error is none of them: later prompts show it, as the student may see one.

    Raises:
        Unrenderable: the student's template cannot show the trace.
    """
    trace = as_served(trace, renderer)
    messages, tools = trace["messages"], trace["tools"]
    unlearned = _turns_that_failed(messages, trace["outcome"]["tool_errors"])
    found = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and index not in unlearned:
            prompt, target = renderer.turn(messages, tools, index)
            pictures = renderer.pictures(messages[:index])
            found.append(Turn(renderer.ids(prompt, pictures), renderer.ids(target), pictures))
    return found


def join(turns: list[Turn]) -> Iterator[Example]:
    """Turns as training examples: one whose prompt continues the turn before shares its example."""
    current: Example | None = None
    for turn in turns:
        if current is not None and current.input_ids == turn.prompt_ids[: len(current.input_ids)]:
            context = turn.prompt_ids[len(current.input_ids) :]
        else:
            if current is not None:
                yield current
            current, context = Example([], []), turn.prompt_ids
        current.pictures = turn.pictures
        current.input_ids += context + turn.target_ids
        current.labels += [IGNORED] * len(context)
        current.labels += turn.target_ids
    if current is not None:
        yield current


def examples(trace: dict[str, Any], renderer: Renderer) -> list[Example]:
    """The training examples of a kept trace."""
    return list(join(turns(trace, renderer)))


def _turns_that_failed(messages: list[dict], tool_errors: list[int]) -> set[int]:
    """Indices of the assistant turns whose calls the given tool messages answer."""
    failed = set()
    for index in tool_errors:
        failed.add(max(i for i in range(index) if messages[i]["role"] == "assistant"))
    return failed
