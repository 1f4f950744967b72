"""evaluate: the held-out exam, of the untrained base and of the exported student.

    stillhouse evaluate RUN

Both are served by llama.cpp as the same GGUF variant. The student is evaluated on all parts of the exam, the base on
the headline alone. Writes evaluate/base.jsonl and evaluate/student.jsonl (traces), and evaluate/scorecard.json with
both scores and the gate that decides whether the student may be published.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flows.activity import Numbers
from flows.estimate import Estimate, planned_seconds
from flows.progress import log, step, track
from flows.run_context import RunContext
from flows.run_directory import now
from flows.stages.stage import Stage
from schemas.documents import check_document
from schemas.files import read_jsonl, sha256, write_json, write_jsonl
from schemas.scorecard import HEADLINE, Score, compare, interval_text, part_of, titled_parts
from schemas.task import Task
from schemas.trace import Trace, failure_reason
from teacher.models import catalog

if TYPE_CHECKING:
    from student.evaluate import Candidate


@partial(
    Stage,
    name="evaluate",
    reads=("evaluate", "gate", "train.max_length", "train.images"),
    also_reads=("name",),  # the scorecard names the recipe
    models=("student",),
    earlier={"plan": "tasks/exam.jsonl", "export": ""},
    outputs=("evaluate/base.jsonl", "evaluate/student.jsonl", "evaluate/scorecard.json"),
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
    for candidate in _candidates(context):
        name = candidate.name
        own = [task for task in tasks if name == "student" or part_of(task) == HEADLINE]
        estimate = Estimate(
            f"exam of the {name}",
            "tasks",
            len(own),
            seconds,
            "evaluate",
            share=len(own) / (headline + len(tasks)),
            at_once=settings.concurrency,
        )
        numbers = Numbers()
        activity = f"exam of the {name}"
        with track(activity, len(own), estimate=estimate, numbers=numbers) as advance:

            def report(trace: Trace, numbers: Numbers = numbers, advance: Any = advance) -> None:
                numbers.add(trace, failure_reason(trace["outcome"]))
                advance()

            traces = asyncio.run(
                run_exam(
                    candidate,
                    own,
                    domain=context.domain,
                    settings=settings,
                    context=context.exam_tokens,
                    journal=context.path("journal"),
                    log=context.path("logs", f"exam-{name}.log"),
                    grounding="pixels" if context.student_reads_pixels else "source",
                    image_store=context.image_store,
                    report_episode=report,
                )
            )
        write_jsonl(context.path("evaluate", f"{name}.jsonl"), traces)
        scores[name] = score(candidate, traces, own, model=student["name"])
        has_passed[name] = {trace["task"]["id"]: passed(trace) for trace in traces}
        for title, part in titled_parts(scores[name]):
            log(
                f"{name}: {part['passed']} of {part['tasks']} exam tasks, {title}"
                f" ({interval_text(part)}); unasked writes in {part['unasked_write']['tasks']}"
            )
    min_success = context.domain.spec.get("exam", {}).get("min_success", 0)
    verdict = gate(scores["base"], scores["student"], context.recipe.gate, min_success)
    scorecard = {
        "version": 1,
        "domain": context.domain.name,
        "recipe": context.recipe.name,
        "created": now(),
        "exam": {"tasks": len(tasks), "sha256": sha256(exam_file)},
        "models": scores,
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


def _candidates(context: RunContext) -> list["Candidate"]:
    """Returns the untrained base and the exported student as GGUF files of the same variant."""
    from student.evaluate import Candidate
    from student.export import untrained
    from student.registry.artifact import PROJECTOR

    variant, pixels = context.recipe.evaluate.variant, context.student_reads_pixels
    with step(f"making the untrained student's {variant}"):
        base_file = untrained.gguf(context.student, variant, log)
    student_file = context.path("export", "gguf", context.gguf_name(variant))
    projector = context.path("export", "gguf", context.gguf_name(PROJECTOR))
    return [
        Candidate(
            "base",
            base_file,
            sha256(base_file),
            template=catalog.template(context.student),
            projector=untrained.projector(context.student, log) if pixels else None,
        ),
        Candidate(
            "student", student_file, sha256(student_file), projector=projector if pixels else None
        ),
    ]
