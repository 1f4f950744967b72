"""The stages of a run, one Prefect task each: inputs, outputs, and the calls into teacher/, schemas/ and student/.

Every stage reads and writes files of the run's directory, so that it can be run again alone and looked at by eye.
"""

import asyncio
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.progress import say, track
from flows.run_context import Work
from flows.run_directory import now
from flows.stages import generate as generation
from schemas.documents import check_document
from schemas.errors import GateError, StageError
from schemas.files import (
    read_json,
    read_jsonl,
    sha256,
    sha256_text,
    whole,
    write_json,
    write_jsonl,
)
from schemas.task import Task
from teacher.domain import tasks, unanswerable
from teacher.inference import launch, vllm_server
from teacher.models import catalog
from teacher.planning import cost
from teacher.scenes.images import names_of

_GATE_TRACES = 24

# Receipts decide what is repeated (flows/run_directory.py), so Prefect neither caches nor stores results.
_ONCE: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}


@task(name="plan", **_ONCE)
def plan(work: Work) -> None:
    inputs = {
        **work.digest("tasks", "serve", "generate", "train", "teacher", "student"),
        **_attempts(work),
        "hardware": sha256_text(str(work.hardware)),
    }
    outputs = [
        work.path("tasks", "train.jsonl"),
        work.path("tasks", "exam.jsonl"),
        work.path("plan.json"),
    ]
    if not work.run.is_current("plan", inputs) or _lacks_pictures(work, outputs[:2]):
        with work.run.stage("plan", inputs, outputs) as result:
            from student.training.memory import memory
            from teacher.planning.plan import plan as make

            settings, album = work.recipe.tasks, work.album
            sees = work.student_sees
            both = work.grounding == "pixels" and sees
            train = tasks.sample(
                work.domain, "train", settings.train, settings.seed, settings.mix, both, album
            )
            # Base and student are compared on the domain's own mix, whatever the training mix is.
            exam = tasks.sample(
                work.domain, "exam", settings.exam, settings.seed, pixels=sees, album=album
            )
            train = unanswerable.swap_some(train, work.domain, settings.swapped, album)
            exam = unanswerable.swap_some(exam, work.domain, settings.swapped, album)
            generation.must_take(work, train)
            for row in (*train, *exam):
                check_document(row, "task", row["id"])
            # Neighbours share a prompt's beginning, which a server reads once.
            train.sort(key=lambda row: (row["template"], row["tools"]))
            write_jsonl(outputs[0], train)
            write_jsonl(outputs[1], exam)
            learner = memory(work.student, work.recipe.train, work.hardware)
            measured = cost.measure(
                train,
                work.domain,
                album,
                shown=work.grounding,
                read="pixels" if sees else "source",
            )
            made = make(
                measured, exam, work.teacher, work.student, work.recipe, work.hardware, learner
            )
            write_json(outputs[2], made)
            result.update(train=len(train), exam=len(exam))
            if swapped := sum("swapped" in row for row in train):
                result.update(swapped=swapped)
    for line in read_json(outputs[2])["lines"]:
        say(f"  {line}")


def _attempts(work: Work) -> dict[str, str]:
    """What the section `filter` asks of the stages before it, as an input of theirs."""
    return {"attempts": "every"} if work.recipe.filter.agreement else {}


def _lacks_pictures(work: Work, files: list[Path]) -> bool:
    """Whether pictures of the tasks are gone: no receipt names them, the tasks do."""
    rows = (row for file in files for row in read_jsonl(file))
    return bool(work.album.missing(name for row in rows for name in names_of(row)))


def must_fit(work: Work, stages: Sequence[str]) -> None:
    """Raises GateError where a stage that is to run needs more than this hardware has."""
    made = read_json(work.path("plan.json"))
    for stage, side in (("generate", "teacher"), ("train", "student")):
        if stage in stages and not made[side]["fits"]:
            raise GateError(f"{made[side]['name']}: does not fit: {made[side]['reason']}")


