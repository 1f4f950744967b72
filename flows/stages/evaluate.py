"""evaluate: the held-out exam, of the untrained base and of the exported student.

    stillhouse evaluate RUN

Both are served by llama.cpp as the same GGUF variant, or with `evaluate.engine: vllm` by vLLM in 16 bits. The student
is evaluated on all parts of the exam, the base on the headline alone, and so are the student's other files in
`evaluate.variants`. With `gate.against`, the version that is `latest` in the store is too, unless it was published with
results on this exam. Writes evaluate/base.jsonl, evaluate/student.jsonl, evaluate/VARIANT.jsonl and
evaluate/latest.jsonl (traces), evaluate/latest.json (the score of `latest`), and evaluate/scorecard.json with the
scores, what the export gate measured of each file, and the gate that decides whether the student may be published.
"""

import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flows.activity import Numbers
from flows.estimate import Estimate, planned_seconds
from flows.progress import log, step, track, transfer
from flows.run_context import RunContext
from flows.run_directory import now
from flows.stages.other_packs import other_packs
from flows.stages.stage import Stage
from schemas.documents import check_document
from schemas.errors import GateError, InputError, StageError
from schemas.files import (
    dumps,
    read_json,
    read_jsonl,
    sha256,
    sha256_text,
    write_json,
    write_jsonl,
)
from schemas.scorecard import (
    HEADLINE,
    Score,
    VariantResult,
    compare,
    conduct_text,
    interval_text,
    part_of,
    titled_parts,
)
from schemas.task import Task
from schemas.trace import Trace, failure_reason
from student.registry.lookup import Version, find_version
from student.registry.open_store import open_store
from student.registry.pull import pull
from student.registry.release import EvaluatedAgain
from teacher.models import catalog

if TYPE_CHECKING:
    from student.evaluate import Candidate

_LATEST = "latest"  # its name in the exam; pulled files lie in evaluate/latest until it is over


def _knows_latest(context: RunContext) -> bool:
    """Whether `publish`, if it has not run, can compare with `latest`: with gate.against, on the same exam.

    A registry that cannot be reached is the business of `publish`.
    """
    if context.recipe.gate.against is None or context.run.receipt("publish"):
        return True
    with contextlib.suppress(StageError):
        latest = _unexamined(context, read_json(context.path("evaluate", "scorecard.json"))["exam"])
        known = context.path("evaluate", "latest.json")
        return not latest or (known.is_file() and read_json(known)["digest"] == latest.model.digest)
    return True


def _unexamined(context: RunContext, exam: dict[str, Any]) -> Version | None:
    """Returns what `latest` names in the store, if it was published without results on this exam and is not broken.

    Raises:
        StageError: the registry cannot be reached.
    """
    with contextlib.suppress(InputError):  # `publish` says that it is broken
        latest = find_version(open_store(context.recipe.publish.store), context.domain.name)
        return latest if latest and not latest.score_on(exam) else None
    return None


@partial(
    Stage,
    name="evaluate",
    reads=("evaluate", "gate", "train.max_length", "train.images"),
    # The scorecard names the recipe, `latest` is read from the store, and vLLM's share of memory changes no result.
    also_reads=("name", "publish.store", "serve.gpu_memory_utilization"),
    models=("student",),
    earlier={"plan": "tasks/exam.jsonl", "export": ""},
    outputs=("evaluate",),
    digests=other_packs,
    holds=_knows_latest,
)
def evaluate(context: RunContext) -> dict[str, Any]:
    from student.evaluate import gate, run_exam, score
    from teacher.rollout.agent_loop import passed

    settings, student = context.recipe.evaluate, context.student
    exam_file = context.path("tasks", "exam.jsonl")
    tasks = cast(list[Task], list(read_jsonl(exam_file)))
    seconds = planned_seconds(context.directory)
    headline = sum(part_of(task) == HEADLINE for task in tasks)
    scores: dict[str, Score] = {}
    has_passed: dict[str, dict[str, bool]] = {}
    for old in context.path("evaluate").glob("*.jsonl"):  # a variant that is not evaluated any more
        old.unlink()
    context.path("evaluate", "latest.json").unlink(missing_ok=True)
    exam = {"tasks": len(tasks), "sha256": sha256(exam_file)}
    candidates = _candidates(context)
    latest, again = _evaluated_again(context, exam)
    if latest:
        candidates.append(latest)
    for candidate in candidates:
        name = candidate.name
        own = [task for task in tasks if name == "student" or part_of(task) == HEADLINE]
        estimate = Estimate(
            f"exam of the {name}",
            "tasks",
            len(own),
            seconds,
            "evaluate",
            share=len(own) / (headline * (len(candidates) - 1) + len(tasks)),
            at_once=settings.concurrency,
        )
        numbers = Numbers()
        activity = f"exam of the {name}"
        with track(activity, len(own), estimate=estimate, numbers=numbers) as advance:

            def report(trace: Trace, numbers: Numbers = numbers, advance: Any = advance) -> None:
                numbers.add(trace, failure_reason(trace["outcome"]))
                advance()

            traces = run_exam(
                candidate,
                own,
                domain=context.domain,
                settings=settings,
                context=context.exam_tokens,
                hardware=context.hardware,
                journal=context.path("journal"),
                log=context.path("logs", f"exam-{name}.log"),
                grounding="pixels" if candidate.projector else "source",
                image_store=context.image_store,
                report_episode=report,
            )
        write_jsonl(context.path("evaluate", f"{name}.jsonl"), traces)
        scores[name] = score(candidate, traces, own, model=student["name"])
        has_passed[name] = {trace["task"]["id"]: passed(trace) for trace in traces}
        for title, part in titled_parts(scores[name]):
            log(
                f"{name}: {part['passed']} of {part['tasks']} exam tasks, {title}"
                f" ({interval_text(part)}); unasked writes in {part['unasked_write']['tasks']}"
                + (f"; {text}" if (text := conduct_text(part)) else "")
            )
    if again:
        if latest:
            again["score"] = scores[_LATEST]
            shutil.rmtree(context.path("evaluate", _LATEST))
        write_json(context.path("evaluate", "latest.json"), again)
    min_success = context.domain.spec.get("exam", {}).get("min_success", 0)
    verdict = gate(scores["base"], scores["student"], context.recipe.gate, min_success)
    scorecard = {
        "version": 1,
        "domain": context.domain.name,
        "recipe": context.recipe.name,
        "created": now(),
        "exam": exam,
        "models": {name: scores[name] for name in ("base", "student")},
        "variants": _variants(context, scores, {one.file: one.digest for one in candidates}),
        "comparison": compare(
            (has_passed["base"][task], has_passed["student"][task]) for task in has_passed["base"]
        ),
        "gate": verdict,
    }
    scorecard_file = context.path("evaluate", "scorecard.json")
    check_document(scorecard, "scorecard", scorecard_file)
    write_json(scorecard_file, scorecard)
    return {
        "base": scores["base"]["passed"],
        "student": scores["student"]["passed"],
        "gate": verdict["passed"],
    }


