"""A teacher that solves the tasks of the small pack with images, behind a real HTTP server, and a run with it."""

import json
from pathlib import Path
from typing import Any, cast

import visual_pack
from http_server import Handler

from flows import recipe_file
from flows.generation.shards import read_traces
from flows.run_context import RunContext
from flows.run_directory import Run
from flows.stages import PIPELINE
from schemas.files import read_jsonl
from student.models import base
from teacher.models import catalog
from teacher.models.catalog import TEACHERS
from teacher.planning import hardware

# The template that this teacher solves without its image, because it knows all visits.
KNOWN_BLIND = "visit_of_letter"


SETTINGS = {
    "teacher": "openai",
    "tasks.train": "30",
    "tasks.exam": "8",
    "tasks.mix": "null",
    "tasks.swapped": "0.2",
    "tasks.held_out": "[]",
    "generate.constrain": "false",
    "generate.hint": "never",
    "generate.preflight": "false",
    "generate.examples": "1",
    "filter.max_tokens": "4096",
    "train.max_length": "4096",
}


class Teacher(Handler):
    """Answers with the task's solution if the request has the task's images. The session's id names the task."""

    tasks: dict[str, dict[str, Any]]
    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.body()
        self.requests.append(body)
        task = self.tasks[self.headers["X-Session-ID"].rsplit("/", 1)[0]]
        messages = body["messages"]
        request = max(i for i, m in enumerate(messages) if m["role"] == "user")
        own = messages[request:]
        calls = sum(message["role"] == "tool" for message in own)
        has_images = any(
            isinstance(m["content"], list) or "[Image: " in (m["content"] or "") for m in own
        )
        message: dict[str, Any] = {"role": "assistant", "content": task["reply"]}
        if calls < len(task["plan"]) and (has_images or "pictures" not in task):
            step = task["plan"][calls]
            function = {"name": step["tool"], "arguments": json.dumps(step["arguments"])}
            call = {"id": "c", "type": "function", "function": function}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        elif not has_images and task["template"] != KNOWN_BLIND:
            message["content"] = "I have nothing to look at."
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        self.reply(200, {**head, "choices": [choice], "usage": usage})


def open_context(
    directory: Path, url: str, teacher: dict[str, Any] | None = None, **changes: str
) -> RunContext:
    """The context of a run of the small pack; `teacher` changes the teacher's description."""
    pack = directory / "fees"
    domain = visual_pack.load(str(pack)) if pack.is_dir() else visual_pack.write(pack)
    settings = {**SETTINGS, "serve.url": url, **changes}
    recipe = recipe_file.load("local", [f"{name}={value}" for name, value in settings.items()])
    run = Run.open(directory / "run", recipe, domain.name, domain.path)
    description = {**catalog.load("openai", TEACHERS, "teacher"), "served_name": "m"}
    description |= teacher or {}
    return RunContext(run, recipe, domain, description, base.load(recipe.student), hardware.find())


def plan_and_generate(context: RunContext) -> list[dict[str, Any]]:
    PIPELINE["plan"].run(context)
    rows = list(read_jsonl(context.path("tasks", "train.jsonl")))
    Teacher.tasks = {task["id"]: task for task in rows}
    PIPELINE["generate"].run(context)
    return cast(Any, [*read_traces(context.directory)])