@task(name="generate", **_ONCE)
def generate(work: Work) -> None:
    inputs = {
        **work.digest("generate", "teacher"),
        **_attempts(work),
        **work.tasks(),
    }
    if work.run.is_current("generate", inputs):
        return
    traces = work.path("traces.jsonl")
    named = work.recipe.serve.options()
    # What the recipe leaves open is as the plan chose.
    options = vllm_server.Options(**named | read_json(work.path("plan.json"))["teacher"]["options"])
    with (
        work.run.stage("generate", inputs, [traces]) as result,
        launch.open_teacher(
            work.teacher,
            options,
            work.recipe.serve.url,
            work.path("logs", "teacher.log"),
            work.recipe.generate.concurrency,
            say,
        ) as endpoint,
    ):
        if work.recipe.generate.preflight and not work.recipe.generate.constrain:
            generation.preflight(work, endpoint)
        result.update(
            asyncio.run(generation.generate(work, endpoint, traces)), restarts=endpoint.restarts
        )
        say(
            f"{result['traces']} traces of {result['tasks']} tasks, {result['passed']} passed their checks;"
            f" {result['requests']} requests sent, {result['replayed']} replies taken from the journal"
        )


@task(name="filter", **_ONCE)
def filter_(work: Work) -> None:
    inputs = {
        **work.digest("filter", "student"),
        "length": f"{work.recipe.train.max_length} {work.recipe.train.overflow}",
        **({"images": "pixels"} if work.student_sees else {}),
        **work.tasks(),
        **work.run.outputs("generate"),
    }
    if work.run.is_current("filter", inputs):
        return
    from schemas.filter import FilterSettings, filter_traces
    from student.rendering.examples import turns

    renderer = work.renderer()
    budget = work.recipe.train
    limits = work.recipe.filter.model_dump()
    if budget.overflow == "reject":
        limits["max_tokens"] = min(limits["max_tokens"], budget.max_length)
    else:
        limits["max_turn"] = budget.max_length

    def lengths(trace: dict[str, Any]) -> list[int]:
        return [len(turn) for turn in turns(trace, renderer)]

    directory = work.path("filter")
    outputs = [directory / name for name in ("kept.jsonl", "rejected.jsonl", "ledger.json")]
    with work.run.stage("filter", inputs, outputs) as result:
        traces = list(read_jsonl(work.path("traces.jsonl")))
        exam = list(read_jsonl(work.path("tasks", "exam.jsonl")))
        settings = FilterSettings(**limits)
        names = {name for row in (*traces, *exam) for name in _pictures_in(row)}
        pictures = {name: work.album.look(name) for name in names}
        judged, ledger = filter_traces(traces, exam, settings, lengths, pictures)
        write_jsonl(outputs[0], [row for row in judged if row["verdict"]["kept"]])
        write_jsonl(outputs[1], [row for row in judged if not row["verdict"]["kept"]])
        write_json(outputs[2], ledger)
        result.update(traces=ledger["traces"], kept=ledger["kept"])
        reasons = ", ".join(f"{count} {reason}" for reason, count in ledger["rejected"].items())
        say(
            f"{ledger['traces']} traces = {ledger['kept']} kept"
            f" + {ledger['traces'] - ledger['kept']} rejected{f' ({reasons})' if reasons else ''}"
        )
        if not ledger["kept"]:
            raise StageError(
                f"{outputs[2]}: no trace was kept, so there is nothing to train on: see rejected.jsonl"
            )


def _pictures_in(row: dict[str, Any]) -> list[str]:
    """The pictures that a trace or a task names."""
    return row.get("images") or names_of(row)


