"""plan: samples the tasks, proves each solvable, and estimates what the run takes and whether it fits.

    stillhouse plan DOMAIN --gpus 8xH200

Sends no request to a model. Of very many tasks, the command `plan` makes some and estimates the rest; the stage of a
run makes all. Tasks of an earlier plan of the run are kept where no setting that they depend on has changed. Writes
tasks/train.jsonl, tasks/exam.jsonl, tasks/made.json (kept_tasks.py) and plan.json. The images of the tasks go to
images/.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flows.estimate import minutes
from flows.generation import runners, users
from flows.progress import log
from flows.run_context import RunContext
from flows.stages import kept_tasks
from flows.stages.other_packs import other_packs
from flows.stages.stage import Stage
from schemas.api_key import key_for
from schemas.documents import check_document
from schemas.errors import GateError, InputError
from schemas.files import read_json, read_jsonl, sha256_text, write_json
from schemas.recipe_teacher import UserApi
from schemas.scorecard import part_of
from schemas.task import Task
from teacher.domain import capacity, offer, tasks, unanswerable
from teacher.domain import exam as exam_parts
from teacher.domain.check import SAMPLE, Finding, check
from teacher.domain.drift import tools_of
from teacher.domain.drift_tasks import drift_tasks
from teacher.domain.kinds.derive import derive_kinds
from teacher.domain.retrieval import found_share, retrieve_tools
from teacher.inference import launch
from teacher.planning import cost, pack_size
from teacher.rollout.guidance import Guidance
from teacher.scenes.images import task_images

# Shares of train.max_length: from the first on the whole toolbox leaves little room for a conversation, from the second
# on none.
_LARGE, _FULL = 0.5, 0.9


# Of more training tasks than LARGE_RUN the command `plan` proves SAMPLED: a task with images takes about 0.1 s.
LARGE_RUN, SAMPLED = 20_000, 1_000


def _digests(context: RunContext) -> dict[str, str]:
    return {"hardware": sha256_text(str(context.hardware)), **other_packs(context)}


def _has_images(context: RunContext) -> bool:
    """Whether the image store has every image that the tasks name. The receipt does not list images."""
    files = [context.path("tasks", name) for name in ("train.jsonl", "exam.jsonl")]
    rows = (row for file in files for row in read_jsonl(file))
    return not context.image_store.missing(name for row in rows for name in task_images(row))


def _print_plan(context: RunContext) -> None:
    for line in read_json(context.path("plan.json"))["lines"]:
        log(f"  {line}")


@partial(
    Stage,
    name="plan",
    reads=(
        "tasks",
        "serve",
        "generate",
        "filter.agreement?",
        "filter.max_tokens",
        "filter.per_template",
        "train",
        "gate.min_parts",
        "evaluate.variants",  # the time of the exam
    ),
    models=("teacher", "student"),
    digests=_digests,
    outputs=("tasks/train.jsonl", "tasks/exam.jsonl", "plan.json"),
    holds=_has_images,
    report=_print_plan,
)
def plan(context: RunContext) -> dict[str, Any]:
    from student.models.chat_template import template_place, tools_counter
    from student.training.memory import memory
    from teacher.planning.plan import plan as make_plan

    settings, domain = context.recipe.tasks, context.domain
    tools_tokens = tools_counter(context.student)
    serve, teacher = context.recipe.serve, context.teacher
    if serve.model and not serve.url and teacher["engine"] != "openai":
        raise InputError(
            f"serve.model: found {serve.model}, expected null: the run serves {teacher['name']} itself; set serve.url"
            " to the API that serves it"
        )
    runners.check(context.recipe.generate, is_api=launch.is_api(teacher, serve))
    _check_keys(context)
    image_store, student_pixels = context.image_store, context.student_reads_pixels
    checked = check(domain, SAMPLE)
    findings = [
        *checked.findings,
        *pack_size.check_results(domain, checked.episodes, context.recipe),
    ]
    _raise_errors(context, findings)
    held_out = exam_parts.held_out_templates(domain, settings)
    guidance = Guidance(few=context.recipe.generate.toolbox == "few")
    kept = kept_tasks.load(context)
    if kept:
        log("plan keeps the proven tasks of this run")
    made = kept or _make(context, held_out, guidance)
    train, exam = made.train, made.exam
    _check_template_share(context, train)
    _check_image_limit(context, train)
    _check_gated_parts(context, exam)
    conversations = cost.measure(
        train,
        domain,
        image_store,
        teacher=context.teacher_grounding,
        student="pixels" if student_pixels else "source",
        student_tools=tools_tokens,
        guidance=guidance,
    )
    too_long = list(pack_size.check_size(domain, train, conversations, context.recipe))
    _raise_errors(context, too_long)
    # The sampled tasks stand for all.
    conversations = [conversations[i % len(train)] for i in range(settings.train)]
    if not kept:
        kept_tasks.store(context, made)
    estimate = make_plan(
        conversations,
        exam,
        teacher=context.teacher,
        student=context.student,
        recipe=context.recipe,
        hardware=context.hardware,
        training={**memory(context.student, context.recipe.train, context.hardware)},
        student_remark=f"; chat template: {template_place(context.student)}",
    )
    toolbox = tools_tokens([*domain.tools.values()])
    if context.sampled:
        estimate["lines"] = [
            line.removesuffix("; all proven solvable") for line in estimate["lines"]
        ]
    if settings.rewrite:
        estimate["lines"].append(
            f"rewrite   about {settings.rewrite * settings.train:,.0f} requests are reworded by the teacher"
        )
    estimate["lines"] += [
        *_capacity_lines(context, made.capacities, made.seconds),
        _exam_line(exam, held_out),
        *_kinds_lines(context, train, exam),
        *_toolbox_lines(context, exam, toolbox),
    ]
    estimate["lines"] += [
        f"{'warning' if index == 0 else '':10}{finding.line(domain.path)}"
        for index, finding in enumerate([*findings, *too_long])
    ]
    capacity_rows = [asdict(each) for each in made.capacities]
    write_json(context.path("plan.json"), {**estimate, "capacity": capacity_rows})
    swapped = sum("swapped" in row for row in train)
    return {
        "train": len(train),
        "exam": len(exam),
        **({"swapped": swapped} if swapped else {}),
        "seeds": {"train": _seed_range(train), "exam": _seed_range(exam)},
    }


def _make(context: RunContext, held_out: list[str], guidance: Guidance) -> kept_tasks.Made:
    """Samples the tasks of training and exam and proves each solvable.

    held_out: templates that training lacks.
    """
    settings, domain, image_store = context.recipe.tasks, context.domain, context.image_store
    student_pixels = context.student_reads_pixels
    sampling: tasks.Sampling = {
        "seed": settings.seed,
        "date": settings.date,
        "mix": settings.mix,
        # A training task must suit both models; the exam is for the student and its base.
        "pixels": context.teacher_grounding == "pixels" and student_pixels,
        "templates": domain.templates.keys() - set(held_out),
    }
    capacities = capacity.capacities(domain, settings.train, **sampling)
    started = time.monotonic()
    count = context.sampled or settings.train
    train = tasks.sample(domain, "train", count, image_store=image_store, **sampling)
    seconds_a_task = (time.monotonic() - started) / count
    train = unanswerable.swap_images(train, domain, share=settings.swapped, image_store=image_store)
    train = offer.offer_tools(
        train, domain, offer=settings.offer, whole_share=settings.whole_toolbox
    )
    train = drift_tasks(train, domain, share=settings.drift)
    if settings.offer == "retrieved":
        train = retrieve_tools(train, domain, count=settings.retrieved, complete=True)
    train = derive_kinds(train, domain, settings.kinds)
    exam = exam_parts.sample_exam(
        domain, settings, held_out, pixels=student_pixels, image_store=image_store
    )
    for row in (*train, *exam):
        check_document(row, "task", row["id"])

    def beginning(row: Task) -> tuple[list[str], str]:
        shown = guidance.shown_tools(row, tools_of(domain, row))
        return [tool["function"]["name"] for tool in shown], row["template"]

    # Neighbours share the beginning of their prompts, so the server's prefix cache has it.
    train.sort(key=beginning)
    return kept_tasks.Made(train, exam, capacities, seconds_a_task)


def _check_keys(context: RunContext) -> None:
    """Raises InputError if the key of the teacher or of simulated users would be sent where others can read it."""
    teacher, serve, user = context.teacher, context.recipe.serve, context.recipe.generate.user
    if launch.is_api(teacher, serve):
        key_for(serve.url or teacher["source"]["url"], launch.KEY)
    if isinstance(user, UserApi):
        key_for(user.url, users.KEY)


def _seed_range(rows: list[Task]) -> list[int]:
    """Returns the smallest and the largest seed of tasks."""
    seeds = [row["seed"] for row in rows]
    return [min(seeds), max(seeds)]


def _capacity_lines(
    context: RunContext, capacities: list[capacity.Capacity], seconds_a_task: float
) -> list[str]:
    """Returns the lines that say which templates have too few tasks, and how many tasks a preview has proven."""
    lines = [
        f"{'' if index else 'capacity':10}{line}"
        for index, line in enumerate(capacity.capacity_lines(capacities))
    ]
    if context.sampled:
        whole = context.recipe.tasks.train
        lines.append(
            f"preview   {context.sampled:,} of {whole:,} training tasks were proven; a run proves all when it starts,"
            f" in about {minutes(seconds_a_task * whole)}"
        )
    return lines


def _raise_errors(context: RunContext, findings: Sequence[Finding]) -> None:
    """Raises InputError with the first error of a pack's checks, and where all of them are listed."""
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise InputError(
            f"{errors[0].line(Path.cwd())} ({errors[0].check}; `stillhouse check-domain {context.domain.path}`"
            f" lists everything, {len(errors)} error{'s' * (len(errors) > 1)} so far)"
        )


