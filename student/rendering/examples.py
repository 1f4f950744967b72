"""Renders traces to token ids and labels. A student is trained on the token ids that its server will produce.

A turn's prompt is the shipped chat template rendered up to that turn. Its target is the text that the template renders
for the turn, including the token that ends it. Turns whose prompt continues the turn before (the template only
appended) share one example. Where the template rewrites earlier turns, each turn becomes an example of its own, with
the prompt that the server would send. Where the template allows one call per turn, parallel calls become turns of one
call, each followed by its result. `Renderer` puts an image's source data into words, as the server of a text-only
student receives it; for vision-language students there is student/rendering/vision.py.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from schemas.canonical import (
    EnginesDiffer,
    MarkerInText,
    arguments_text,
    canonical,
    number_problem,
)
from schemas.json_text import parse_arguments
from schemas.trace import Message, Tool, Trace
from student.rendering import markers, probe
from student.rendering.labels import IGNORED
from student.rendering.template_line import line_at
from teacher.scenes.images import ImageStore, attach_images, message_images, request_messages

# What engines fill in by the day: llama.cpp passes the date of today as `date_string`, transformers nothing. This is
# the default of Llama's templates.
DATE = {"date_string": "26 Jul 2024"}


@dataclass
class Example:
    """A training example.

    Attributes:
        input_ids: [T].
        labels: [T], the token itself where the assistant wrote it, else IGNORED.
        image_names: sha256 of the images that are read as pixels, in the order of their tokens. (A column `images`
            would make TRL treat the data set as one of its own vision data sets.)
    """

    input_ids: list[int]
    labels: list[int]
    image_names: list[str] = field(default_factory=list)

    @property
    def label_count(self) -> int:
        """The number of tokens that count in the loss."""
        return sum(label != IGNORED for label in self.labels)


@dataclass
class Turn:
    """A turn of the assistant: its prompt [P] and the tokens that it writes [T]. image_names: as of `Example`."""

    prompt_ids: list[int]
    target_ids: list[int]
    image_names: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


class Unrenderable(ValueError):
    """The student's chat template cannot render a conversation. The text names the message."""


class ServedOtherwise(Unrenderable, EnginesDiffer):
    """The student's server renders a conversation otherwise than it was trained. The text names the value."""


class ControlTokenInText(Unrenderable, MarkerInText):
    """A text has a word that the student's tokenizer or server takes for a control token."""


