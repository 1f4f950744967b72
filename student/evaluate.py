"""The held-out exam: llama.cpp serves a GGUF file, or vLLM a directory, and it solves tasks through the agent loop.

The model gets no worked examples and no hints, and decoding is not constrained: a user runs the file the same way.
In: a Candidate and the exam's tasks. Out: a trace for each task, and from the traces the parts of the scorecard
(schemas/scorecard.schema.json).
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import InputError
from schemas.messages import text_of
from schemas.recipe import Evaluate, Gate, Serve
from schemas.scorecard import (
    HEADLINE,
    PART_TITLES,
    Count,
    Engine,
    GateCheck,
    GateResult,
    PartScore,
    Score,
    SwarmScore,
    Turns,
    part_of,
    part_score,
)
from schemas.task import Part, Task
from schemas.text_heuristics import marker_in
from schemas.tool_calls import call_problem, functions_by_name
from schemas.trace import Grounding, Maker, Message, Outcome, Tool, Trace
from teacher.domain.pack import Domain
from teacher.inference import vllm_server
from teacher.inference.client import Client
from teacher.inference.endpoint import Endpoint
from teacher.inference.journal import Journal
from teacher.inference.late_start import run_with_late_server
from teacher.inference.llama_server import serve
from teacher.inference.llama_speed import reply_seconds
from teacher.planning.hardware import Hardware
from teacher.planning.replicas import llama_servers
from teacher.rollout import agent_loop
from teacher.rollout.scheduler import rollouts
from teacher.scenes.images import ImageStore

# vLLM watches its engine itself; a reply of a large model on few GPUs may take long.
_VLLM_REPLY_SECONDS = 1800.0
# The share of vLLM's memory that its weights may take.
_WEIGHTS_SHARE = 0.8


@dataclass(frozen=True)
class Vllm:
    """How vLLM serves a directory. tool_parser, reasoning_parser: its names of them. gpus: that share each layer;
    0 on a CPU. memory_share: of each GPU's memory, for weights and cache.
    """

    tool_parser: str
    reasoning_parser: str | None
    gpus: int
    memory_share: float


@dataclass(frozen=True)
class Candidate:
    """A model that is evaluated on the exam.

    Attributes:
        name: its key in the scorecard: base, student, or for a further file of the student its variant.
        file: the GGUF, or the directory for vLLM. digest: its sha256, which is part of the journal's keys.
        template: a chat template that replaces the file's own, for a base whose own has no tools.
        projector: the GGUF of the vision tower (llama.cpp's mmproj); None for a text-only model.
        vllm: how vLLM serves the directory; None where llama.cpp serves a GGUF.
    """

    name: str
    file: Path
    digest: str
    template: Path | None = None
    projector: Path | None = None
    vllm: Vllm | None = None

    @property
    def engine(self) -> Engine:
        """What serves it."""
        return "vllm" if self.vllm else "llama.cpp"


def vllm_gpus(weights: float, hardware: Hardware, memory_share: float) -> int:
    """The number of GPUs on which vLLM serves a student with so many bytes of weights; 0 on a CPU.

    memory_share: of each GPU's memory, for weights and cache.

    Raises:
        InputError: this machine's GPUs do not hold it.
    """
    if hardware.gpu is None:
        return 0
    room = memory_share * _WEIGHTS_SHARE * hardware.gpu.memory
    for count in (1, 2, 4, 8):
        if count <= hardware.count and count * room >= weights:
            return count
    raise InputError(
        f"evaluate.engine: found vllm: {weights / 1e9:.0f} GB of weights do not fit on {hardware} with"
        f" serve.gpu_memory_utilization {memory_share:g}: expected llama.cpp, which serves a smaller GGUF, a larger"
        " share or more GPUs"
    )


def run_exam(
    candidate: Candidate,
    tasks: list[Task],
    *,
    domain: Domain,
    settings: Evaluate,
    context: int,
    hardware: Hardware | None = None,
    journal: Path,
    log: Path,
    grounding: Grounding,
    image_store: ImageStore,
    report_episode: Callable[[Trace], None],
) -> list[Trace]:
    """Runs the candidate on the tasks and returns a trace for each, in the tasks' order.

    No server starts where the journal has every reply.

    Args:
        context: tokens of one conversation.
        hardware: this machine; on a GPU several servers share the conversations. None for one server.
        log: the file for the server's output.
        grounding: what the model is shown of the tasks' images, which `image_store` has.
        report_episode: called with the trace of each episode at its end.

    Raises:
        StageError: the server did not start or was lost; the replies so far are in the journal.
    """
    identity = {"model": candidate.file.name, "revision": candidate.digest}
    maker: Maker = {
        "model": candidate.file.name,
        "revision": candidate.digest,
        "engine": candidate.engine,
        "licence": "see the model card",
    }
    loop = agent_loop.Settings(
        max_steps=min(settings.max_steps, domain.spec["budgets"]["steps"]),
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=1.0,
        images=grounding,
        image_store=image_store,
    )
    slots = settings.concurrency
    servers = 1
    if hardware and not candidate.vllm:
        servers = llama_servers(hardware, slots, candidate.file.stat().st_size)
    # Neighbours share the beginning of their prompts, so that the slots of the server have it cached.
    ordered = sorted(tasks, key=lambda task: (task["tools"], task["template"]))
    traces: dict[str, Trace] = {}
    seconds = settings.reply_s or 0.0
    with (
        contextlib.ExitStack() as server,
        contextlib.closing(Journal(journal)) as replies,
    ):

        def start() -> Endpoint:
            nonlocal seconds
            if candidate.vllm:
                seconds = seconds or _VLLM_REPLY_SECONDS
                return server.enter_context(
                    _serve_vllm(candidate, candidate.vllm, slots, context, log)
                )
            endpoint = server.enter_context(
                serve(
                    candidate.file,
                    log,
                    slots,
                    context,
                    candidate.template,
                    projector=candidate.projector,
                    replicas=servers,
                )
            )
            seconds = seconds or reply_seconds(endpoint, context, settings.max_tokens, slots)
            return endpoint

        async def work(find_endpoint: Callable[[], Awaitable[Endpoint]]) -> None:
            async with Client(
                find_endpoint, identity, replies, slots, lambda: seconds, image_store
            ) as client:
                async for rollout in rollouts(ordered, domain, client, loop, maker, workers=slots):
                    traces[rollout.trace["task"]["id"]] = rollout.trace
                    report_episode(rollout.trace)

        run_with_late_server(start, work)
    return [traces[task["id"]] for task in tasks]


def _serve_vllm(
    candidate: Candidate, how: Vllm, slots: int, context: int, log: Path
) -> contextlib.AbstractContextManager[Endpoint]:
    """vLLM's server of a candidate's directory, with the defaults of generation_config.json left out."""
    parsers = {"tool_parser": how.tool_parser}
    if how.reasoning_parser:
        parsers["reasoning_parser"] = how.reasoning_parser
    model = {
        "name": "model",
        "source": {"path": str(candidate.file)},
        "capabilities": {"vision": False},
        "vllm": parsers,
    }
    words = ["--generation-config", "vllm", "--max-num-seqs", str(slots)]
    # Compiling takes a CPU longer than an exam wins by it.
    words += [] if how.gpus else ["--enforce-eager"]
    options = Serve(
        tensor_parallel=how.gpus or None,
        max_model_len=context,
        gpu_memory_utilization=how.memory_share,
        arguments=tuple(words),
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    return vllm_server.serve(model, str(candidate.file), options, log=log, report=lambda _: None)


def score(candidate: Candidate, traces: list[Trace], tasks: list[Task], *, model: str) -> Score:
    """Returns the candidate's part of the scorecard. model: the student's name in the recipe.

    Raises:
        ValueError: the traces are not as many as the tasks.
    """
    by_part: dict[Part, list[tuple[Trace, Task]]] = defaultdict(list)
    for trace, task in zip(traces, tasks, strict=True):
        by_part[part_of(task)].append((trace, task))
    headline = by_part[HEADLINE]
    by_kind, by_calls, by_template = _counts(), _counts(), _counts()
    turns: Turns = {"total": 0, "well_formed": 0}
    for trace, task in headline:
        solution = task["plan"]
        calls = str(len(solution)) if len(solution) < 2 else "2+"
        for count in (by_kind[task["kind"]], by_calls[calls], by_template[task["template"]]):
            count["tasks"] += 1
            count["passed"] += _passed(trace)
        for message in trace["messages"]:
            if message["role"] == "assistant":
                turns["total"] += 1
                turns["well_formed"] += well_formed(message, trace["tools"])
    return {
        "name": model,
        "file": candidate.file.name,
        "sha256": candidate.digest,
        "engine": candidate.engine,
        "tasks": len(headline),
        "passed": sum(_passed(trace) for trace, _ in headline),
        "by_kind": dict(sorted(by_kind.items())),
        "by_calls": dict(sorted(by_calls.items())),
        "by_template": dict(sorted(by_template.items())),
        "turns": turns,
        "passed_tasks": sorted(task["id"] for trace, task in headline if _passed(trace)),
        "seconds": round(sum(call["seconds"] for trace in traces for call in trace["calls"]), 1),
        "parts": {
            part: _part_score([trace for trace, _ in by_part[part]])
            for part in PART_TITLES
            if by_part[part]
        },
    }


def _part_score(traces: list[Trace]) -> PartScore:
    writes = [len(trace["outcome"].get("unasked_writes", [])) for trace in traces]
    result = part_score(sum(map(_passed, traces)), len(traces))
    result["unasked_write"] = {"tasks": sum(map(bool, writes)), "calls": sum(writes)}
    outcomes = [trace["outcome"] for trace in traces]
    unanswerable = [outcome for outcome in outcomes if "expected" in outcome]
    if unanswerable:
        result["restraint"] = {
            "unanswerable": len(unanswerable),
            "over_called": sum(map(_has_over_called, unanswerable)),
            "answerable": len(outcomes) - len(unanswerable),
            "over_refused": sum(outcome.get("declined", False) for outcome in outcomes),
        }
    swarms = [trace for trace in traces if "swarm" in trace["outcome"]]
    if swarms:
        result["swarm"] = _swarm_score(swarms)
    return result


def _swarm_score(traces: list[Trace]) -> SwarmScore:
    outcomes = [trace["outcome"]["swarm"] for trace in traces]
    failures = Counter(failure["name"] for each in outcomes for failure in each["failures"])
    return {
        "tasks": len(traces),
        "passed": sum(map(_passed, traces)),
        "agents": sum(each["agents"] for each in outcomes),
        "answered": sum(each["answered"] for each in outcomes),
        "used": sum(each["used"] for each in outcomes),
        "critical_steps": sum(each["critical_steps"] for each in outcomes),
        "serial_steps": sum(each["serial_steps"] for each in outcomes),
        "failures": dict(sorted(failures.items())),
    }


def _has_over_called(outcome: Outcome) -> bool:
    fields = ("needless_calls", "policy_breaches", "unasked_writes")
    return any(outcome.get(field) for field in fields)


def _counts() -> dict[str, Count]:
    return defaultdict(lambda: {"tasks": 0, "passed": 0})


def _passed(trace: Trace) -> bool:
    return agent_loop.passed(trace)


def well_formed(message: Message, tools: list[Tool]) -> bool:
    """Whether an assistant's turn has only valid calls, or without calls some text and no markup of the template."""
    calls = message.get("tool_calls") or []
    content = text_of(message.get("content"))
    if marker_in(content):
        return False
    if not calls:
        return bool(content.strip())
    functions = functions_by_name(tools)
    return all(
        call_problem(call["function"]["name"], call["function"]["arguments"], functions) is None
        for call in calls
    )


def _part_check(student: Score, part: Part, least: float) -> GateCheck:
    """Returns the check that the student passed at least this share of a part of the exam."""
    count = student.get("parts", {}).get(part)
    if count is None:
        detail = f"the exam has no task of {part}; expected at least {least:.0%} of them passed"
        return {"name": f"part_{part}", "passed": False, "detail": detail}
    share = count["passed"] / count["tasks"]
    return {
        "name": f"part_{part}",
        "passed": share >= least,
        "detail": f"passed {share:.0%} of the exam's part {part}; expected at least {least:.0%}",
    }


def gate(base: Score, student: Score, limits: Gate, min_success: float = 0) -> GateResult:
    """Decides whether the student may be published: by its gain over the base, its form, and its share of passed tasks.

    All but the checks of parts are about the headline. limits: the recipe's section `gate`. min_success: a share (0 to
    1) of the exam, from the domain's exam.min_success.
    """
    before, after = (score["passed"] / max(1, score["tasks"]) for score in (base, student))
    form = student["turns"]["well_formed"] / max(1, student["turns"]["total"])
    checks: list[GateCheck] = [
        {
            "name": "better_than_base",
            # Rounded, because 18/60 - 15/60 is less than 0.05 in floating point.
            "passed": round(after - before, 9) >= limits.min_gain,
            "detail": f"passed {after:.0%} of the exam, the base {before:.0%};"
            f" expected a gain of at least {limits.min_gain:.0%}",
        },
        {
            "name": "well_formed",
            "passed": form >= limits.min_well_formed,
            "detail": f"{form:.0%} of the turns are well formed; expected at least {limits.min_well_formed:.0%}",
        },
        {
            "name": "good_enough",
            "passed": after >= min_success,
            "detail": f"passed {after:.0%} of the exam; the domain expects at least {min_success:.0%}",
        },
    ]
    checks += [
        _part_check(student, part, least) for part, least in (limits.min_parts or {}).items()
    ]
    return {"passed": all(check["passed"] for check in checks), "checks": checks}
