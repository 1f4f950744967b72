"""Recipe: everything that decides how a domain is distilled, in one documented object.

A recipe is a YAML file, which flows/recipe_file.py reads; the domain is no part of it. Each knob is
documented here, once, with its unit, its default and an example, and schemas/recipe.schema.json is
made from it:

    python -m schemas.recipe
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.files import dumps, sha256_text, write_json
from schemas.tags import is_reserved

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "recipe.schema.json"

Variant = Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"]


class Section(BaseModel):
    """A group of knobs. A name that is none of them is an error; once loaded, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tasks(Section):
    """How many tasks are sampled from the domain."""

    train: int = Field(
        200, ge=1, description="Tasks that the teacher is asked to solve. Example: 2000."
    )
    exam: int = Field(
        60,
        ge=1,
        description="Held-out tasks of the exam; they share no entity with train. Example: 200.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=400,  # further up lie the seeds of the worked examples, and those of the exam
        description="First seed of the sampling; the same seed gives the same tasks. Example: 7.",
    )
    mix: dict[str, float] | None = Field(
        None,
        description="Share of each task kind or template, or null for the domain's own; normalised to a sum of 1."
        " Example: {lookup: 0.4, workflow: 0.6}.",
    )

    swapped: float = Field(
        0.06,
        ge=0,
        le=1,
        description="Share of the tasks with pictures that show another one instead, so that the right answer is that"
        " it is not shown; train and exam. Example: 0.",
    )

    @model_validator(mode="after")
    def _mix_has_shares(self) -> "Tasks":
        if self.mix is not None and (
            any(share < 0 for share in self.mix.values()) or sum(self.mix.values()) <= 0
        ):
            raise ValueError(f"mix: found {self.mix}, expected shares of 0 or more, not all 0")
        return self


class Serve(Section):
    """How the teacher is served. `stillhouse plan` says what fits; null leaves the choice to it."""

    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="An OpenAI-compatible API that is served already, instead of a server of the run's own; its key"
        " is taken from STILLHOUSE_TEACHER_KEY or the variable that the teacher's `key` names. Example: http://gpu-7:8000/v1.",
    )
    tensor_parallel: int | None = Field(
        None, ge=1, description="GPUs that share each layer of one copy of the model. Example: 8."
    )
    decode_context_parallel: int | None = Field(
        None,
        ge=1,
        description="Parts in which those GPUs keep the KV cache, a divisor of tensor_parallel; 1 keeps a whole copy"
        " of an MLA model's cache on each. Example: 8.",
    )
    data_parallel: int = Field(
        1, ge=1, description="Copies of the attention in one server, experts shared. Example: 8."
    )
    expert_parallel: bool = Field(
        False, description="Whether whole experts are spread over the GPUs. Example: true."
    )
    replicas: int = Field(
        1, ge=1, description="Servers of the whole model, behind vllm-router. Example: 2."
    )
    nodes: int = Field(
        1, ge=1, description="Machines that one server spans, joined by Ray. Example: 2."
    )
    max_model_len: int | None = Field(
        None, ge=256, description="Tokens that one conversation may have. Example: 131072."
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto", description="Type of the KV cache; fp8 halves it. Example: fp8."
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of a GPU's memory that vLLM takes. Example: 0.95."
    )
    ready_timeout_s: float = Field(
        3600, gt=0, description="Seconds a server may take to load the weights. Example: 1800."
    )
    stall_s: float = Field(
        600,
        gt=0,
        description="Seconds with requests running and not one token before the server is started again."
        " Example: 300.",
    )
    arguments: tuple[str, ...] = Field(
        (), description="Further arguments of vLLM, as it takes them. Example: [--enforce-eager]."
    )
    price_per_gpu_hour: float | None = Field(
        None, gt=0, description="What a GPU costs an hour, for the plan. Example: 3.5."
    )

    def options(self) -> dict[str, Any]:
        """What teacher.inference.vllm_server.Options takes: how a server of the run's own is started."""
        return self.model_dump(exclude={"url", "price_per_gpu_hour"})


