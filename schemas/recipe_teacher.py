"""The recipe's sections about the teacher's side: tasks, serving, rollouts, and which traces are kept.

Each setting is documented here, once: what it does, its unit, its default, an example.
"""

import datetime as dt
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas import api_url
from schemas.recipe_section import Section
from schemas.task import DerivedKind


class Tasks(Section):
    """How many tasks are sampled from the domain."""

    train: int = Field(200, ge=1, description="Tasks that the teacher solves. Example: 2000.")
    exam: int = Field(
        60,
        ge=1,
        description="Tasks of the held-out exam's main part, which offers the whole toolbox (all_tools); they share no"
        " entity with the train tasks. Example: 200.",
    )
    exam_other: int | None = Field(
        None,
        ge=0,
        description="Tasks of each other part of the exam: as_trained, new_templates, drift; null takes half of exam."
        " Example: 0.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=400,  # Seeds from 400 up belong to the worked examples and the exam.
        description="First seed of the sampling; the same seed gives the same tasks. Example: 7.",
    )
    date: dt.date | None = Field(
        None,
        description="Day whose seeds the training tasks have, so that runs of two days share no task; a scheduled run"
        " sets its own day. null takes the seeds of seed alone; the exam does not depend on it. Example: 2026-11-30.",
    )
    mix: dict[str, float] | None = Field(
        None,
        description="Share of each task kind or template, normalised to a sum of 1; null takes the domain's own mix."
        " The exam keeps the domain's, and adds what is given here of kinds whose own share is 0."
        " Example: {lookup: 0.4, workflow: 0.6}.",
    )

    kinds: dict[DerivedKind, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Share of the tasks, in training and in the exam, that become a kind which every pack has:"
        " irrelevant (no tool fits), missing (a fact is missing), policy (the pack's policy.md applies), recovery (a"
        " tool fails once), dialogue (a simulated user). Example: {irrelevant: 0.1, missing: 0.05}.",
    )

    offer: Literal["few", "all", "mixed", "retrieved"] = Field(
        "mixed",
        description="The tools that a training task offers: few (its solution's and one or two others), all (the whole"
        " toolbox, as a deployment does), mixed (a share of all, else subsets of any size and order), or retrieved (the"
        " best ones for the request, in training and exam, where a prompt cannot hold all). Example: all.",
    )
    retrieved: int = Field(
        8,
        ge=1,
        description="Tools that a task offers if offer is retrieved; training tasks have their solution's among them."
        " Example: 12.",
    )
    whole_toolbox: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the training tasks that offer the whole toolbox if offer is mixed. Example: 0.7.",
    )
    drift: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the training tasks that rename tools and parameters, reword their descriptions, add tools"
        " of other packs and may write numbers and dates in another format. Example: 0.",
    )
    held_out: tuple[str, ...] | None = Field(
        None,
        description="Templates that training lacks, for the exam's part new_templates; null takes exam.held_out of"
        " domain.yaml, or chooses. Example: [amended_term].",
    )

    rewrite: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training requests that the teacher rewords in the voice of one of the pack's personas"
        " and languages, before it solves them; the original stands where a number, date, name or identifier is lost or"
        " added. Example: 0.5.",
    )

    swapped: float = Field(
        0.06,
        ge=0,
        le=1,
        description="Share of the tasks with images that get another task's images, so that the right answer is that"
        " the images do not show it; applies to train and exam. Example: 0.",
    )

    @model_validator(mode="after")
    def _mix_has_shares(self) -> "Tasks":
        if self.mix is not None and (
            any(share < 0 for share in self.mix.values()) or sum(self.mix.values()) <= 0
        ):
            raise ValueError(f"mix: found {self.mix}, expected shares of 0 or more, not all 0")
        return self

    @model_validator(mode="after")
    def _kinds_leave_others(self) -> "Tasks":
        if (total := sum(self.kinds.values())) > 0.9:
            raise ValueError(f"kinds: found shares of {total:g} in all, expected at most 0.9")
        return self


