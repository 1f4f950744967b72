"""The messages that a task makes: its request, a hint, a tool's result, and a worked example of all of them.

In: a task, its pack, and the image store. Out: messages or their content in OpenAI's chat format, with each image named
by its sha256 (teacher/scenes/images.py). The agent loop and the cost estimate build the same messages.
"""

import json
from typing import Any

from schemas.canonical import arguments_text
from schemas.filter import HINT_HEADER
from schemas.task import Task
from schemas.trace import Message
from teacher.domain.drift import run_call
from teacher.domain.pack import Domain
from teacher.domain.swarm import ASSIGN, CREATE, calls_together, lead_task
from teacher.domain.worlds import start_world
from teacher.scenes.images import ImageStore, image_part, task_images
from teacher.scenes.kinds import draw
from teacher.scenes.scene import Scene

# What a message holds: text, or parts {"type": "text", "text"} and {"type": "image", "sha256"}.
Content = str | list[dict[str, Any]]


def request_content(task: Task) -> Content:
    """Returns the content of the user's message: the request, after the task's images if it has any."""
    if "pictures" not in task:
        return task["request"]
    images = [image_part(name) for name in task_images(task)]
    return [*images, {"type": "text", "text": task["request"]}]


def question_due(task: Task, *, step: int, told: int) -> str | None:
    """Returns what a good assistant says to the user of a dialogue now, before it goes on; None if it goes on.

    step: calls made so far. told: replies of the user so far.
    """
    asks = task["dialogue"]["asks"] if "dialogue" in task else []
    is_due = told < len(asks) and asks[told]["before_call"] <= step
    return asks[told]["text"] if is_due else None


def hint(task: Task, step: int | None = None, told: int = 0) -> str:
    """Returns the text that shows the solution of a task and its reply, as STaR does (arXiv:2203.14465).

    step: only this call of the solution (from 0), or the reply if there are no more. It serves a teacher that is too
        weak to keep its place in the whole solution.
    told: replies of a simulated user so far.
    """
    if step is not None and (question := question_due(task, step=step, told=told)):
        return f"{HINT_HEADER} Tell the user: {question}"
    steps = [f"{step['tool']} {arguments_text(step['arguments'])}" for step in task["plan"]]
    steps.append(f"Tell the user: {task['reply']}")
    if step is not None:
        return f"{HINT_HEADER} {steps[min(step, len(steps) - 1)]}"
    for ask in reversed(task["dialogue"]["asks"] if "dialogue" in task else []):
        steps.insert(ask["before_call"], f"Tell the user, and wait for the reply: {ask['text']}")
    lines = [HINT_HEADER, *(f"{number}. {text}" for number, text in enumerate(steps, 1))]
    first = next((i for i in range(len(steps)) if calls_together(task, i) > i + 1), None)
    if first is not None:
        lines.append(f"Make the calls {first + 1} to {calls_together(task, first)} in one message.")
    return "\n".join(lines)


def together(hints: list[str]) -> str:
    """Returns one hint for the calls of one message, whose own hints these are."""
    return "\n".join([hints[0], *(text.removeprefix(HINT_HEADER).strip() for text in hints[1:])])


def result_content(result: Any, image_store: ImageStore | None) -> Content:
    """Returns a tool's result as the content of a tool message. A scene is drawn, and its image is stored.

    Raises:
        SceneError: the scene cannot be drawn.
    """
    if isinstance(result, Scene):
        image = draw(result)
        name = image_store.add(image) if image_store else image.sha256
        size = f"{image.width} x {image.height} pixels"
        return [image_part(name), {"type": "text", "text": f"{result.kind}, {size}"}]
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


def demonstration(
    task: Task, domain: Domain, *, hinted: bool = False, image_store: ImageStore | None = None
) -> list[Message]:
    """Returns a worked example: the messages of a task from the user's request over its solution to the reply.

    hinted: with the hint before each turn, so that the example shows how a hint is followed.
    image_store: stores the images that tools return.
    """
    world, _ = start_world(domain.environment, **task)
    lead = lead_task(task) if "swarm" in task else task
    replies = iter(task["swarm"]["parts"] if "swarm" in task else [])
    messages: list[Message] = [{"role": "user", "content": request_content(task)}]
    start = told = 0
    while start < len(lead["plan"]):
        if question := question_due(task, step=start, told=told):
            if hinted:
                messages.append({"role": "system", "content": hint(task, start, told)})
            messages.append({"role": "assistant", "content": question})
            reply = task["dialogue"]["asks"][told]["reply"]
            messages.append({"role": "user", "content": reply})
            told += 1
            continue
        if hinted:
            texts = [hint(lead, at, told) for at in range(start, calls_together(lead, start))]
            messages.append({"role": "system", "content": together(texts)})
        end = calls_together(lead, start)
        calls, results = [], []
        for number, step in enumerate(lead["plan"][start:end], start):
            function = {"name": step["tool"], "arguments": arguments_text(step["arguments"])}
            calls.append({"id": f"call_{number}", "type": "function", "function": function})
            if step["tool"] == CREATE and lead is not task:
                result: Content = created(step["arguments"]["name"])
            elif step["tool"] == ASSIGN and lead is not task:
                part = next(replies)
                for call in part["plan"]:
                    run_call(world, task, call["tool"], call["arguments"])
                result = part["reply"]
            else:
                value = run_call(world, task, step["tool"], step["arguments"])
                result = result_content(value, image_store)
            results.append({"role": "tool", "tool_call_id": calls[-1]["id"], "content": result})
        messages += [{"role": "assistant", "content": "", "tool_calls": calls}, *results]
        start = end
    if hinted:
        messages.append({"role": "system", "content": hint(lead, len(lead["plan"]), told)})
    return [*messages, {"role": "assistant", "content": task["reply"]}]


def created(name: str) -> str:
    """Returns the result of creating a sub-agent."""
    return json.dumps({"created": name}, ensure_ascii=False)
