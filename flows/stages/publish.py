"""publish: puts a student that passed its gate into the store, with its model card and manifest.

    stillhouse publish RUN

Writes publish/ (the card, the scorecard, the recipe, with publish.data the training data) and a version in the store
(student/registry/publish.py).
"""

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from flows.commands import store_name
from flows.progress import log, transfer
from flows.run_context import RunContext
from flows.run_directory import now
from flows.stages.stage import Stage
from schemas.errors import GateError, InputError, StageError
from schemas.files import dumps, read_json, read_jsonl, sha256, whole, write_json
from schemas.ledger import Ledger
from schemas.recipe import Recipe
from schemas.scorecard import Release
from schemas.trace import Trace
from student.registry import parquet
from student.registry import publish as registry
from student.registry.artifact import PublishFile, files_under
from student.registry.lookup import find_version, resolve
from student.registry.model_card import model_card
from student.registry.oci_layout import DirectoryStore
from student.registry.open_store import open_store
from student.registry.release import judge, same_student
from student.registry.store import Store
from student.training.mixture import REPLAY

_MOVES = 5  # how often another publisher may move `latest` before this one gives up


def _store(context: RunContext) -> dict[str, str]:
    return {"store": _location(open_store(context.recipe.publish.store))}


def _location(store: Store) -> str:
    """Returns where a store is, as a receipt holds it: the absolute path of a directory, or a URL."""
    return str(store.directory.resolve()) if isinstance(store, DirectoryStore) else store.location


def _is_in_store(context: RunContext) -> bool:
    """Whether the store still has the version of the receipt: a store may be emptied by hand."""
    receipt = context.run.receipt("publish")
    store = open_store(context.recipe.publish.store)
    try:
        return receipt is not None and bool(
            resolve(store, f"{receipt['result']['name']}:{receipt['result']['tag']}")
        )
    except InputError:
        return False


@partial(
    Stage,
    name="publish",
    reads=("publish",),
    also_reads=tuple(Recipe.model_fields),  # the manifest holds the whole recipe
    models=("teacher", "student"),
    earlier={"filter": "", "train": "train/examples.json", "export": "", "evaluate": ""},
    digests=_store,
    outputs=("publish",),
    holds=_is_in_store,
)
def publish(context: RunContext) -> dict[str, Any]:
    scorecard_file = context.path("evaluate", "scorecard.json")
    scorecard = read_json(scorecard_file)
    if not scorecard["gate"]["passed"]:
        failed = next(check for check in scorecard["gate"]["checks"] if not check["passed"])
        raise GateError(f"not published: {failed['name']}: {failed['detail']} ({scorecard_file})")
    store = open_store(context.recipe.publish.store)
    for _ in range(_MOVES):
        release, compared_with = _release(context, store, scorecard)
        shown = scorecard if release is None else {**scorecard, "release": release}
        with contextlib.suppress(registry.LatestMoved):
            return _publish(context, store, shown, compared_with)
        log("latest was moved by another publisher: comparing with it again")
    raise StageError(f"{context.domain.name}: latest was moved {_MOVES} times: publish again")


def _publish(
    context: RunContext, store: Store, scorecard: dict[str, Any], compared_with: str | None
) -> dict[str, Any]:
    """Writes publish/, publishes the student, and returns the result."""
    tag = context.recipe.publish.tag
    release = scorecard.get("release", {"passed": True})
    with whole(context.path("publish")) as temporary:
        temporary.mkdir()
        files, manifest = _collect(context, scorecard, temporary)
        with transfer("files hashed and copied") as progress:
            published = registry.publish(
                store,
                context.domain.name,
                files,
                manifest,
                gate_passed=release["passed"],
                tag=tag,
                compared_with=compared_with,
                progress=progress,
            )
        result = {
            "name": published.name,
            "tag": published.tag,
            "digest": published.digest,
            "store": _location(store),
        }
        if not release["passed"]:
            result["held_back"] = release["detail"]
        write_json(temporary / "published.json", result)
    name = f"{published.name}:{published.tag}"
    log(f"published as {name}{f' ({tag})' if tag else ''} in {store_name(result['store'])}")
    if "release" in scorecard:
        log(f"{name}: {release['detail']}")
    return result


def _release(
    context: RunContext, store: Store, scorecard: dict[str, Any]
) -> tuple[Release | None, str | None]:
    """Returns whether the student may become `latest`, and the digest that `latest` must then still name ("": none).

    Both are None without gate.against; the digest also where the student has its verdict from an earlier start.
    """
    if context.recipe.gate.against is None:
        return None, None
    name = context.domain.name
    try:
        latest = find_version(store, name)
    except InputError as error:
        return {"passed": False, "detail": f"not compared with latest: {error}"}, None
    if latest and (verdict := same_student(scorecard, latest.scorecard)):
        return verdict, None
    before = context.path("publish", "published.json")
    if before.is_file():
        published = read_json(before)
        with contextlib.suppress(InputError):  # another store, or one that was emptied
            earlier = find_version(store, f"{name}:{published['tag']}")
            if earlier and (verdict := same_student(scorecard, earlier.scorecard)):
                return verdict, None
    evaluated = context.path("evaluate", "latest.json")
    again = read_json(evaluated) if evaluated.is_file() else None
    release = judge(scorecard, latest, again, context.recipe.gate.level)
    return release, latest.model.digest if latest else ""


