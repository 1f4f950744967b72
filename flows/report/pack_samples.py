"""Writes the page of `stillhouse check-domain --html`: what was found, the tools, and a task of each template.

The page is self-contained, as the report of a run is (flows/report/html.py): no scripts, images as data URLs, and all
text escaped.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from schemas.task import Task
from teacher.domain.check import Checked, Finding
from teacher.domain.pack import Domain
from teacher.domain.prompts import demonstration
from teacher.scenes.images import ImageStore, task_images

_TEXT_CHARACTERS = 4000


def page(
    domain: Domain, checked: Checked, findings: Sequence[Finding], image_store: ImageStore
) -> str:
    """Returns the page as HTML.

    Args:
        findings: of all checks, also those that `checked` lacks.
        image_store: has the images of the tasks in `checked`.
    """
    first: dict[str, Task] = {}
    for task in checked.tasks:
        first.setdefault(task["template"], task)
    samples = [
        {
            "name": name,
            "kind": template.kind,
            "statistics": checked.statistics["by_template"][name],
            "task": first.get(name),
            "images": [_url(image_store, sha) for sha in task_images(first.get(name, {}))],
            "messages": _messages(first[name], domain, image_store) if name in first else [],
        }
        for name, template in domain.templates.items()
    ]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        (Path(__file__).parent / "pack_samples.html.jinja").read_text(encoding="utf-8")
    )
    return template.render(
        domain=domain,
        findings=[(finding, finding.line(domain.path)) for finding in findings],
        tools=[tool["function"] for tool in domain.tools.values()],
        samples=samples,
        as_json=lambda value: json.dumps(value, ensure_ascii=False),
    )


def _messages(task: Task, domain: Domain, image_store: ImageStore) -> list[dict[str, Any]]:
    """The messages of the solution, after the request; images of results as data URLs."""
    messages = []
    for message in demonstration(task, domain, image_store=image_store)[1:]:
        content = message["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        messages.append(
            {
                "role": message["role"],
                "text": text[:_TEXT_CHARACTERS],
                "cut": max(0, len(text) - _TEXT_CHARACTERS),
                "images": [
                    _url(image_store, part["sha256"]) for part in parts if part["type"] == "image"
                ],
                "calls": [call["function"] for call in message.get("tool_calls", [])],
            }
        )
    return messages


def _url(image_store: ImageStore, sha256: str) -> str:
    return f"data:image/png;base64,{base64.b64encode(image_store.png(sha256)).decode()}"