class Serve(Section):
    """How the teacher is served. `stillhouse plan` prints what fits; null leaves the choice to it."""

    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Base URL of an OpenAI-compatible API that is already running, used instead of starting a server."
        " The API key is read from STILLHOUSE_TEACHER_KEY or from the variable named by the teacher's `key`."
        " Example: http://gpu-7:8000/v1.",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="The teacher's name in the API of `url`, one of those that the API lists; null takes the teacher's"
        " `served_name`, or finds it in the list. Example: gpt-5-mini.",
    )
    tensor_parallel: int | None = Field(
        None, ge=1, description="GPUs that share each layer of one copy of the model. Example: 8."
    )
    decode_context_parallel: int | None = Field(
        None,
        ge=1,
        description="Number of parts the tensor-parallel GPUs split the KV cache into, a divisor of tensor_parallel;"
        " with 1, each GPU keeps the whole cache of an MLA model. Example: 8.",
    )
    data_parallel: int = Field(
        1,
        ge=1,
        description="Copies of the attention layers in one server; the experts are shared. Example: 8.",
    )
    expert_parallel: bool = Field(
        False, description="Whether whole experts are spread over the GPUs. Example: true."
    )
    replicas: int | None = Field(
        None,
        ge=1,
        description="Servers of the whole model: of vLLM behind vllm-router, of llama.cpp without one, each with its"
        " share of generate.concurrency. null: one; of llama.cpp on a GPU one for two CPU cores and four conversations,"
        " 16 at most, as memory allows. Example: 2.",
    )
    nodes: int = Field(
        1, ge=1, description="Machines that one server spans, joined by Ray. Example: 2."
    )
    max_model_len: int | None = Field(
        None, ge=256, description="Most tokens in one conversation. Example: 131072."
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto", description="Data type of the KV cache; fp8 halves its size. Example: fp8."
    )
    gpu_memory_utilization: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of a GPU's memory that vLLM takes, also in the exam with evaluate.engine=vllm."
        " Example: 0.95.",
    )
    ready_timeout_s: float = Field(
        3600, gt=0, description="Seconds a server may take to load the weights. Example: 1800."
    )
    stall_s: float = Field(
        600,
        gt=0,
        description="Seconds a server with requests in flight may produce no token before it is restarted."
        " Example: 300.",
    )
    arguments: tuple[str, ...] = Field(
        (),
        description="Further command-line arguments of vLLM, passed on unchanged. Example: [--enforce-eager].",
    )
    price_per_gpu_hour: float | None = Field(
        None, gt=0, description="Price of one GPU hour, for the plan's cost. Example: 3.5."
    )

    @model_validator(mode="after")
    def _url_has_no_secrets(self) -> "Serve":
        if self.url is not None and (found := api_url.problem(self.url)):
            raise ValueError(f"url: {found}")
        return self

    @property
    def replica_count(self) -> int:
        """The servers of the whole model; one where neither the recipe nor the plan says more."""
        return self.replicas or 1


class UserApi(Section):
    """A model that plays simulated users, behind an OpenAI-compatible API; the key is in STILLHOUSE_USER_KEY."""

    url: str = Field(
        pattern=r"^https?://", description="The API's base URL. Example: http://gpu-8:8000/v1."
    )
    model: str = Field(
        min_length=1, description="The model's name in the API. Example: gpt-5-mini."
    )

    @model_validator(mode="after")
    def _url_has_no_secrets(self) -> "UserApi":
        if found := api_url.problem(self.url):
            raise ValueError(f"url: {found}")
        return self


