"""A student's tokenizer with its chat template: the text and the token ids that its server will produce.

`Renderer` puts an image's source data into words, as the server of a text-only student receives it; for vision-language
students there is student/rendering/vision.py.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from schemas.canonical import arguments_text, canonical, number_problem
from schemas.json_text import parse_arguments
from schemas.trace import Message, Tool
from student.rendering import bare_values, markers, probe
from student.rendering.errors import ControlTokenInText, ServedOtherwise, Unrenderable
from student.rendering.pieces import Pieces
from student.rendering.template_line import line_at
from student.rendering.template_parts import Parts, compiled
from teacher.scenes.images import ImageStore, request_messages

# What engines fill in by the day: llama.cpp passes the date of today as `date_string`, transformers nothing. This is
# the default of Llama's templates.
DATE = {"date_string": "26 Jul 2024"}
_TOOL_LISTS = 1024
_EMPTY = "Cannot apply chat template to an empty conversation. Provide at least one message."


class Renderer:
    """A student's tokenizer with the chat template that ships with it.

    Args:
        tokenizer: a transformers tokenizer.
        template: the Jinja text.
        stop: the tokens that end a turn.
        image_store: the images that messages name (teacher/scenes/images.py).

    Attributes:
        overridden: words that llama.cpp takes for control tokens although the tokenizer does not.
        unknown: code points that llama.cpp's Unicode table lacks, in ascending ranges.
    """

    def __init__(
        self, tokenizer: Any, template: str, stop: list[str], image_store: ImageStore | None = None
    ) -> None:
        self.tokenizer, self.template, self.stop = tokenizer, template, stop
        self.image_store = image_store
        self.overridden: list[str] = []
        self.unknown: Sequence[range] = ()
        self._tools: dict[str, TemplateTools] = {}  # by their JSON

    def text(
        self, messages: list[Message], tools: list[Tool], add_generation_prompt: bool = False
    ) -> str:
        """The conversation as the server renders it.

        Raises:
            Unrenderable: the template raises an error.
            ServedOtherwise: a number in a call or a tool's schema, which the server would print otherwise.
        """
        return Conversation(self, messages, tools).text(len(messages), add_generation_prompt)

    def _apply(
        self,
        messages: Sequence[Message],
        tools: list[Tool],
        add_generation_prompt: bool,
        as_text: bool,
    ) -> str:
        conversation = Conversation(self, messages, tools, as_text)
        return conversation.text(len(messages), add_generation_prompt)

    def template_tools(self, tools: list[Tool]) -> "TemplateTools":
        """Tools as the template receives them. Traces of a run have few lists of tools, so they are checked once."""
        text = json.dumps(tools)
        if text not in self._tools:
            if len(self._tools) == _TOOL_LISTS:
                self._tools.clear()
            whole = canonical(tools)
            self._tools[text] = TemplateTools(whole, number_problem(whole, "tools"))
        return self._tools[text]

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
        return self._pieces.ids(text)

    def turn_length(self, prompt: str, target: str, image_names: Sequence[str], enough: int) -> int:
        """The number of token ids of a turn. Where that is at most `enough`, a larger number may be returned that is
        at most `enough` too: it is known without reading most texts.
        """
        return self._pieces.length((prompt, target), enough)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self.tokenizer)

    def turn(self, messages: list[Message], tools: list[Tool], index: int) -> tuple[str, str]:
        """The prompt and the target of the assistant's turn at `index`, as text.

        Raises:
            Unrenderable: the template does not render the turn after its own prompt, so no server could produce it.
        """
        return Conversation(self, messages, tools).turn(index)

    def check_calls(self, message: Message, tools: list[Tool]) -> None:
        """Raises ServedOtherwise if the server reads a valid call of a turn otherwise than the student writes it."""
        if not self.bare:
            return  # a call in JSON is read as it is written
        offered = {tool["function"]["name"]: tool for tool in tools}
        for call in message.get("tool_calls") or []:
            function = call["function"]
            if problem := self.call_problem(_parsed(function), offered.get(function["name"])):
                raise ServedOtherwise(f"{function['name']}: {problem}, as llama.cpp reads it")

    def call_problem(self, arguments: dict[str, Any], tool: Tool | None) -> str | None:
        """The first argument of a call that the server prints or reads otherwise; None if there is none.

        tool: None if it is not offered.
        """
        if self.arguments_as_text:
            return None
        if problem := number_problem(canonical(arguments)):
            return problem
        if not tool or not self.bare or not isinstance(arguments, dict):
            return None
        return bare_values.problem(tool, arguments, self.bare)

    def check_texts(self, messages: Sequence[Message]) -> None:
        """Checks that the student and its server read the messages' texts alike, and as text.

        Raises:
            ControlTokenInText: a text has a word that is no text for the student or its server.
            ServedOtherwise: a text has characters that llama.cpp does not know, that only the student's tokenizer
                composes, or that only its template strips.
        """
        if self._markers and (found := markers.marker_in(messages, self._markers)):
            raise ControlTokenInText(
                f"message {found[0]}: {found[1]} in its text is a control token for the student or its server"
            )
        if found := markers.unknown_in(messages, self.unknown):
            raise ServedOtherwise(
                f"message {found[0]}: {found[1]} is not in llama.cpp's Unicode table, so it splits the text otherwise"
            )
        if self._compose and (found := markers.decomposed_in(messages, self._compose)):
            raise ServedOtherwise(
                f"message {found[0]}: {found[1]} has characters that the student's tokenizer composes (NFC),"
                f" llama.cpp does not"
            )
        if re.search(r"trim|strip\(", self.template) and (found := markers.stripped_in(messages)):
            raise ServedOtherwise(
                f"message {found[0]}: {found[1]} begins or ends with a space that llama.cpp's templates do not strip"
            )

    @property
    def composes(self) -> bool:
        """Whether the tokenizer composes characters before it reads them, which llama.cpp does not."""
        return self._compose is not None

    @cached_property
    def _compose(self) -> Callable[[str], str] | None:
        return markers.composer(self.tokenizer)

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
    def bare(self) -> bare_values.BareValues | None:
        """How the template writes arguments that it does not write as JSON; None where it writes JSON."""
        return None if self.arguments_as_text else bare_values.find(self._apply)

    @cached_property
    def arguments_as_text(self) -> bool:
        """Whether the template reads a call's arguments as JSON text, because it cannot render them as an object."""
        return not probe.renders(self._apply, 1, False) and probe.renders(self._apply, 1, True)


