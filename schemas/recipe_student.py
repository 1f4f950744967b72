"""The recipe's sections about the student's side: training, export, the held-out exam, the gate, publication.

Each setting is documented here, once: what it does, its unit, its default, an example.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.recipe_section import Section, Variant
from schemas.tags import is_reserved
from schemas.task import Part


class Replay(Section):
    """Conversations mixed into the training data to limit catastrophic forgetting."""

    path: str = Field(
        min_length=1,
        description="A JSON Lines file of {messages, tools?} in chat format, or the id of such a data set on the hub"
        " (its split `train` is read). Example: chat.jsonl.",
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
        description="lora trains an adapter; qlora trains an adapter on quantised weights (see bits); full trains all"
        " weights. Example: qlora.",
    )
    bits: int = Field(
        4,
        ge=4,
        le=8,
        multiple_of=4,
        description="Bits of the quantised weights with qlora: 4 (NF4), or 8 (FP8, a scale a row), which needs twice"
        " the memory, is closer to the original weights and faster on GPUs with FP8 products. Example: 8.",
    )
    rank: int = Field(16, ge=1, description="LoRA rank, on all linear layers. Example: 64.")
    alpha: int = Field(
        32, ge=1, description="LoRA alpha: the adapter is scaled by alpha / rank. Example: 128."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout, a share. Example: 0.05.")
    epochs: float = Field(3, gt=0, description="Passes over the kept traces. Example: 2.")
    batch_size: int = Field(
        4,
        ge=1,
        description="Examples in an optimiser step, times accumulation. How many are computed at once depends on the"
        " memory (see micro_batch). Example: 16.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        description="An optimiser step has batch_size x accumulation examples. Example: 16.",
    )
    micro_batch: int | None = Field(
        None,
        ge=16,
        description="Tokens computed at once; null takes what fits best in memory. It changes speed and memory, not"
        " what is learned. Example: 4096.",
    )
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate. Example: 1.0e-4.")
    warmup_ratio: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the steps in which the learning rate rises. Example: 0.03.",
    )
    scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "cosine", description="How the learning rate falls after the warm-up. Example: linear."
    )
    max_length: int = Field(
        2048,
        ge=16,
        description="Most tokens in one training example, prompt included. Example: 16384.",
    )
    overflow: Literal["reject", "split"] = Field(
        "reject",
        description="What happens to a trace longer than max_length: reject drops it (too_long); split trains on the"
        " turns that end within max_length. A prompt is never cut. Example: split.",
    )
    images: Literal["auto", "pixels", "source"] = Field(
        "auto",
        description="How the student is shown images: as pixels, or as the data behind them in words (source); auto"
        " takes pixels where the student has vision. Example: source.",
    )
    salvage: bool = Field(
        False,
        description="Whether steps of failed traces are trained too, of tasks that no kept trace solves: calls of the"
        " solution that leave its goal in reach, found by replaying them; all else of such a trace is masked."
        " Example: true.",
    )
    replay: Replay | None = Field(
        None,
        description="Conversations mixed in to limit catastrophic forgetting: path, ratio (of the tokens), licence; or"
        " null. Example: {path: chat.jsonl, ratio: 0.1}.",
    )
    traces: int | None = Field(
        None,
        ge=1,
        description="Most kept traces that are used; a smaller number takes some of those of a larger, so that runs"
        " with several numbers show what more traces would bring. null takes all. Example: 500.",
    )
    holdout: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Share of the tasks whose traces are held out of training to measure the loss on them."
        " Example: 0.02.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Number of evaluations (one every save_steps) without a better held-out loss after which training"
        " ends and the best weights are kept; null trains all epochs and keeps the last weights. Example: 3.",
    )
    seed: int = Field(
        0, ge=0, description="Seed of the shuffle and of LoRA's initial weights. Example: 1."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Data type of the weights during training; auto takes bfloat16 where the hardware computes in it:"
        " on GPUs, and on CPUs with AVX-512 BF16. Example: float32.",
    )
    save_steps: int = Field(
        50,
        ge=1,
        description="Optimiser steps between checkpoints; a killed run loses at most these. Example: 100.",
    )
    log_steps: int = Field(
        5, ge=1, description="Optimiser steps between two log lines. Example: 1."
    )

    @model_validator(mode="after")
    def _patience_has_a_held_out_loss(self) -> "Train":
        if self.patience is not None and not self.holdout:
            raise ValueError("patience: needs held-out tasks: expected train.holdout above 0")
        return self


class Export(Section):
    """Which files are written from the trained student."""

    variants: tuple[Variant, ...] = Field(
        ("Q8_0", "Q4_K_M"),
        min_length=1,
        description="GGUF files to write, by llama.cpp's names. Example: [Q8_0, Q5_K_M, Q4_K_M].",
    )
    imatrix: bool = Field(
        False,
        description="Whether Q6_K, Q5_K_M and Q4_K_M are quantised with an importance matrix, which llama.cpp computes"
        " from kept traces, held-out ones first. It costs one pass over up to 24 traces. Example: true.",
    )
    vllm: bool = Field(
        True,
        description="Whether to write a safetensors directory that vLLM can serve. Example: true.",
    )


class Evaluate(Section):
    """How base and student are evaluated on the held-out exam: no worked examples, hints or constrained decoding."""

    engine: Literal["llama.cpp", "vllm"] = Field(
        "llama.cpp",
        description="What serves base and student: llama.cpp the GGUF named by variant, vllm the directory that"
        " export.vllm writes, in 16 bits. Files in variants are GGUFs and always served by llama.cpp. Example: vllm.",
    )
    variant: Variant = Field(
        "Q8_0",
        description="The exported GGUF that is evaluated with the engine llama.cpp, one of export.variants."
        " Example: Q4_K_M.",
    )
    variants: tuple[Variant, ...] = Field(
        (),
        description="Further exported GGUFs that are evaluated, on the headline of the exam alone. For the others, the"
        " scorecard has how far their next tokens are from those of the weights. Example: [Q4_K_M].",
    )
    concurrency: int = Field(
        8,
        ge=1,
        description="Episodes in flight at once. llama.cpp reserves memory for so many conversations of"
        " train.max_length + max_tokens tokens each. Example: 64.",
    )
    max_steps: int = Field(
        8,
        ge=1,
        description="Replies of the student in one episode before it is cut off. Example: 20.",
    )
    max_tokens: int = Field(512, ge=16, description="Most tokens in one reply. Example: 8192.")
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Sampling temperature; 0 decodes greedily. Example: 0.6.",
    )
    reply_s: float | None = Field(
        None,
        gt=0,
        description="Seconds after which a reply of the server is given up and requested again; null times the machine"
        " with a short request, allows four times what a full context needs, and at least 300; of vLLM it is 1800."
        " Example: 900.",
    )


class Gate(Section):
    """What the student must reach before it is published."""

    min_gain: float = Field(
        0.05,
        ge=-1,
        le=1,
        description="Smallest gain over the base in the share of exam tasks passed with the whole toolbox; 0.05 is 5"
        " points. Example: 0.2.",
    )
    min_well_formed: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Smallest share of the student's turns that are well formed: a valid call or an answer."
        " Example: 0.98.",
    )
    min_parts: dict[Part, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None,
        min_length=1,
        description="Smallest share of tasks passed in each named part of the exam (all_tools, as_trained,"
        " new_templates, drift); null asks for none. Example: {drift: 0.4, new_templates: 0.3}.",
    )
    against: Literal["latest"] | None = Field(
        None,
        description="With latest, a student that is worse on the headline of the exam than the version that the store's"
        " tag latest names, or cannot be compared with it, is stored under its number, and latest stays where it is;"
        " null makes each student that passes the gate latest. Example: latest.",
    )
    level: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="With against, the level of the test: a student is worse if McNemar's exact test, one-sided, has a"
        " p-value of at most this. A higher level refuses smaller losses, and more often by chance. Example: 0.2.",
    )


class Publish(Section):
    """Where a student that passed the gate is published."""

    store: str = Field(
        "store",
        min_length=1,
        description="The store: a directory, created when missing, or a registry as oci://HOST/NAMESPACE."
        " STILLHOUSE_STORE takes precedence. Example: oci://registry.example/students.",
    )
    tag: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$",
        description="A further tag of the version, beside its number; the next version published under the same tag"
        " takes it over. Example: 2026-03.",
    )
    data: bool = Field(
        False,
        description="Whether the kept traces are published too, as data/train.parquet with images embedded."
        " Example: true.",
    )

    @model_validator(mode="after")
    def _tag_is_not_reserved(self) -> "Publish":
        if self.tag is not None and is_reserved(self.tag):
            raise ValueError(
                f"tag: found '{self.tag}', expected a name that the store does not assign itself:"
                " not a number, not that of a variant, not latest"
            )
        return self
