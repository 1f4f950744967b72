"""The model card: what a student is, where it came from, what it was measured to do, how to run it.

`model_card` is a pure function of the manifest, the scorecard and the filter's ledger, and says nothing that is
not in them. It names neither the version nor the day it was written, so the same student has the same card.
The front matter is what the Hugging Face hub reads.
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from student.registry.artifact import PROJECTOR

# The hub's own identifiers (huggingface.co/docs/hub/repositories-licenses); any other licence is "other" there.
_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "gemma", "llama3", "llama3.1", "llama3.2", "llama3.3", "mpl-2.0", "unlicense",
}  # fmt: skip
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # neither a package's name nor most paths


def model_card(manifest: dict[str, Any], scorecard: dict[str, Any], ledger: dict[str, Any]) -> str:
    """Markdown with YAML front matter. `manifest` may lack name, tag and digests: the store adds those."""
    front = yaml.safe_dump(_front_matter(manifest, scorecard), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_title(manifest)}\n\n{_origin(manifest)}",
        f"## Exam\n\n{_exam(manifest, scorecard)}",
        f"## Training data\n\n{_data(manifest, ledger)}",
        f"## How to run it\n\n{_usage(manifest, scorecard)}",
        f"## Limits\n\n{_limits(manifest, scorecard, ledger)}",
        f"## Licences\n\n{_licences(manifest)}",
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def weights_options(weights: str | Path, tower: str | Path | None) -> str:
    """What llama-server is told of a student's GGUF, and of its vision tower where it sees."""
    return f"-m {weights} --mmproj {tower}" if tower else f"-m {weights}"


def _front_matter(manifest: dict[str, Any], scorecard: dict[str, Any]) -> dict[str, Any]:
    student = manifest["student"]
    licence = student["licence"].lower()
    known = licence in _HUB_LICENCES
    result = scorecard["models"]["student"]
    share = round(100 * result["passed"] / result["tasks"], 1) if result["tasks"] else 0.0
    exam = {
        "task": {"type": "text-generation", "name": "tool calling"},
        "dataset": {"type": "exam", "name": f"held-out {manifest['domain']} tasks"},
        "metrics": [{"type": "accuracy", "name": "tasks passed, %", "value": share}],
    }
    requests = manifest.get("requests")
    return {
        **({"language": requests["languages"]} if requests else {}),
        "license": licence if known else "other",
        **({} if known else {"license_name": student["licence"]}),
        **(
            {"base_model": student["base"], "base_model_relation": "finetune"}
            if _HUB_NAME.fullmatch(student["base"])
            else {}
        ),
        "pipeline_tag": "image-text-to-text" if _tower(manifest) else "text-generation",
        "tags": ["tool-calling", "distillation", manifest["domain"]],
        "model-index": [{"name": _title(manifest), "results": [exam]}],
    }


def _title(manifest: dict[str, Any]) -> str:
    return f"{manifest['student']['name']} for {manifest['domain']}"


def _origin(manifest: dict[str, Any]) -> str:
    student, teacher = manifest["student"], manifest["teacher"]
    return _table(
        ["", "model", "source", "licence"],
        [
            ["student, before training", student["name"], student["base"], student["licence"]],
            ["teacher", teacher["name"], teacher["source"], teacher["licence"]],
        ],
    )