class Generate(Section):
    """How the teacher solves the tasks."""

    mode: str | None = Field(
        None,
        min_length=1,
        description="One of the teacher's modes; null takes its default mode. Example: instant.",
    )

    attempts: int = Field(
        2,
        ge=1,
        description="Attempts at each task, hinted ones included; each attempt is a trace. Example: 4.",
    )
    hint: Literal["never", "retry", "always"] = Field(
        "retry",
        description="When the teacher is shown the task's solution: never, on the attempt after a failed one (retry),"
        " or always. The hint is removed from the stored trace. Example: never.",
    )
    examples: int = Field(
        0,
        ge=0,
        description="Worked examples shown before the task; a small teacher needs 2. Example: 0.",
    )
    constrain: bool = Field(
        False,
        description="Whether decoding is constrained to the tools' JSON Schemas, for teachers that cannot write a valid"
        " tool call without it. Example: true.",
    )
    toolbox: Literal["offered", "few"] = Field(
        "offered",
        description="Tools that the teacher is shown: all that the task offers, or few: those of its solution and one"
        " or two others. The traces have all that the task offers. Example: few.",
    )
    images: Literal["auto", "pixels", "source"] = Field(
        "auto",
        description="How the teacher is shown images: as pixels, or as the data behind them in words (source); auto"
        " takes pixels where the teacher has vision. Example: source.",
    )
    blind: bool = Field(
        True,
        description="Whether each solved task with images is repeated without them; if the teacher solves it again, the"
        " trace is rejected (blind_answerable). Example: false.",
    )
    concurrency: int = Field(
        8,
        ge=1,
        description="Most episodes and requests in flight at once, of each worker where runner_address is set; fewer"
        " while the teacher cannot serve so many. Example: 256.",
    )
    runner: Literal["local", "dask", "ray"] = Field(
        "local",
        description="Where episodes are played: local (this process), dask or ray. A worker plays shards of tasks; all"
        " share the run's directory. Example: dask.",
    )
    runner_address: str | None = Field(
        None,
        min_length=1,
        description="The running Dask scheduler or Ray cluster; null starts `workers` on this machine."
        " Example: tcp://head:8786.",
    )
    workers: int = Field(
        2,
        ge=1,
        description="Workers that are started on this machine where runner_address is null. Example: 4.",
    )
    shard: int = Field(
        512,
        ge=1,
        le=1000,
        description="Tasks of a shard: the unit that is handed to a worker and the traces of one file. Example: 1000.",
    )
    max_steps: int = Field(
        8,
        ge=1,
        description="Replies of the teacher in one episode before it is cut off. Example: 20.",
    )
    max_tokens: int = Field(
        512, ge=16, description="Most tokens in one reply, reasoning included. Example: 16384."
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Sampling temperature; null takes the value of the teacher or its mode. Example: 1.0.",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Nucleus sampling, a share; null takes the value of the teacher or its mode. Example: 0.95.",
    )
    preflight: bool = Field(
        True,
        description="Whether the served teacher is checked before generation, as `stillhouse check-teacher` does; with"
        " constrain the checks of free tool calls are left out. Example: false.",
    )
    timeout_s: float = Field(
        300,
        gt=0,
        description="Seconds to wait for one reply before the request is retried. Example: 1800.",
    )
    user: Literal["scripted", "teacher"] | UserApi = Field(
        "teacher",
        description="Who plays the simulated users of dialogues (tasks.kinds): scripted (by rule), the teacher, or"
        " another model, {url, model} of an OpenAI-compatible API. The exam's are always scripted. Example: scripted.",
    )
    logprobs: int = Field(
        0,
        ge=0,
        le=20,
        description="Of how many likely tokens the journal keeps the teacher's log-probabilities at each token of a"
        " reply, where its engine gives them; 0 for none. Another number requests every reply anew. Example: 20.",
    )
    patience_s: float = Field(
        1800,
        gt=0,
        description="Seconds for which the teacher may answer no request at all (rate limits, maintenance, restarts)"
        " before the stage ends; until then requests are retried. Example: 7200.",
    )
    requests_per_minute: int | None = Field(
        None,
        ge=1,
        description="Most requests sent in any minute, retries included, as an API's terms allow; null sets no limit."
        " Example: 500.",
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Most tokens of prompts and replies in any minute, estimated from the replies so far; null sets no"
        " limit. Example: 200000.",
    )


class Filter(Section):
    """Which of the traces that passed their checks are kept as training data."""

    max_tokens: int = Field(
        4096,
        ge=1,
        description="Most tokens in a whole trace, counted with the student's tokenizer and template. Example: 16384.",
    )
    near_duplicate: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Share of common 3-word runs (characters in scripts without spaces) from which a trace is a"
        " near-duplicate of one of another task with the same calls; 1 rejects only the same words. Example: 0.9.",
    )
    contamination: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Share of common 3-word runs, or of quoted 8-word runs, from which the request of a trace repeats"
        " an exam request about the same things. Example: 0.8.",
    )
    agreement: int | None = Field(
        None,
        ge=2,
        description="Attempts of a task, hinted ones not counted, that must pass before any of its traces is kept; all"
        " generate.attempts are then made. null sets no such condition. Example: 2.",
    )
    per_task: int = Field(1, ge=1, description="Most traces kept of one task. Example: 4.")
    per_template: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest share of the kept traces that one task template may have, at least 1 divided by the number"
        " of templates; null sets no limit."
        " Example: 0.25.",
    )
