"""Renders traces to token ids and labels. A student is trained on the token ids that its server will produce.

A turn's prompt is the shipped chat template rendered up to that turn. Its target is the text that the template renders
for the turn, including the token that ends it. Turns whose prompt continues the turn before (the template only
appended) share one example. Where the template rewrites earlier turns, each turn becomes an example of its own, with
the prompt that the server would send.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.trace import Message, Trace
from student.rendering.labels import IGNORED
from student.rendering.renderer import Conversation, Renderer
from student.rendering.served import as_served


@dataclass
class Example:
    """A training example.

    Attributes:
        input_ids: [T].
        labels: [T], the token itself where the assistant wrote it, else IGNORED.
        image_names: sha256 of the images that are read as pixels, in the order of their tokens. (A column `images`
            would make TRL treat the data set as one of its own vision data sets.)
        continues: whether it is of the same trace as the example before it.
    """

    input_ids: list[int]
    labels: list[int]
    image_names: list[str] = field(default_factory=list)
    continues: bool = False

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


def turns(trace: Trace, renderer: Renderer) -> list[Turn]:
    """The turns of a trace to train on, each with the prompt that the server would send.

    A turn whose call returned an error is left out, and of a salvaged trace each turn that is not in `trained`. Later
    prompts contain it, because the student may see errors too.

    Raises:
        Unrenderable: the student's template cannot render the trace.
        ControlTokenInText, ServedOtherwise: as of `check_texts` and `check_calls`.
    """
    return [
        Turn(renderer.ids(prompt, image_names), renderer.ids(target), image_names)
        for prompt, target, image_names in _written(trace, renderer)
    ]


def turn_lengths(trace: Trace, renderer: Renderer, enough: int) -> list[int]:
    """The tokens of each turn to train on; where these are at most `enough`, maybe a larger number up to `enough`.

    Raises as `turns`.
    """
    return [renderer.turn_length(*written, enough) for written in _written(trace, renderer)]


def _written(trace: Trace, renderer: Renderer) -> Iterator[tuple[str, str, list[str]]]:
    """Yields prompt, target and images of each turn to train on."""
    renderer.check_texts(trace["messages"])
    trace = as_served(trace, renderer)
    messages, tools = trace["messages"], trace["tools"]
    failed = _failed_turns(messages, trace["outcome"]["tool_errors"])
    trained = trace.get("trained", range(len(messages)))
    conversation = Conversation(renderer, messages, tools)
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and index not in failed and index in trained:
            renderer.check_calls(message, tools)
            prompt, target = conversation.turn(index)
            yield prompt, target, renderer.image_names(messages[:index])


def join(turns: list[Turn]) -> Iterator[Example]:
    """Yields the turns as training examples. A turn whose prompt continues the turn before shares its example."""
    current: Example | None = None
    for turn in turns:
        if current is not None and current.input_ids == turn.prompt_ids[: len(current.input_ids)]:
            context = turn.prompt_ids[len(current.input_ids) :]
        else:
            if current is not None:
                yield current
            current = Example([], [], continues=current is not None)
            context = turn.prompt_ids
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