def _exam(manifest: dict[str, Any], scorecard: dict[str, Any]) -> str:
    base, student = scorecard["models"]["base"], scorecard["models"]["student"]
    rows = [["all tasks", _score(base), f"**{_score(student)}**"]]
    for kind in _keys(base["by_kind"], student["by_kind"]):
        rows.append([f"kind: {kind}", *(_score(m["by_kind"].get(kind)) for m in (base, student))])
    for calls in _keys(base["by_calls"], student["by_calls"]):
        label = "1 call" if calls == "1" else f"{calls} calls"
        rows.append([label, *(_score(m["by_calls"].get(calls)) for m in (base, student))])
    rows.append(["well-formed turns", *(_turns(m["turns"]) for m in (base, student))])
    seen = "Pictures were shown as pixels. " if _tower(manifest) else ""
    low, high = _interval(student["passed"], student["tasks"])
    gate = scorecard["gate"]
    checks = [
        f"- {'passed' if check['passed'] else 'not passed'}: {check['name']} ({check['detail']})"
        for check in gate["checks"]
    ]
    return "\n\n".join(
        [
            _table(["tasks passed", "base", "this student"], rows),
            f"The exam is {scorecard['exam']['tasks']} held-out tasks (sha256 `{scorecard['exam']['sha256']}`). "
            "A task is passed when its answer and the state it leaves behind are both right. No worked examples "
            f"were shown and decoding was not constrained. {seen}The 95 % Wilson interval of the student's "
            f"share is {low:.0f} % to {high:.0f} %.",
            "Measured on these files:\n\n"
            f"- base: `{_file(base)}`, sha256 `{base['sha256']}`\n"
            f"- student: `{_file(student)}`, sha256 `{student['sha256']}`\n\n"
            "Other variants in this artifact did not sit the exam.",
            f"Gate: {'passed' if gate['passed'] else 'not passed'}.\n\n" + "\n".join(checks),
        ]
    ).rstrip()


def _data(manifest: dict[str, Any], ledger: dict[str, Any]) -> str:
    data, hinted = manifest["data"], ledger["hinted"]
    rejected = sorted(((n, name) for name, n in ledger["rejected"].items() if n), reverse=True)
    rows = [["traces of the teacher", str(ledger["traces"])], ["kept", str(ledger["kept"])]]
    rows += [[f"rejected: {name}", str(count)] for count, name in rejected]
    lacking = len(ledger["tasks_without_kept"])
    return "\n\n".join(
        [
            _table(["", "count"], rows),
            f"The traces are attempts at {ledger['tasks']} generated tasks; of {lacking} of them nothing was kept. "
            f"{hinted['kept']} of the {ledger['kept']} kept traces were made after the teacher had been shown the "
            "plan; the hint is not in the training data. Every kept trace was executed and its result checked.",
            *_requests(manifest.get("requests")),
            *_images(ledger.get("images")),
            f"Trained on {data['kept']} traces, sha256 `{data['sha256']}`, licence of the data: {data['licence']}.",
            *_replay(data.get("replay")),
            *_published(manifest),
        ]
    )


def _published(manifest: dict[str, Any]) -> list[str]:
    if all(file["variant"] != "data" for file in manifest.get("files", [])):
        return []
    name = manifest.get("name", manifest["domain"])
    return [
        "They are published with it: `data/train.parquet`, rows of messages, tools and images, fetched with "
        f"`stillhouse pull {name} --to {name} --variant data`."
    ]


def _requests(requests: dict[str, Any] | None) -> list[str]:
    if requests is None:
        return []
    asking = "\n".join(f"- {persona}" for persona in requests["personas"])
    return [f"The requests are in {', '.join(requests['languages'])}. Those who ask:\n\n{asking}"]


def _images(images: dict[str, Any] | None) -> list[str]:
    if images is None:
        return []
    saw, read = images["pixels"]["kept"], images["source"]["kept"]
    return [
        f"{saw + read} of the kept traces show images, which were drawn from data, so that what they show is known. In "
        f"{saw} of them the teacher saw the images; in {read} it was told in words what they show."
    ]


def _replay(replay: dict[str, Any] | None) -> list[str]:
    if replay is None:
        return []
    source = (
        replay["source"].rsplit("/", 1)[-1]
        if replay["source"].endswith(".jsonl")
        else replay["source"]
    )
    return [
        f"Against forgetting, {replay['used']} conversations of `{source}` were mixed in: {replay['tokens']} tokens, "
        f"{100 * replay['share']:.1f} % of the training tokens, sha256 of the set `{replay['sha256']}`, licence: "
        f"{replay['licence'] or 'not stated'}. They were checked for their form and not executed."
    ]


