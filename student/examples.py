"""Traces to token ids and labels: the student is trained on exactly what the server will send it.

A turn's prompt is the shipped chat template rendered up to that turn, its target the text that the template
renders for the turn, up to and with the token that ends it. Turns whose prompt continues the turn before
(the template only appended) share one example. Where the template rewrites earlier turns, each turn becomes
an example of its own, with the prompt that the server would really send.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

IGNORED = -100  # PyTorch's cross entropy skips this label


@dataclass
class Example:
    """input_ids: [T]; labels: [T], the token itself where the assistant wrote it, else IGNORED."""

    input_ids: list[int]
    labels: list[int]

    @property
    def learned(self) -> int:
        return sum(label != IGNORED for label in self.labels)


class Renderer:
    """A student's tokenizer with the template that ships with it.

    Args:
        tokenizer: a transformers tokenizer; template: the Jinja text; stop: the tokens that end a turn.
    """

    def __init__(self, tokenizer: Any, template: str, stop: list[str]) -> None:
        self.tokenizer, self.template, self.stop = tokenizer, template, stop

    def text(
        self, messages: list[dict], tools: list[dict], add_generation_prompt: bool = False
    ) -> str:
        """The conversation as the server renders it."""
        return self.tokenizer.apply_chat_template(
            [as_template_reads(message) for message in messages],
            tools=tools or None,
            chat_template=self.template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of rendered text; special tokens are in the text already."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def turn(self, messages: list[dict], tools: list[dict], index: int) -> tuple[str, str]:
        """Prompt and target of the assistant's turn at `index`.

        Raises:
            ValueError: the template does not render the turn after its own prompt, so no server could produce it.
        """
        prompt = self.text(messages[:index], tools, add_generation_prompt=True)
        whole = self.text(messages[: index + 1], tools)
        if not whole.startswith(prompt):
            raise ValueError(
                f"the template renders message {index} otherwise than after its generation prompt"
            )
        target = whole[len(prompt) :]
        ends = [target.rfind(token) + len(token) for token in self.stop if token in target]
        if not ends:
            raise ValueError(f"the template ends message {index} with none of {self.stop}")
        return prompt, target[: max(ends)]


def as_template_reads(message: dict[str, Any]) -> dict[str, Any]:
    """A message as servers hand it to a template: call arguments are objects, not JSON text."""
    if not message.get("tool_calls"):
        return message
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.loads(call["function"]["arguments"]),
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def examples(trace: dict[str, Any], renderer: Renderer) -> Iterator[Example]:
    """The training examples of a kept trace.

    A turn whose call came back as an error is in the context, as the student may see one, but not learned.
    """
    messages, tools = trace["messages"], trace["tools"]
    unlearned = _turns_that_failed(messages, trace["outcome"]["tool_errors"])
    current: Example | None = None
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, target = renderer.turn(messages, tools, index)
        prompt_ids, target_ids = renderer.ids(prompt), renderer.ids(target)
        if current is not None and current.input_ids == prompt_ids[: len(current.input_ids)]:
            context = prompt_ids[len(current.input_ids) :]
        else:
            if current is not None and current.learned:
                yield current
            current, context = Example([], []), prompt_ids
        current.input_ids += context + target_ids
        current.labels += [IGNORED] * len(context)
        current.labels += [IGNORED] * len(target_ids) if index in unlearned else target_ids
    if current is not None and current.learned:
        yield current


def _turns_that_failed(messages: list[dict], tool_errors: list[int]) -> set[int]:
    """Indices of the assistant turns whose calls the given tool messages answer."""
    failed = set()
    for index in tool_errors:
        failed.add(max(i for i in range(index) if messages[i]["role"] == "assistant"))
    return failed