class Renderer:
    """A student's tokenizer with the chat template that ships with it.

    Args:
        tokenizer: a transformers tokenizer.
        template: the Jinja text.
        stop: the tokens that end a turn.
        image_store: the images that messages name (teacher/scenes/images.py).

    Attributes:
        overridden: words that llama.cpp takes for control tokens although the tokenizer does not.
    """

    def __init__(
        self, tokenizer: Any, template: str, stop: list[str], image_store: ImageStore | None = None
    ) -> None:
        self.tokenizer, self.template, self.stop = tokenizer, template, stop
        self.image_store = image_store
        self.overridden: list[str] = []

    def text(
        self, messages: list[Message], tools: list[Tool], add_generation_prompt: bool = False
    ) -> str:
        """The conversation as the server renders it.

        Raises:
            Unrenderable: the template raises an error.
            ServedOtherwise: a number in a call or a tool's schema, which the server would print otherwise.
        """
        return self._apply(messages, tools, add_generation_prompt, self.arguments_as_text)

    def _apply(
        self,
        messages: Sequence[Message],
        tools: list[Tool],
        add_generation_prompt: bool,
        as_text: bool,
    ) -> str:
        tools = canonical(tools)
        if problem := number_problem(tools, "tools"):
            raise ServedOtherwise(f"{problem}, as llama.cpp prints it")
        try:
            return self.tokenizer.apply_chat_template(
                [template_message(m, as_text) for m in self.template_messages(messages)],
                tools=tools or None,
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **DATE,
            )
        except (TemplateError, TypeError) as error:  # TypeError: None or a list instead of text
            raise Unrenderable(f"the student's template: {error}") from error

    def template_line(self, messages: list[Message], tools: list[Tool], at: int) -> tuple[int, str]:
        """The number and text of the template's line that writes character `at` of the prompt of messages."""
        variables = {
            "messages": [
                template_message(message, self.arguments_as_text)
                for message in self.template_messages(messages)
            ],
            "tools": canonical(tools) or None,
            "documents": None,
            "add_generation_prompt": True,
            **self.tokenizer.special_tokens_map,
            **DATE,
        }
        return line_at(self.template, variables, at)

    def template_messages(self, messages: Sequence[Message]) -> list[Message]:
        """Messages as the chat template receives them."""
        return request_messages(messages, "source", self.image_store)

    def server_messages(self, messages: Sequence[Message]) -> list[Message]:
        """Messages as a request to the student's server has them."""
        return self.template_messages(messages)

    def image_names(self, messages: Sequence[Message]) -> list[str]:
        """The sha256 of the images in messages that the student reads as pixels."""
        return []

    def ids(self, text: str, image_names: Sequence[str] | None = None) -> list[int]:
        """Token ids of rendered text, which contains its special tokens. Images are in words here."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def turn(self, messages: list[Message], tools: list[Tool], index: int) -> tuple[str, str]:
        """The prompt and the target of the assistant's turn at `index`, as text.

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
        for call in messages[index].get("tool_calls") or []:
            if call["function"]["name"] not in target:
                raise Unrenderable(
                    f"the student's template drops the call of {call['function']['name']} in message {index}"
                )
        return prompt, target[: max(ends)]

    def check_texts(self, messages: Sequence[Message]) -> None:
        """Checks that the student and its server read the messages' texts alike, and as text.

        Raises:
            ControlTokenInText: a text has a word that is no text for the student or its server.
            ServedOtherwise: a text has characters that only the student's tokenizer composes or its template strips.
        """
        if self._markers and (found := markers.marker_in(messages, self._markers)):
            raise ControlTokenInText(
                f"message {found[0]}: {found[1]} in its text is a control token for the student or its server"
            )
        if self.composes and (found := markers.decomposed_in(messages)):
            raise ServedOtherwise(
                f"message {found[0]}: {found[1]} has characters that the student's tokenizer composes (NFC),"
                f" llama.cpp does not"
            )
        if re.search(r"trim|strip\(", self.template) and (found := markers.stripped_in(messages)):
            raise ServedOtherwise(
                f"message {found[0]}: {found[1]} begins or ends with a space that llama.cpp's templates do not strip"
            )

    @cached_property
    def composes(self) -> bool:
        """Whether the tokenizer composes characters before it reads them, which llama.cpp does not."""
        return markers.composes(self.tokenizer)

    @cached_property
    def _markers(self) -> re.Pattern[str] | None:
        tokens = markers.control_tokens(self.tokenizer, self.template, self.overridden)
        return markers.pattern(tokens)

    @cached_property
    def one_call_per_turn(self) -> bool:
        """Whether the template renders one call in a turn, but not two: it raises, or drops one (Llama 3)."""
        as_text = self.arguments_as_text
        return probe.renders(self._apply, 1, as_text) and not probe.renders(self._apply, 2, as_text)

    @cached_property
    def arguments_as_text(self) -> bool:
        """Whether the template reads a call's arguments as JSON text, because it cannot render them as an object."""
        return not probe.renders(self._apply, 1, False) and probe.renders(self._apply, 1, True)


def template_message(message: Message, as_text: bool = False) -> Message:
    """A message as servers pass it to a template: arguments are canonical objects; there is no empty list of calls.

    An assistant's missing content, null and "" are one: some templates print `None`, others leave out what they write
    around a text.

    as_text: arguments are canonical JSON text instead.
    """
    if message["role"] == "assistant" and message.get("content") is None:
        message = {**message, "content": ""}
    if not message.get("tool_calls"):
        return {key: value for key, value in message.items() if key != "tool_calls"}
    return _with_arguments(message, _text if as_text else _parsed)


def _canonical_calls(message: Message) -> Message:
    return _with_arguments(message, _text) if message.get("tool_calls") else message