class Generate(Section):
    """How the teacher is asked."""

    mode: str | None = Field(
        None,
        min_length=1,
        description="One of the teacher's modes, or null for its default. Example: instant.",
    )

    attempts: int = Field(
        2,
        ge=1,
        description="Attempts at each task, hinted ones included; each is a trace. Example: 4.",
    )
    hint: Literal["never", "retry", "always"] = Field(
        "retry",
        description="When the teacher is shown the task's plan: never, on the attempt after a failed one,"
        " or always. The hint is removed from what is stored. Example: never.",
    )
    examples: int = Field(
        0,
        ge=0,
        description="Worked examples shown before the task; a small teacher needs 2. Example: 0.",
    )
    constrain: bool = Field(
        False,
        description="Whether the reply is constrained to the tools' JSON Schemas while it is sampled;"
        " for teachers that cannot write a call on their own. Example: true.",
    )
    images: Literal["auto", "pixels", "source"] = Field(
        "auto",
        description="What the teacher is shown of pictures: the pixels, or the data behind them in words (source); auto"
        " by what it can. Example: source.",
    )
    blind: bool = Field(
        True,
        description="Whether each solved task with images is asked once more without them: a trace whose task needs"
        " none is rejected (blind_answerable). Example: false.",
    )
    concurrency: int = Field(8, ge=1, description="Episodes in flight at once. Example: 256.")
    max_steps: int = Field(
        8,
        ge=1,
        description="Replies of the teacher in one episode before it is cut off. Example: 20.",
    )
    max_tokens: int = Field(
        512, ge=16, description="Tokens of one reply, reasoning included. Example: 16384."
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Sampling temperature, or null for the teacher's (its mode's) own. Example: 1.0.",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Nucleus sampling, a share, or null for the teacher's own. Example: 0.95.",
    )
    preflight: bool = Field(
        True,
        description="Whether a teacher with tools of its own (one that is not constrained) is checked before it is"
        " asked: `stillhouse check-teacher`. Example: false.",
    )
    timeout_s: float = Field(
        300,
        gt=0,
        description="Seconds to wait for one reply before it is asked for again. Example: 1800.",
    )


class Filter(Section):
    """Which of the traces that passed their checks are kept as training data."""

    max_tokens: int = Field(
        4096,
        ge=1,
        description="Tokens of a whole trace, as the student counts them. Example: 16384.",
    )
    near_duplicate: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Similarity (share of common word shingles) from which a trace repeats an earlier one;"
        " 1 drops only identical ones. Example: 0.9.",
    )
    contamination: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Similarity of a request to one of the exam from which its trace is dropped."
        " Example: 0.8.",
    )
    agreement: int | None = Field(
        None,
        ge=2,
        description="Attempts of a task, hinted ones not counted, that must pass for any of its traces to be kept; all"
        " generate.attempts are then made. null asks for none. Example: 2.",
    )
    per_task: int = Field(1, ge=1, description="Traces kept of one task. Example: 4.")
    per_template: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest share of the kept traces that one task template may have, or null."
        " Example: 0.25.",
    )


class Replay(Section):
    """Conversations that are mixed in against forgetting."""

    path: str = Field(
        min_length=1,
        description="A JSON Lines file of {messages, tools?} in chat format, or the hub's id of such a data set (its"
        " split `train`). Example: chat.jsonl.",
    )
    ratio: float = Field(
        0.1, gt=0, lt=1, description="Its share of all training tokens. Example: 0.2."
    )
    licence: str | None = Field(
        None, min_length=1, description="Its licence, for the model card. Example: CC-BY-4.0."
    )


