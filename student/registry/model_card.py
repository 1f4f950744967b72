"""Writes the model card: what a student is, its origin, its exam results, how to run it, its limits and licences.

`model_card` is a pure function of the manifest, the scorecard and the filter's ledger. The card has neither the
version nor a date, so the same student always has the same card. Its front matter follows the Hugging Face hub
(huggingface.co/docs/hub/model-cards).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from schemas.ledger import Ledger
from student.registry.artifact import PROJECTOR
from student.registry.card_exam import evaluated_file, exam_section, is_in_vllm, table

# The hub's licence identifiers (huggingface.co/docs/hub/repositories-licenses); it lists any other as "other".
_HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "gemma", "llama3", "llama3.1", "llama3.2", "llama3.3", "mpl-2.0", "unlicense",
}  # fmt: skip
# A model's id on the hub. It matches no package name and few paths.
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def model_card(manifest: dict[str, Any], scorecard: dict[str, Any], ledger: Ledger) -> str:
    """Returns the card as Markdown with YAML front matter.

    manifest: schemas/manifest.schema.json; name, tag and digests may be missing, as publishing adds them later.
    scorecard: schemas/scorecard.schema.json. ledger: filter/ledger.json.
    """
    front = yaml.safe_dump(_front_matter(manifest, scorecard), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_title(manifest)}\n\n{_origin(manifest)}",
        f"## Exam\n\n{exam_section(scorecard, pixels=_projector(manifest) is not None)}",
        f"## Training data\n\n{_data(manifest, ledger)}",
        f"## How to run it\n\n{_usage(manifest, scorecard)}",
        f"## Limits\n\n{_limits(manifest, scorecard, ledger)}",
        f"## Licences\n\n{_licences(manifest)}",
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def weights_options(weights: str | Path, projector: str | Path | None) -> str:
    """Returns llama-server's options for a student's GGUF, and for its vision tower where it has one."""
    return f"-m {weights} --mmproj {projector}" if projector else f"-m {weights}"


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
            if _HUB_ID.fullmatch(student["base"])
            else {}
        ),
        "pipeline_tag": "image-text-to-text" if _projector(manifest) else "text-generation",
        "tags": ["tool-calling", "distillation", manifest["domain"]],
        "model-index": [{"name": _title(manifest), "results": [exam]}],
    }


def _title(manifest: dict[str, Any]) -> str:
    return f"{manifest['student']['name']} for {manifest['domain']}"


def _origin(manifest: dict[str, Any]) -> str:
    student, teacher = manifest["student"], manifest["teacher"]
    return table(
        ["", "model", "source", "licence"],
        [
            ["student, before training", student["name"], student["base"], student["licence"]],
            ["teacher", _teacher_name(teacher), teacher["source"], teacher["licence"]],
        ],
    )


def _data(manifest: dict[str, Any], ledger: Ledger) -> str:
    data, hinted = manifest["data"], ledger["hinted"]
    rejected = sorted(
        ((count, reason) for reason, count in ledger["rejected"].items() if count), reverse=True
    )
    rows = [["traces of the teacher", str(ledger["traces"])], ["kept", str(ledger["kept"])]]
    rows += [[f"rejected: {reason}", str(count)] for count, reason in rejected]
    without_kept = len(ledger["tasks_without_kept"])
    return "\n\n".join(
        [
            table(["", "count"], rows),
            f"The traces are attempts at {ledger['tasks']} generated tasks; {without_kept} of these tasks have no kept "
            f"trace. In {hinted['kept']} of the {ledger['kept']} kept traces the teacher was shown the solution as a "
            "hint; the hint is not in the training data. The calls of every kept trace were executed and its result "
            "was checked.",
            *_served(manifest["teacher"].get("served", [])),
            *_requests(manifest.get("requests"), ledger),
            *_seeds(data.get("seeds")),
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
        "The traces are published with the student as `data/train.parquet` (messages, tools and images); "
        f"`stillhouse pull {name} --to {name} --variant data` fetches them."
    ]


def _requests(requests: dict[str, Any] | None, ledger: Ledger) -> list[str]:
    if requests is None:
        return []
    text = f"The requests are in {', '.join(requests['languages'])}."
    if rewritten := ledger.get("rewritten"):
        text += (
            f" The teacher reworded {rewritten['taken']} of the requests of {ledger['tasks']} tasks"
        )
    if not rewritten or not requests.get("personas"):
        return [text + "." * bool(rewritten)]
    personas = "\n".join(f"- {persona}" for persona in requests["personas"])
    return [f"{text} as these personas would phrase them:\n\n{personas}"]


def _seeds(seeds: dict[str, list[int]] | None) -> list[str]:
    if seeds is None:
        return []
    (first, last), exam = seeds["train"], seeds["exam"]
    return [
        f"The training tasks were made from seeds between {first} and {last}, the exam's from seeds between {exam[0]} "
        f"and {exam[1]}."
    ]


def _served(apis: list[dict[str, Any]]) -> list[str]:
    """Returns a paragraph about each API that served the teacher: what it says of itself, unverified."""
    paragraphs = []
    for api in apis:
        said = [
            f"{words} {_code(str(api[key]))}"
            for key, words in (("server", "server"), ("owned_by", "owner"), ("weights", "weights"))
            if key in api
        ]
        text = f"The teacher was {_code(api['model'])} of the API at {_code(api['host'])}"
        text += f", which says of itself: {', '.join(said)}." if said else "."
        if replied := api.get("replied"):
            text += f" Its replies name the model {', '.join(map(_code, replied))}."
        paragraphs.append(
            f"{text} The run described it as {_code(api['described_as'])}. None of this was verified."
        )
    return paragraphs


def _teacher_name(teacher: dict[str, Any]) -> str:
    """Returns the teacher's name; one that an API gave as code, because it may hold markup."""
    return _code(teacher["name"]) if "served" in teacher else str(teacher["name"])


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _images(images: dict[str, Any] | None) -> list[str]:
    if images is None:
        return []
    pixels, source = images["pixels"]["kept"], images["source"]["kept"]
    return [
        f"{pixels + source} of the kept traces have images. The images were drawn from data, so their content is known "
        f"exactly. In {pixels} of these traces the teacher read the pixels; in {source} it read the content in words."
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
        f"To limit catastrophic forgetting, {replay['used']} conversations of `{source}` were mixed in: "
        f"{replay['tokens']} tokens, {100 * replay['share']:.1f} % of the training tokens, sha256 of the set "
        f"`{replay['sha256']}`, licence: {replay['licence'] or 'not stated'}. Their form was checked; their calls were "
        "not executed."
    ]


