"""What the stage publish makes of a run for the store: the student's files, its documents, its manifest."""

from pathlib import Path
from typing import Any

from flows.run_context import Work
from flows.run_directory import now
from schemas.errors import InputError
from schemas.files import read_json, read_jsonl, sha256, write_json
from student.registry import parquet, publish
from student.registry.model_card import model_card
from student.registry.publish import PublishFile
from student.training.mixture import REPLAY


def collect(
    work: Work, scorecard: dict[str, Any], to: Path
) -> tuple[list[PublishFile], dict[str, Any]]:
    """The files of a student, and its manifest as far as it is known before the store has named it.

    Documents, and the training data where they are published, are written to the directory `to`.
    """
    ledger = read_json(work.path("filter", "ledger.json"))
    files = [
        PublishFile(file, file.name, file.stem.rsplit("-", 1)[1], "weight")
        for file in sorted(work.path("export", "gguf").glob("*.gguf"))
    ]
    if work.path("export", "vllm").is_dir():
        files += publish.files_under(work.path("export", "vllm"), "vllm", "vllm")
    if work.recipe.publish.data:
        data = to / "data" / "train.parquet"
        parquet.write(read_jsonl(work.path("filter", "kept.jsonl")), work.album, data)
        told = data.with_name("dataset_info.json")
        write_json(told, parquet.llama_factory_info(work.domain.name, data.name))
        files += [
            PublishFile(file, f"data/{file.name}", "data", "dataset") for file in (data, told)
        ]
    manifest = _manifest(work, scorecard, ledger)
    described = {
        **manifest,
        "files": [{"path": file.name, "variant": file.variant} for file in files],
    }
    (to / "chat_template.jinja").write_text(work.renderer().template, encoding="utf-8")
    (to / "README.md").write_text(model_card(described, scorecard, ledger), encoding="utf-8")
    write_json(to / "scorecard.json", scorecard)
    write_json(to / "recipe.json", manifest["recipe"])
    for name, variant in (
        ("chat_template.jinja", "template"),
        ("README.md", "card"),
        ("scorecard.json", "scorecard"),
        ("recipe.json", "recipe"),
    ):
        files.append(PublishFile(to / name, name, variant, "doc"))
    return files, manifest


def still_there(work: Work, target: Path) -> bool:
    """Whether the store still holds what the receipt says was published: a store may be emptied by hand."""
    receipt = work.run.receipt("publish")
    try:
        return receipt is not None and bool(
            publish.resolve(target, f"{receipt['result']['name']}:{receipt['result']['tag']}")
        )
    except InputError:
        return False


def _manifest(work: Work, scorecard: dict[str, Any], ledger: dict[str, Any]) -> dict[str, Any]:
    teacher, student = work.teacher, work.student
    replay = read_json(work.path("train", "examples.json")).get("replay")
    return {
        "version": 1,
        "created": now(),
        "domain": work.domain.name,
        # Without its tag, so that the same student under another name is the same version.
        "recipe": work.recipe.model_dump(mode="json", exclude={"publish": {"tag"}}),
        "student": {
            "name": student["name"],
            "base": _origin(student),
            "licence": student["licence"]["id"],
        },
        "teacher": {
            "name": teacher["name"],
            "licence": teacher["licence"]["id"],
            "source": _origin(teacher),
        },
        "data": {
            "kept": ledger["kept"],
            "sha256": sha256(work.path("filter", "kept.jsonl")),
            "licence": work.domain.spec["licence"],
            **({"replay": {key: replay[key] for key in REPLAY}} if replay else {}),
        },
        "requests": {key: work.domain.spec[key] for key in ("personas", "languages")},
        "scorecard": {
            "base": scorecard["models"]["base"]["passed"],
            "student": scorecard["models"]["student"]["passed"],
            "tasks": scorecard["exam"]["tasks"],
        },
    }


def _origin(model: dict[str, Any]) -> str:
    source = model["source"]
    return str(source.get("pypi") or source.get("hub") or source.get("path") or source.get("url"))