def _check_template_share(context: RunContext, train: list[Task]) -> None:
    """Raises InputError if the tasks have too few templates for each to stay below filter.per_template."""
    share, count = context.recipe.filter.per_template, len({task["template"] for task in train})
    if share is not None and share * count + 1e-9 < 1:  # 1/49 * 49 < 1
        raise InputError(
            f"filter.per_template: found {share:g}, expected {1 / count:.2g} or more: the training tasks have {count}"
            f" template{'s' * (count > 1)}, and their shares add up to 1"
        )


def _exam_line(exam: list[Task], held_out: list[str]) -> str:
    """Returns the line that counts the exam's tasks by part."""
    parts = Counter(task["part"] for task in exam)
    text = ", ".join(f"{count} {part}" for part, count in parts.items())
    return f"exam      {text}" + (f" ({', '.join(held_out)})" if held_out else "")


def _kinds_lines(context: RunContext, train: list[Task], exam: list[Task]) -> list[str]:
    """Returns the line that counts the tasks of each derived kind, where the recipe asks for any."""
    kinds = context.recipe.tasks.kinds
    counts = [Counter(task["kind"] for task in rows) for rows in (train, exam)]
    text = ", ".join(f"{counts[0][kind]} + {counts[1][kind]} {kind}" for kind in kinds)
    return [f"kinds     derived, training + exam: {text}"] if kinds else []