def _usage(manifest: dict[str, Any], scorecard: dict[str, Any]) -> str:
    files = manifest.get("files", [])
    student = scorecard["models"]["student"]
    evaluated = evaluated_file(student)
    name = manifest.get("name", manifest["domain"])
    projector = _projector(manifest)
    parts = []
    if not is_in_vllm(student):
        options = weights_options(f"{name}/{evaluated}", projector and f"{name}/{projector}")
        served = f"llama-server {options} --jinja --port 8080"
        parts.append(f"```\nstillhouse pull {name} --to {name}\n{served}\n```")
    others = [
        f for f in files if f["path"].endswith(".gguf") and f["path"] not in (evaluated, projector)
    ]
    for file in others:
        parts.append(
            f"`stillhouse pull {name} --to {name} --variant {file['variant']}` fetches `{file['path']}`."
        )
    if any(file["variant"] == "vllm" for file in files):
        parts.append(
            f"```\nstillhouse pull {name} --to {name} --variant vllm\n"
            f"vllm serve {name}/vllm --served-model-name {name}\n```"
        )
    parts.append(
        "llama-server and vLLM serve the OpenAI chat API. Pass the tools in `tools`: the files contain the chat "
        "template of the training. llama-server uses it with `--jinja`. To return calls as `tool_calls`, vLLM needs "
        "`--enable-auto-tool-choice` and the `--tool-call-parser` that fits this template."
    )
    if any(file["variant"] == "serving" for file in files):
        parts.append(
            "`SERVING.md` has the commands of llama.cpp, vLLM, Ollama and Docker Model Runner with the context length "
            "and vLLM's parsers. Each GGUF comes with its Modelfile for Ollama."
        )
    if projector:
        parts.append(
            "The student reads images, in requests and in the results of tools, as `image_url` parts of the messages. "
            "llama-server needs the vision tower for this, `--mmproj`; `stillhouse pull` fetches it with each GGUF."
        )
    return "\n\n".join(parts)


def _limits(manifest: dict[str, Any], scorecard: dict[str, Any], ledger: Ledger) -> str:
    student = scorecard["models"]["student"]
    parts = student.get("parts", {})
    lines = [
        f"The `{manifest['domain']}` domain pack generated both the training tasks and the exam, from different seeds "
        "and entities. The exam measures how well the student solves such tasks, not how well it does real work.",
        "The student was trained on the tools of this domain only"
        + ("." if "drift" in parts else ", and was not evaluated with other tools."),
        f"{student['tasks'] - student['passed']} of {student['tasks']} exam tasks were not passed: check its answers, "
        "and have a person confirm every action that cannot be undone.",
    ]
    writes = sum(part["unasked_write"]["tasks"] for part in parts.values())
    if writes:
        tasks = sum(part["tasks"] for part in parts.values())
        lines.append(
            f"In {writes} of {tasks} exam tasks, all parts together, it changed something without being asked to."
        )
    weak = [
        (key, part)
        for key, part in student["by_template"].items()
        if part["tasks"] and part["passed"] / part["tasks"] < 0.5
    ]
    if weak:
        templates = ", ".join(
            f"`{key}` ({part['passed']} of {part['tasks']})" for key, part in sorted(weak)
        )
        lines.append(
            f"Task templates of which the student passed fewer than half the exam tasks: {templates}."
        )
    unlearned = [key for key, part in sorted(ledger["by_template"].items()) if not part["kept"]]
    if unlearned:
        templates = ", ".join(f"`{key}`" for key in unlearned)
        lines.append(
            f"Task templates without a kept trace, so without a training example: {templates}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _licences(manifest: dict[str, Any]) -> str:
    student, teacher, data = manifest["student"], manifest["teacher"], manifest["data"]
    return (
        f"The weights are derived from {student['base']} ({student['licence']}). They were "
        f"trained on replies of {_teacher_name(teacher)} ({teacher['source']}, {teacher['licence']}). The licence of "
        f"the training data is {data['licence']}. Whether a use is allowed depends on all three."
    )


def _projector(manifest: dict[str, Any]) -> str | None:
    """Returns the path of the vision tower's file, or None for a text-only student."""
    files = manifest.get("files", [])
    return next((file["path"] for file in files if file["variant"] == PROJECTOR), None)