def _with_arguments(message: Message, form: Callable[[dict[str, Any]], Any]) -> Message:
    """The message with the arguments of each call as `form` returns them for the call's function."""
    calls = [
        {**call, "function": {**call["function"], "arguments": form(call["function"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _text(function: dict[str, Any]) -> str:
    return arguments_text(function.get("arguments"))


def _parsed(function: dict[str, Any]) -> Any:
    try:
        arguments = canonical(parse_arguments(function.get("arguments")))
        problem = number_problem(arguments)
    except (ValueError, RecursionError) as error:
        raise Unrenderable(f"a call's arguments are not JSON: {error}") from error
    if problem:
        raise ServedOtherwise(f"{function['name']}: {problem}, as llama.cpp prints it")
    return arguments


def as_served(trace: Trace, renderer: Renderer) -> Trace:
    """The trace as a server with the student's template could have led it, with the arguments of calls canonical.

    Where a turn may have one call, a turn of n calls becomes n turns, each followed by its own result. The calls were
    made in this order and none depends on another's result, so the world's replies stay the same. Of calls at the very
    end that have no result, only the first is kept, because the server would stop there. Each image part is named.

    Raises:
        Unrenderable: the number of images in the messages differs from the number of names in `images`.
    """
    messages = [_canonical_calls(message) for message in trace["messages"]]
    images, image_count = trace.get("images") or [], _count_images(messages)
    if len(images) != image_count:
        raise Unrenderable(f"{image_count} images in the messages, {len(images)} named in `images`")
    if images:
        messages = attach_images(messages, images)
    if messages != trace["messages"]:
        trace = trace.copy()
        trace["messages"] = messages
    if not renderer.one_call_per_turn or all(len(m.get("tool_calls") or []) < 2 for m in messages):
        return trace
    served = trace.copy()
    served["messages"], tool_errors = _one_call_per_turn(trace)
    served["outcome"] = trace["outcome"].copy()
    served["outcome"]["tool_errors"] = tool_errors
    if images:
        served["images"] = message_images(served["messages"])
    return served


def _one_call_per_turn(trace: Trace) -> tuple[list[Message], list[int]]:
    """The messages with each call in a turn of its own, and the new indexes of the tool errors."""
    messages = trace["messages"]
    served: list[Message] = []
    tool_errors: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            continue  # placed after its call
        calls = message.get("tool_calls") or []
        results = _find_results(messages, index) if calls else {}
        unanswered = [call for call in calls if call["id"] not in results]
        turn = message
        for call in [call for call in calls if call["id"] in results] + unanswered[:1]:
            served.append({**turn, "tool_calls": [call]})
            turn = {"role": "assistant", "content": ""}  # the reasoning stays with the first call
            if call["id"] in results:
                at = results[call["id"]]
                if at in trace["outcome"]["tool_errors"]:
                    tool_errors.append(len(served))
                served.append(messages[at])
        if not calls:
            served.append(message)
    return served, tool_errors


def _count_images(messages: list[Message]) -> int:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return sum(part["type"] == "image" for part in parts)


def _find_results(messages: list[Message], index: int) -> dict[str | None, int]:
    """The indexes of the results of the turn at `index`, by the ids of their calls."""
    results = {}
    for at in range(index + 1, len(messages)):
        if messages[at]["role"] == "assistant":
            break
        if messages[at]["role"] == "tool":
            results[messages[at].get("tool_call_id")] = at
    return results


def turns(trace: Trace, renderer: Renderer) -> list[Turn]:
    """The turns of a trace to train on, each with the prompt that the server would send.

    A turn whose call returned an error is left out. Later prompts contain it, because the student may see errors too.

    Raises:
        Unrenderable: the student's template cannot render the trace.
        ControlTokenInText, ServedOtherwise: as of `check_texts`.
    """
    renderer.check_texts(trace["messages"])
    trace = as_served(trace, renderer)
    messages, tools = trace["messages"], trace["tools"]
    failed = _failed_turns(messages, trace["outcome"]["tool_errors"])
    targets = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and index not in failed:
            prompt, target = renderer.turn(messages, tools, index)
            image_names = renderer.image_names(messages[:index])
            prompt_ids = renderer.ids(prompt, image_names)
            targets.append(Turn(prompt_ids, renderer.ids(target), image_names))
    return targets


def join(turns: list[Turn]) -> Iterator[Example]:
    """Yields the turns as training examples. A turn whose prompt continues the turn before shares its example."""
    current: Example | None = None
    for turn in turns:
        if current is not None and current.input_ids == turn.prompt_ids[: len(current.input_ids)]:
            context = turn.prompt_ids[len(current.input_ids) :]
        else:
            if current is not None:
                yield current
            current, context = Example([], []), turn.prompt_ids
        current.image_names = turn.image_names
        current.input_ids += context + turn.target_ids
        current.labels += [IGNORED] * len(context)
        current.labels += turn.target_ids
    if current is not None:
        yield current


def examples(trace: Trace, renderer: Renderer) -> list[Example]:
    """The training examples of a kept trace."""
    return list(join(turns(trace, renderer)))


def _failed_turns(messages: list[Message], tool_errors: list[int]) -> set[int]:
    """Indexes of the assistant turns whose calls the given tool messages answer."""
    return {
        max(i for i in range(index) if messages[i]["role"] == "assistant") for index in tool_errors
    }