def _toolbox_lines(context: RunContext, exam: list[Task], tokens: int) -> list[str]:
    """Returns the lines that say what the toolbox costs in each prompt.

    tokens: of the whole toolbox.

    Raises:
        GateError: the training tasks offer it, and it leaves no room for a conversation.
    """
    count, longest = len(context.domain.tools), context.recipe.train.max_length
    line = (
        f"toolbox   {count} tools, about {tokens:,} tokens of each prompt that offers all of them"
    )
    settings = context.recipe.tasks
    if settings.offer == "retrieved":
        rows = [row for row in exam if row["part"] != "as_trained"]
        return [
            f"toolbox   {count} tools, about {tokens:,} tokens; a prompt offers the {settings.retrieved} that fit its"
            f" request best, which have all tools of the solution in {found_share(rows):.0%} of the exam"
        ]
    is_offered = settings.offer != "few"
    if is_offered:
        line += f": {tokens / longest:.0%} of train.max_length={longest}"
    if is_offered and tokens >= _FULL * longest:
        raise GateError(
            f"{context.domain.name}: the whole toolbox of {count} tools is about {tokens:,} tokens of"
            f" train.max_length={longest}: raise it with filter.max_tokens, or --set tasks.offer=retrieved"
        )
    if is_offered and tokens > _LARGE * longest:
        longest = -(-round(tokens / _LARGE) // 256) * 256
        return [
            line,
            f"advice    a longer conversation is cut or rejected; train.max_length and filter.max_tokens of"
            f" {longest} leave room, tasks.offer=retrieved offers those that fit the request",
        ]
    return [line]


def check_fit(context: RunContext, stages: Sequence[str]) -> None:
    """Raises GateError if, by the plan, one of the stages needs more memory than the hardware has."""
    estimate = read_json(context.path("plan.json"))
    for name, model in (("generate", "teacher"), ("train", "student")):
        if name in stages and not estimate[model]["fits"]:
            raise GateError(f"{estimate[model]['name']}: does not fit: {estimate[model]['reason']}")


def check_training_fits(context: RunContext) -> None:
    """Raises GateError if training needs more memory than this machine has: of a run that another machine planned."""
    from student.training.memory import memory

    training = memory(context.student, context.recipe.train, context.hardware)
    if not training["fits"]:
        raise GateError(f"{context.student['name']}: does not fit: {training['reason']}")


def _check_gated_parts(context: RunContext, exam: list[Task]) -> None:
    """Raises InputError if the gate asks for a part that the exam does not have."""
    existing = {part_of(task) for task in exam}
    for part in context.recipe.gate.min_parts or {}:
        if part not in existing:
            raise InputError(
                f"gate.min_parts.{part}: the exam of {context.domain.name} has no task of this part: expected one of"
                f" {', '.join(sorted(existing))}; tasks.exam_other sets how many tasks the other parts have"
            )


def _check_image_limit(context: RunContext, task_rows: list[Task]) -> None:
    """Raises InputError if a task's first request has more images than the teacher's server takes."""
    limits = context.teacher.get("images")
    if not limits or context.teacher_grounding != "pixels":
        return
    for task in task_rows:
        count = len(task.get("pictures", [])) * (1 + context.recipe.generate.examples)
        if count > limits["max_count"]:
            raise InputError(
                f"{task['id']}: {count} images in a request, its examples' included: expected at most"
                f" {limits['max_count']} (images.max_count of {context.teacher['name']})"
            )