@dataclass(frozen=True)
class TemplateTools:
    """A list of tools in canonical form.

    problem: what the server would print otherwise. written: what loops over them wrote (template_parts.Parts).
    """

    tools: list[Tool]
    problem: str | None
    written: dict[Any, str] = field(default_factory=dict)


class Conversation:
    """The prompts and turns of one conversation, whose messages and tools are converted once.

    as_text: as of `template_message`; None leaves it to the renderer.
    """

    def __init__(
        self,
        renderer: Renderer,
        messages: Sequence[Message],
        tools: list[Tool],
        as_text: bool | None = None,
    ) -> None:
        self._renderer, self._messages, self._tools = renderer, messages, tools
        self._as_text = renderer.arguments_as_text if as_text is None else as_text
        self._converted: list[Message] = []

    @cached_property
    def _template(self) -> Any:
        return compiled(self._renderer.template)

    @cached_property
    def _variables(self) -> dict[str, Any]:
        """What the template gets beside messages. Raises ServedOtherwise as Renderer.text."""
        offered = self._renderer.template_tools(self._tools)
        if offered.problem:
            raise ServedOtherwise(f"{offered.problem}, as llama.cpp prints it")
        tools = offered.tools or None
        return {
            "tools": tools,
            "documents": None,
            **self._renderer.tokenizer.special_tokens_map,
            **DATE,
            **Parts(self._converted, tools, offered.written).variables(),
        }

    def text(self, count: int, add_generation_prompt: bool = False) -> str:
        """The first `count` messages as the server renders them. Raises as Renderer.text."""
        renderer = self._renderer
        try:
            rest = self._messages[len(self._converted) : count]
            for message in renderer.template_messages(rest):
                self._converted.append(template_message(message, self._as_text))
            if not count:
                raise ValueError(_EMPTY)
            return self._template.render(
                messages=self._converted[:count],
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
        except (TemplateError, TypeError) as error:  # TypeError: None or a list instead of text
            raise Unrenderable(f"the student's template: {error}") from error

    def turn(self, index: int) -> tuple[str, str]:
        """The prompt and the target of the assistant's turn at `index`, as text. Raises as Renderer.turn."""
        prompt = self.text(index, add_generation_prompt=True)
        whole = self.text(index + 1)
        if not whole.startswith(prompt):
            raise Unrenderable(
                f"the student's template renders message {index} otherwise than after its generation prompt"
            )
        target = whole[len(prompt) :]
        ends = [
            target.rfind(token) + len(token) for token in self._renderer.stop if token in target
        ]
        if not ends:
            raise Unrenderable(
                f"the student's template ends message {index} with none of {self._renderer.stop}"
            )
        for call in self._messages[index].get("tool_calls") or []:
            if call["function"]["name"] not in target:
                raise Unrenderable(
                    f"the student's template drops the call of {call['function']['name']} in message {index}"
                )
        return prompt, target[: max(ends)]


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
    return with_arguments(message, arguments_as_text if as_text else _parsed)


def with_arguments(message: Message, form: Callable[[dict[str, Any]], Any]) -> Message:
    """The message with the arguments of each call as `form` returns them for the call's function."""
    calls = [
        {**call, "function": {**call["function"], "arguments": form(call["function"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def arguments_as_text(function: dict[str, Any]) -> str:
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