class Train(Section):
    """Supervised fine-tuning of the student on the kept traces."""

    method: Literal["lora", "qlora", "full"] = Field(
        "lora",
        description="lora trains an adapter, qlora one on weights in 4 bits, full trains all weights. Example: qlora.",
    )
    bits: int = Field(
        4,
        ge=4,
        le=8,
        multiple_of=4,
        description="Bits of the weights with qlora: 4 (NF4) or 8 (LLM.int8), which takes twice the"
        " memory and is slower. Example: 8.",
    )
    rank: int = Field(16, ge=1, description="LoRA rank, on all linear layers. Example: 64.")
    alpha: int = Field(32, ge=1, description="LoRA scale, alpha / rank. Example: 128.")
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout, a share. Example: 0.05.")
    epochs: float = Field(3, gt=0, description="Passes over the kept traces. Example: 2.")
    batch_size: int = Field(
        4,
        ge=1,
        description="Examples that an optimiser step learns from, times accumulation. How many are computed at once is"
        " decided by memory. Example: 16.",
    )
    accumulation: int = Field(1, ge=1, description="See batch_size. Example: 16.")
    micro_batch: int | None = Field(
        None,
        ge=16,
        description="Tokens computed at once, or null for what fits best. It changes speed and memory, not what is"
        " learned. Example: 4096.",
    )
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate. Example: 1.0e-4.")
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps with a rising rate. Example: 0.03."
    )
    scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "cosine", description="How the rate falls after the warm-up. Example: linear."
    )
    max_length: int = Field(
        2048,
        ge=16,
        description="Tokens of one training example, prompt included. Example: 16384.",
    )
    overflow: Literal["reject", "split"] = Field(
        "reject",
        description="What becomes of a trace longer than max_length: reject keeps none of it (too_long); split learns"
        " the turns that end within it. No prompt is cut. Example: split.",
    )
    images: Literal["auto", "pixels", "source"] = Field(
        "auto",
        description="What the student learns of pictures: the pixels, or the data behind them in words (source); auto"
        " by what it can. Example: source.",
    )
    replay: Replay | None = Field(
        None,
        description="Conversations that are mixed in against forgetting: path, ratio (of the tokens), licence; or null."
        " Example: {path: chat.jsonl, ratio: 0.1}.",
    )
    holdout: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the tasks whose traces are kept out of training to measure its loss."
        " Example: 0.02.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Ends training after so many evaluations (one each save_steps) without a better held-out loss, and"
        " keeps the best weights; null trains all epochs and keeps the last. Example: 3.",
    )
    seed: int = Field(0, ge=0, description="Seed of the shuffle and of LoRA's start. Example: 1.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of the weights during training; auto is bfloat16 where the machine computes in it, on GPUs"
        " and on CPUs with AVX-512. Example: float32.",
    )
    save_steps: int = Field(
        50,
        ge=1,
        description="Optimiser steps between checkpoints; a killed run loses no more. Example: 100.",
    )
    log_steps: int = Field(
        5, ge=1, description="Optimiser steps between two log lines. Example: 1."
    )

    @model_validator(mode="after")
    def _patience_has_something_to_measure(self) -> "Train":
        if self.patience is not None and not self.holdout:
            raise ValueError("patience: needs held-out tasks: expected train.holdout above 0")
        return self


class Export(Section):
    """What is made of the trained student."""

    variants: tuple[Variant, ...] = Field(
        ("Q8_0", "Q4_K_M"),
        min_length=1,
        description="GGUF files to write, by llama.cpp's names. Example: [Q8_0, Q5_K_M, Q4_K_M].",
    )
    vllm: bool = Field(
        True, description="Whether to write a directory that vLLM serves as it is. Example: true."
    )


class Evaluate(Section):
    """How base and student sit the exam: without worked examples, hints or constraint."""

    variant: Variant = Field(
        "Q8_0",
        description="The exported GGUF that sits the exam, one of export.variants. Example: Q4_K_M.",
    )
    concurrency: int = Field(8, ge=1, description="Episodes in flight at once. Example: 64.")
    max_steps: int = Field(
        8,
        ge=1,
        description="Replies of the student in one episode before it is cut off. Example: 20.",
    )
    max_tokens: int = Field(512, ge=16, description="Tokens of one reply. Example: 8192.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Sampling temperature; 0 takes the likeliest token. Example: 0.6.",
    )