@task(name="train", **_ONCE)
def train(work: Work) -> None:
    from student.models import base
    from student.training import mixture, sft
    from student.training.memory import for_machine

    settings = work.recipe.train
    inputs = {**work.digest("train", "student"), **work.run.outputs("filter")}
    replayed = mixture.replay_file(settings.replay.path) if settings.replay else None
    if replayed:
        inputs["replay"] = sha256(replayed)
    if work.run.is_current("train", inputs):
        return
    renderer = work.renderer()
    directory = work.path("train")
    # What a checkpoint continues must be what it began with, also where a run is moved to another machine.
    began = {**inputs, "dtype": for_machine(settings, work.hardware.gpu is not None).dtype}
    mark = directory / "inputs.json"
    if not mark.is_file() or read_json(mark) != began:
        shutil.rmtree(directory, ignore_errors=True)
        write_json(mark, began)
    with work.run.stage(
        "train",
        inputs,
        [directory / "adapter", directory / "log.jsonl", directory / "examples.json"],
    ) as result:
        kept = work.path("filter", "kept.jsonl")
        made = mixture.mix(read_jsonl(kept), renderer, settings)
        counts, learned = made.counts, made.learned
        ledger = read_json(work.path("filter", "ledger.json"))
        counts["overflow"]["traces_judged"] = ledger["traces"]
        counts["overflow"]["traces_rejected"] = ledger["rejected"].get("too_long", 0)
        if not learned:
            raise StageError(f"{kept}: no example to train on")
        if settings.patience and not made.held_out:
            raise StageError(
                f"train.patience={settings.patience}: no example is held out of {counts['learned']}:"
                f" --set train.holdout={min(0.5, 2 * settings.holdout):g} or train.patience=null"
            )
        if settings.replay:
            mixed_in = mixture.replay(counts["tokens"], renderer, settings, directory)
            counts["replay"], learned = mixed_in.counts, learned + mixed_in.learned
        write_json(directory / "examples.json", counts)
        for line in mixture.lines(counts, settings.epochs):
            say(line)
        result.update(
            sft.train(
                base.prepare(work.student, say),
                work.student,
                learned,
                made.held_out,
                settings,
                directory,
                say,
                work.album,
            )
        )


@task(name="export", **_ONCE)
def export(work: Work) -> None:
    inputs = {
        **work.digest("export", "student"),
        **work.run.outputs("train"),
        **work.run.outputs("filter"),
    }
    if work.run.is_current("export", inputs):
        return
    from student.export import gate as parity
    from student.export import gguf, merge
    from student.models import base
    from student.registry.publish import PROJECTOR
    from student.rendering.examples import as_served

    renderer = work.renderer()
    kept = itertools.islice(read_jsonl(work.path("filter", "kept.jsonl")), _GATE_TRACES)
    traces = [as_served(trace, renderer) for trace in kept]
    directory = work.path("export")
    with work.run.stage("export", inputs, [directory]) as result, whole(directory) as temporary:
        merged = temporary / "vllm"
        say("merging the adapter into the 16-bit weights")
        merge.merge(
            base.prepare(work.student, say),
            work.path("train", "adapter"),
            merged,
            renderer.template,
        )
        say("converting to GGUF")
        full = temporary / "full.gguf"
        gguf.convert(merged, full, say)
        context, projector = min(work.student["context"], 4096), None
        if work.student_sees:
            projector = temporary / "gguf" / work.gguf_name(PROJECTOR)
            gguf.convert(merged, projector, say, projector=True)
            # Pictures make prompts longer than 4,096 tokens.
            context = min(work.student["context"], max(4096, work.recipe.train.max_length + 512))
        report = {}
        for variant in work.recipe.export.variants:
            file = temporary / "gguf" / work.gguf_name(variant)
            gguf.quantize(full, file, variant)
            seen = ", picture" if projector else ""
            say(f"checking {file.name}: template, prompts, token ids, end of turn, tool call{seen}")
            log = work.path("logs", f"gate-{variant}.log")
            checks = parity.gate(file, traces, renderer, context, log, projector)
            report[variant] = checks
            failed = [check for check in checks if not check["passed"]]
            if failed:
                write_json(work.path("logs", "export-gate.json"), report)
                raise GateError(
                    f"{file.name}: {failed[0]['name']}: {failed[0]['detail']} (see logs/export-gate.json)"
                )
        full.unlink()
        if not work.recipe.export.vllm:
            shutil.rmtree(merged)
        write_json(temporary / "gate.json", report)
        result.update({variant: len(checks) for variant, checks in report.items()})