def _usage(manifest: dict[str, Any], scorecard: dict[str, Any]) -> str:
    files = manifest.get("files", [])
    examined = _file(scorecard["models"]["student"])
    name = manifest.get("name", manifest["domain"])
    tower = _tower(manifest)
    options = weights_options(f"{name}/{examined}", tower and f"{name}/{tower}")
    parts = [
        f"```\nstillhouse pull {name} --to {name}\nllama-server {options} --jinja --port 8080\n```"
    ]
    others = [
        f for f in files if f["path"].endswith(".gguf") and f["path"] not in (examined, tower)
    ]
    for file in others:
        parts.append(
            f"`{file['path']}` is fetched with "
            f"`stillhouse pull {name} --to {name} --variant {file['variant']}`."
        )
    if any(file["variant"] == "vllm" for file in files):
        parts.append(
            f"```\nstillhouse pull {name} --to {name} --variant vllm\n"
            f"vllm serve {name}/vllm --served-model-name {name}\n```"
        )
    parts.append(
        "Both serve the OpenAI chat API. Pass the tools in `tools`: the chat template that was trained on is in the "
        "files. llama-server needs `--jinja` to use it. vLLM needs `--enable-auto-tool-choice` and the "
        "`--tool-call-parser` that fits this template to return calls as `tool_calls`."
    )
    if tower:
        parts.append(
            "It reads pictures, in requests and in the results of tools: `image_url` parts of the messages. For that "
            "llama-server needs the vision tower, `--mmproj`; it comes with each GGUF."
        )
    return "\n\n".join(parts)


def _limits(manifest: dict[str, Any], scorecard: dict[str, Any], ledger: dict[str, Any]) -> str:
    student = scorecard["models"]["student"]
    lines = [
        f"Exam and training tasks are generated by the same `{manifest['domain']}` domain pack, from other seeds and "
        "other entities. The result says how well the student does these tasks, not how well it does real work.",
        "The student saw the tools of this domain only. With other tools it was not examined.",
        f"{student['tasks'] - student['passed']} of {student['tasks']} exam tasks were not passed: check what it "
        "answers, and let nothing that cannot be undone happen on its word alone.",
    ]
    weak = [
        (key, part)
        for key, part in student["by_template"].items()
        if part["tasks"] and part["passed"] / part["tasks"] < 0.5
    ]
    if weak:
        named = ", ".join(
            f"`{key}` ({part['passed']} of {part['tasks']})" for key, part in sorted(weak)
        )
        lines.append(f"Templates of which it passed fewer than half: {named}.")
    rare = [key for key, part in sorted(ledger["by_template"].items()) if not part["kept"]]
    if rare:
        named = ", ".join(f"`{key}`" for key in rare)
        lines.append(
            f"Templates of which no trace was kept, so that it never saw one solved: {named}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _licences(manifest: dict[str, Any]) -> str:
    student, teacher, data = manifest["student"], manifest["teacher"], manifest["data"]
    return (
        f"The weights are derived from {student['base']} ({student['licence']}). They were "
        f"trained on replies of {teacher['name']} ({teacher['source']}, {teacher['licence']}). The training data "
        f"carries the licence {data['licence']}. Whether a use is allowed depends on all three."
    )


def _tower(manifest: dict[str, Any]) -> str | None:
    """The file by which a student that sees reads pictures."""
    files = manifest.get("files", [])
    return next((file["path"] for file in files if file["variant"] == PROJECTOR), None)


def _file(model: dict[str, Any]) -> str:
    """The file's name in the artifact: where it lay during the run says nothing to a reader."""
    return str(model["file"]).rsplit("/", 1)[-1]


def _score(part: dict[str, int] | None) -> str:
    if part is None or not part["tasks"]:
        return "-"
    return f"{part['passed']} of {part['tasks']} ({100 * part['passed'] / part['tasks']:.1f} %)"


def _turns(turns: dict[str, int]) -> str:
    return _score({"passed": turns["well_formed"], "tasks": turns["total"]})


def _interval(passed: int, tasks: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent."""
    if not tasks:
        return 0.0, 100.0
    z = 1.96
    share = passed / tasks
    centre = (share + z * z / (2 * tasks)) / (1 + z * z / tasks)
    half = (
        z
        * math.sqrt(share * (1 - share) / tasks + z * z / (4 * tasks * tasks))
        / (1 + z * z / tasks)
    )
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def _keys(*parts: dict[str, Any]) -> list[str]:
    return sorted({key for part in parts for key in part})


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    # A pipe or a line break inside a cell would end it.
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