def _evaluated_again(
    context: RunContext, exam: dict[str, Any]
) -> tuple["Candidate | None", EvaluatedAgain | None]:
    """Pulls the version that is `latest`, where gate.against needs its results on this exam.

    Returns:
        It as a candidate, and what evaluate/latest.json will say of it, still without the score. Where its files cannot
        be had, there is no candidate, and the reason instead of a score.

    Raises:
        StageError: the store cannot be reached, or the disk is full.
    """
    from student.evaluate import Candidate

    latest = _unexamined(context, exam) if context.recipe.gate.against else None
    if latest is None:
        return None, None
    again: EvaluatedAgain = {"digest": latest.model.digest}
    reference, to = latest.reference, context.path("evaluate", _LATEST)
    try:
        weights, tower = latest.evaluated_files()
        log(f"{reference} is latest and was not evaluated on this exam: evaluating it too")
        with transfer(f"pulling {reference}") as progress:
            store = open_store(context.recipe.publish.store)
            pull(store, reference, to, [weights.variant], progress, log)
    except (GateError, InputError) as error:
        again["reason"] = str(error)
        log(f"{reference} is latest and cannot be evaluated on this exam: {error}")
        return None, again
    projector = to / tower.path if tower else None
    file = to / weights.path
    return Candidate(_LATEST, file, weights.sha256, projector=projector), again


def _variants(
    context: RunContext, scores: dict[str, Score], digests: dict[Path, str]
) -> dict[str, VariantResult]:
    """Returns what is known of each exported GGUF: its headline, and its drift as the export gate measured it.

    digests: sha256 of the files that were evaluated; a large one takes minutes.
    """
    results: dict[str, VariantResult] = {}
    for variant, checks in read_json(context.path("export", "gate.json")).items():
        file = context.path("export", "gguf", context.gguf_name(variant))
        if not file.is_file():
            continue  # the conversion in 16 bits, which is not published
        result: VariantResult = {"file": file.name, "sha256": digests.get(file) or sha256(file)}
        if variant in scores:
            result["headline"] = scores[variant]["parts"][HEADLINE]
        for check in checks:
            if "drift" in check:
                result["drift"] = check["drift"]
        results[variant] = result
    return results


def _candidates(context: RunContext) -> list["Candidate"]:
    """Returns the untrained base and the exported student in the same form, then the student's further files."""
    from student.evaluate import Candidate
    from student.export import untrained
    from student.registry.artifact import PROJECTOR

    settings = context.recipe.evaluate
    variant, pixels = settings.variant, context.student_reads_pixels
    further = {
        name: context.path("export", "gguf", context.gguf_name(name)) for name in settings.variants
    }
    if settings.engine == "vllm":
        return [
            *_in_vllm(context),
            *(Candidate(name, file, sha256(file)) for name, file in further.items()),
        ]
    with step(f"making the untrained student's {variant}"):
        base_file = untrained.gguf(context.student, variant, log)
    tower = context.path("export", "gguf", context.gguf_name(PROJECTOR)) if pixels else None
    files = {"student": context.path("export", "gguf", context.gguf_name(variant))} | further
    return [
        Candidate(
            "base",
            base_file,
            sha256(base_file),
            template=catalog.template(context.student),
            projector=untrained.projector(context.student, log) if pixels else None,
        ),
        *(Candidate(name, file, sha256(file), projector=tower) for name, file in files.items()),
    ]


def _in_vllm(context: RunContext) -> list["Candidate"]:
    """Returns the untrained base and the exported student as directories that vLLM serves."""
    from flows.student_check import exam_in_vllm
    from student.evaluate import Candidate
    from student.export import untrained

    how = exam_in_vllm(context, context.renderer(), here=True)
    with step("linking the untrained student's files for vLLM"):
        base = untrained.vllm_directory(context.student, log)
    directories: dict[str, Path] = {"base": base, "student": context.path("export", "vllm")}
    return [
        Candidate(name, directory, _directory_digest(directory), vllm=how)
        for name, directory in directories.items()
    ]


def _directory_digest(directory: Path) -> str:
    """Returns the sha256 over the names and sha256 of a directory's files."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    return sha256_text(dumps([[file.name, sha256(file)] for file in files]))