class Gate(Section):
    """What the student must reach before it is published."""

    min_gain: float = Field(
        0.05,
        ge=-1,
        le=1,
        description="Least gain over the base in the share of exam tasks passed; 0.05 is 5 points."
        " Example: 0.2.",
    )
    min_well_formed: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Least share of the student's turns that are well formed: a valid call or an answer."
        " Example: 0.98.",
    )


class Publish(Section):
    """Where a student that passed the gate goes."""

    store: str = Field(
        "store",
        min_length=1,
        description="The store: a directory (made when missing). STILLHOUSE_STORE takes precedence."
        " Example: /srv/students.",
    )
    tag: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$",
        description="A further name of the version, beside its number; the next version published under it"
        " takes it over. Example: 2026-03.",
    )
    data: bool = Field(
        False,
        description="Whether the kept traces are published with it, as data/train.parquet, pictures embedded."
        " Example: true.",
    )

    @model_validator(mode="after")
    def _the_tag_is_not_one_of_the_store(self) -> "Publish":
        if self.tag is not None and is_reserved(self.tag):
            raise ValueError(
                f"tag: found '{self.tag}', expected a name that the store does not give: no number, not latest"
            )
        return self


class Recipe(Section):
    """Everything that decides how a domain is distilled.

    `name` is the file's name and is not written in the file.
    """

    name: str = Field(description="The recipe file's name without .yaml.")
    teacher: str = Field(
        min_length=1,
        description="The teacher: a name in teacher/models, or a path to a YAML file. Example: kimi-k2.5.",
    )
    student: str = Field(
        min_length=1,
        description="The student: a name in student/models, a path to a YAML file, a directory in Hugging Face's form"
        " (with a / in its name), or a model on the hub. Example: qwen3-32b.",
    )
    tasks: Tasks = Field(default_factory=Tasks, description=Tasks.__doc__)
    serve: Serve = Field(default_factory=Serve, description=Serve.__doc__)
    generate: Generate = Field(default_factory=Generate, description=Generate.__doc__)
    filter: Filter = Field(default_factory=Filter, description=Filter.__doc__)
    train: Train = Field(default_factory=Train, description=Train.__doc__)
    export: Export = Field(default_factory=Export, description=Export.__doc__)
    evaluate: Evaluate = Field(default_factory=Evaluate, description=Evaluate.__doc__)
    gate: Gate = Field(default_factory=Gate, description=Gate.__doc__)
    publish: Publish = Field(default_factory=Publish, description=Publish.__doc__)

    @model_validator(mode="after")
    def _the_examined_variant_is_exported(self) -> "Recipe":
        if self.evaluate.variant not in self.export.variants:
            variants = ", ".join(self.export.variants)
            raise ValueError(
                f"evaluate.variant: found '{self.evaluate.variant}',"
                f" expected one of export.variants ({variants})"
            )
        return self

    @model_validator(mode="after")
    def _agreement_can_be_reached(self) -> "Recipe":
        agreement, generate = self.filter.agreement, self.generate
        if agreement and (agreement > generate.attempts or generate.hint == "always"):
            raise ValueError(
                f"filter.agreement: found {agreement}, expected at most generate.attempts ({generate.attempts}),"
                " of which not all are hinted"
            )
        return self

    def digest(self, *fields: str) -> str:
        """sha256 over the named fields (`train`, `student`, ...), for a stage that reads only them."""
        values = self.model_dump(mode="json")
        return sha256_text(dumps({field: values[field] for field in fields}))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file."""
    schema = Recipe.model_json_schema()
    del schema["properties"]["name"]
    schema["required"].remove("name")
    schema["description"] = (
        "A recipe file of stillhouse. Made by `python -m schemas.recipe`; do not edit."
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    write_json(SCHEMA, json_schema())
    print(f"wrote {SCHEMA}")