@task(name="evaluate", **_ONCE)
def evaluate(work: Work) -> None:
    inputs = {
        **work.digest("evaluate", "gate", "student"),
        **work.tasks(),
        **work.run.outputs("export"),
    }
    if work.run.is_current("evaluate", inputs):
        return
    from student import evaluate as exam
    from student.models import base
    from student.registry.publish import PROJECTOR

    settings = work.recipe.evaluate
    path = work.path("tasks", "exam.jsonl")
    rows = cast(list[Task], list(read_jsonl(path)))
    directory = work.path("evaluate")
    outputs = [directory / name for name in ("base.jsonl", "student.jsonl", "scorecard.json")]
    student_file = work.path("export", "gguf", work.gguf_name(settings.variant))
    with work.run.stage("evaluate", inputs, outputs) as result:
        scores: dict[str, exam.Score] = {}
        sees, context = work.student_sees, 2048
        if any("pictures" in row for row in rows):  # they take room, as pixels or in words
            context = max(context, work.recipe.train.max_length + settings.max_tokens)
        base_file = base.gguf(work.student, settings.variant, say)
        candidates = [
            exam.Candidate(
                "base",
                base_file,
                sha256(base_file),
                template=catalog.template(work.student),
                projector=base.projector(work.student, say) if sees else None,
            ),
            exam.Candidate(
                "student",
                student_file,
                sha256(student_file),
                projector=work.path("export", "gguf", work.gguf_name(PROJECTOR)) if sees else None,
            ),
        ]
        for candidate in candidates:
            name = candidate.name
            with track(f"exam of the {name}", len(rows)) as advance:
                traces = asyncio.run(
                    exam.run_exam(
                        candidate,
                        rows,
                        domain=work.domain,
                        settings=settings,
                        context=min(work.student["context"], context),
                        journal=work.path("journal"),
                        log=work.path("logs", f"exam-{name}.log"),
                        images="pixels" if sees else "source",
                        album=work.album,
                        report_episode=advance,
                    )
                )
            write_jsonl(directory / f"{name}.jsonl", traces)
            scores[name] = exam.score(candidate, traces, rows, model=work.student["name"])
            say(f"{name}: {scores[name]['passed']} of {len(rows)} exam tasks")
        gate = exam.gate(
            scores["base"],
            scores["student"],
            work.recipe.gate,
            work.domain.spec.get("exam", {}).get("min_success", 0),
        )
        scorecard = {
            "version": 1,
            "domain": work.domain.name,
            "recipe": work.recipe.name,
            "created": now(),
            "exam": {"tasks": len(rows), "sha256": sha256(path)},
            "models": scores,
            "gate": gate,
        }
        check_document(scorecard, "scorecard", outputs[2])
        write_json(outputs[2], scorecard)
        result.update(
            base=scores["base"]["passed"], student=scores["student"]["passed"], gate=gate["passed"]
        )


@task(name="publish", **_ONCE)
def publish(work: Work) -> None:
    inputs = {
        **work.digest("publish"),
        **work.run.outputs("export"),
        **work.run.outputs("evaluate"),
    }
    scorecard = read_json(work.path("evaluate", "scorecard.json"))
    if not scorecard["gate"]["passed"]:
        failed = next(check for check in scorecard["gate"]["checks"] if not check["passed"])
        raise GateError(
            f"not published: {failed['name']}: {failed['detail']} ({work.path('evaluate', 'scorecard.json')})"
        )
    from flows.stages import publish as publication
    from student.registry import publish as store

    target = store.store_directory(work.recipe.publish.store)
    inputs["store"] = str(target.resolve())
    if work.run.is_current("publish", inputs) and publication.still_there(work, target):
        return
    directory = work.path("publish")
    with work.run.stage("publish", inputs, [directory]) as result, whole(directory) as temporary:
        temporary.mkdir()
        files, manifest = publication.collect(work, scorecard, temporary)
        tag = work.recipe.publish.tag
        published = store.publish(
            target, work.domain.name, files, manifest, gate_passed=True, tag=tag
        )
        result.update(
            name=published.name,
            tag=published.tag,
            digest=published.digest,
            store=inputs["store"],
        )
        write_json(temporary / "published.json", result)
        named = f" ({tag})" if tag else ""
        say(f"published as {published.name}:{published.tag}{named} in {target}")