def _collect(
    context: RunContext, scorecard: dict[str, Any], to: Path
) -> tuple[list[PublishFile], dict[str, Any]]:
    """Returns the files of a student and its manifest, without the name that the store gives it.

    Writes documents, and with publish.data the training data, to the directory `to`.
    """
    from student.export.ollama import MODELFILE

    ledger: Ledger = read_json(context.path("filter", "ledger.json"))
    files = [
        PublishFile(file, file.name, file.stem.rsplit("-", 1)[1], "weight")
        for file in sorted(context.path("export", "gguf").glob("*.gguf"))
    ]
    for file in sorted(context.path("export", "serving").glob("*")):
        # A Modelfile comes with its variant, SERVING.md with each.
        is_modelfile = file.name.startswith(MODELFILE)
        variant = file.name.removeprefix(MODELFILE) if is_modelfile else "serving"
        files.append(PublishFile(file, file.name, variant, "doc"))
    if context.path("export", "vllm").is_dir():
        files += files_under(context.path("export", "vllm"), "vllm", "vllm")
    if context.recipe.publish.data:
        data = to / "data" / "train.parquet"
        parquet.write(read_jsonl(context.path("filter", "kept.jsonl")), context.image_store, data)
        dataset_info = data.with_name("dataset_info.json")
        write_json(dataset_info, parquet.llama_factory_info(context.domain.name, data.name))
        files += [
            PublishFile(file, f"data/{file.name}", "data", "dataset")
            for file in (data, dataset_info)
        ]
    manifest = _manifest(context, scorecard, ledger)
    with_files = {
        **manifest,
        "files": [{"path": file.name, "variant": file.variant} for file in files],
    }
    (to / "chat_template.jinja").write_text(context.renderer().template, encoding="utf-8")
    (to / "README.md").write_text(model_card(with_files, scorecard, ledger), encoding="utf-8")
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


def _manifest(context: RunContext, scorecard: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Returns the manifest of the student, without the files and the tag."""
    teacher, student, domain = context.teacher, context.student, context.domain
    replay = read_json(context.path("train", "examples.json")).get("replay")
    base, examined = scorecard["models"]["base"], scorecard["models"]["student"]
    return {
        "version": 1,
        "created": now(),
        "domain": domain.name,
        # The tag is left out, so that the same student under another tag is the same version.
        "recipe": context.recipe.model_dump(mode="json", exclude={"publish": {"tag"}}),
        "student": {
            "name": student["name"],
            "base": _origin(student),
            "licence": student["licence"]["id"],
        },
        "teacher": _teacher(teacher, read_jsonl(context.path("filter", "kept.jsonl"))),
        "data": {
            "kept": ledger["kept"],
            "sha256": sha256(context.path("filter", "kept.jsonl")),
            "licence": domain.spec["licence"],
            **_seeds(context),
            **({"replay": {key: replay[key] for key in REPLAY}} if replay else {}),
        },
        "requests": {
            "languages": domain.spec["languages"],
            **_personas(ledger),
        },
        "scorecard": {
            "base": base["passed"],
            "student": examined["passed"],
            "tasks": examined["tasks"],
            "parts": {
                part: {"tasks": result["tasks"], "passed": result["passed"]}
                for part, result in examined.get("parts", {}).items()
            },
        },
    }


def _personas(ledger: Ledger) -> dict[str, list[str]]:
    """Returns the personas in whose voice the teacher reworded requests, if it did."""
    personas = ledger.get("rewritten", {}).get("personas", {})
    return {"personas": [*personas]} if personas else {}


def _seeds(context: RunContext) -> dict[str, Any]:
    """Returns the seeds of the run's tasks, as the plan's receipt has them; none of a run that was planned earlier."""
    result = (context.run.receipt("plan") or {}).get("result", {})
    return {"seeds": result["seeds"]} if "seeds" in result else {}


def _teacher(description: dict[str, Any], kept: Iterable[Trace]) -> dict[str, Any]:
    """Returns the manifest's teacher: by what the kept traces record of its API, else by its description."""
    apis: dict[str, dict[str, Any]] = {}
    for trace in kept:
        if served := trace["teacher"].get("served"):
            api = apis.setdefault(
                dumps(served), {**served, "engine": trace["teacher"]["engine"], "replied": set()}
            )
            api["replied"] |= {call["model"] for call in trace["calls"] if "model" in call}
    licence = description["licence"]["id"]
    if not apis:
        return {"name": description["name"], "licence": licence, "source": _origin(description)}
    rows = [{**api, "replied": sorted(api["replied"])} for _, api in sorted(apis.items())]
    return {
        "name": ", ".join(sorted({row["model"] for row in rows})),
        "licence": licence,
        "source": ", ".join(f"API at {host}" for host in sorted({row["host"] for row in rows})),
        "served": [{key: value for key, value in row.items() if value} for row in rows],
    }


def _origin(model: dict[str, Any]) -> str:
    source = model["source"]
    return str(source.get("pypi") or source.get("hub") or source.get("path") or source.get("url"))
