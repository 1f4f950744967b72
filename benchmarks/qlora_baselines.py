"""The trainers that benchmarks/qlora.py compares: stock TRL, TRL with Liger's kernels, Unsloth, our layers in TRL.

`ours` has weights in NF4 as the others have, `fp8` in FP8.

    python -m benchmarks.qlora --model 32b                      # all that are installed
    python -m benchmarks.qlora --model 32b --with trl liger     # only these
    python -m benchmarks.qlora --model 32b --unsloth-path DIR   # the TRL version that Unsloth needs is in DIR

All train the same random model on the same random rows with SFTTrainer, each in its own process, because Liger and
Unsloth patch transformers. They need the packages of benchmarks/qlora.py, trl and datasets; Liger and Unsloth need
liger-kernel and unsloth too. The table names a missing package. Unsloth 2026.10 needs datasets below 5 and at most
TRL 1.15, which can be installed in DIR:

    pip install --no-deps --target DIR trl==1.15.0

The trainers use SFTConfig's defaults, of which Unsloth replaces some (8-bit AdamW, adapters in float32). Unsloth uses
PyTorch's attention where neither xformers nor flash-attn is installed.
"""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import qlora_setup as bench
from student.kernels import fused_layers as qlora

# Packages of each trainer beside PEFT and bitsandbytes, and the batch size it is measured with.
NEEDS = {
    "trl": ("trl", "datasets"),
    "liger": ("trl", "datasets", "liger_kernel"),
    "unsloth": ("trl", "datasets", "unsloth"),
    "ours": ("trl", "datasets"),
    "fp8": ("trl", "datasets"),
}
BATCH = {
    "32b": {"trl": 4, "liger": 8, "unsloth": 4},
    "70b": {"trl": 4, "liger": 4, "unsloth": 4},
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def print_table(kinds: list[str], arguments: list[str], limit: float) -> None:
    """Runs each trainer in a fresh process for at most `limit` seconds, then prints a table of their rows."""
    rows = []
    for kind in kinds:
        command = [sys.executable, "-m", "benchmarks.qlora", *arguments, "--with", kind]
        print(f"--- {kind}", flush=True)
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as output:
            try:
                code = subprocess.run(
                    command, stdout=output, stderr=subprocess.STDOUT, timeout=limit
                ).returncode
                ended = f"exit status {code}"
            except subprocess.TimeoutExpired:
                ended = f"no result after {limit:.0f} s"
            output.seek(0)
            lines = output.read().splitlines()
        results = [line for line in lines if line.startswith("| ")]
        # A trainer that failed needs more of its output printed.
        print("\n".join(lines[-12:] if results else lines[-60:]), flush=True)
        print(f"--- {kind}: {time.monotonic() - started:.0f} s", flush=True)
        rows.append(results[-1] if results else f"| | {kind}: {ended} | | | | |")
    print("\n".join(["", bench.HEAD, "|---" * bench.HEAD.count(" |") + "|", *rows]), flush=True)


def run(
    kind: str, name: str, layers: int | None, rows: int, length: int, *, keep: int, offload: bool
) -> None:
    """Trains with one trainer and prints its row of the table."""
    missing = [package for package in NEEDS[kind] if not installed(package)]
    if missing:
        print(f"| {name} | {kind}: not installed ({', '.join(missing)}) | | | | |")
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if kind == "unsloth":
            trainer, label = by_unsloth(Path(folder), name, layers, rows, length)
        else:
            trainer, label = by_trl(Path(folder), kind, name, layers, rows, length)
            if kind in ("ours", "fp8"):
                trainer.layers.keep_layers(-1 if offload else keep)
                label += f", {keep} layers kept" + (", offload" if offload else "")
        print(
            f"{torch.cuda.get_device_name()}: built in {time.monotonic() - started:.0f} s",
            flush=True,
        )
        timer = add_timer(trainer)
        trainer.train()
    print(
        bench.row(
            name,
            label,
            rows,
            length,
            seconds=timer.seconds,
            peak=timer.peak,
            reserved=timer.reserved,
        ),
        flush=True,
    )


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def version(package: str) -> str:
    return importlib.metadata.version(package)


def add_timer(trainer: Any) -> Any:
    """Adds a callback that measures the seconds per step, with everything between two steps, and the peak memory."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        steps = 0
        seconds = peak = reserved = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps += 1
            # No GPU sync between the measured steps, as in real training.
            if self.steps == bench.WARM:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                self.started = time.perf_counter()
            if self.steps == bench.WARM + bench.MEASURED:
                torch.cuda.synchronize()
                self.seconds = (time.perf_counter() - self.started) / bench.MEASURED
                self.peak = torch.cuda.max_memory_allocated() / 2**30
                self.reserved = torch.cuda.max_memory_reserved() / 2**30

    timer = Timer()
    trainer.add_callback(timer)
    return timer


def by_trl(
    folder: Path, kind: str, name: str, layers: int | None, rows: int, length: int
) -> tuple[Any, str]:
    """A trainer and its label: SFTTrainer with its defaults (activation checkpointing of every layer), or for `ours`
    and `fp8` MicroBatchTrainer with the fused layers."""
    from peft import get_peft_model
    from trl import SFTConfig, SFTTrainer

    from student.training.micro_batches import MicroBatchTrainer

    extra: dict[str, Any] = {}
    label = f"stock TRL {version('trl')}"
    if kind == "liger":
        extra["use_liger_kernel"] = True
        label = f"TRL {version('trl')} with Liger {version('liger_kernel')}"
    model = bench.quantised(name, layers, 8 if kind == "fp8" else 4)
    if kind in ("ours", "fp8"):
        model = get_peft_model(model, bench.lora())
        fused_layers = qlora.install(model)
        trainer: Any = MicroBatchTrainer(
            model=model,
            args=SFTConfig(
                **settings(folder, rows, length),
                gradient_checkpointing=False,
                logging_nan_inf_filter=False,
            ),
            train_dataset=random_rows(model.config.vocab_size, rows, length, labels=True),
            processing_class=tokenizer_of(model.config.vocab_size),
            limit=rows * length,
            fused=True,
            packed=True,
        )
        trainer.layers = fused_layers
        weights = "FP8" if kind == "fp8" else "NF4"
        return trainer, f"TRL {version('trl')} with the fused layers, {weights}"
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings(folder, rows, length), **extra),
        train_dataset=random_rows(model.config.vocab_size, rows, length),
        processing_class=tokenizer_of(model.config.vocab_size),
        peft_config=bench.lora(),
    )
    return trainer, label


def by_unsloth(
    folder: Path, name: str, layers: int | None, rows: int, length: int
) -> tuple[Any, str]:
    """Unsloth's loading, adapters and trainer, as in its examples, with our random model instead of a checkpoint."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(folder / "compiled")
    from unsloth import FastLanguageModel  # isort: skip  (before trl, which it patches)
    import unsloth.models.llama as loading
    from trl import SFTConfig, SFTTrainer

    config = bench.config_of(name, layers)
    config.save_pretrained(folder / "model")
    tokenizer_of(config.vocab_size).save_pretrained(folder / "model")

    class RandomModel:
        """Stands in for the class that loads a checkpoint; Unsloth has patched transformers by then."""

        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            model = bench.quantised(name, layers)
            model.config._name_or_path = model.name_or_path = str(folder / "model")
            return model

    original, loading.AutoModelForCausalLM = loading.AutoModelForCausalLM, RandomModel
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            str(folder / "model"),
            max_seq_length=length,
            dtype=torch.bfloat16,
            load_in_4bit=True,
            use_exact_model_name=True,
        )
    finally:
        loading.AutoModelForCausalLM = original
    model = FastLanguageModel.get_peft_model(
        model,
        r=bench.RANK,
        lora_alpha=bench.ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=LINEARS,
        use_gradient_checkpointing="unsloth",
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings(folder, rows, length)),
        train_dataset=random_rows(config.vocab_size, rows, length),
        processing_class=tokenizer,
    )
    return trainer, f"Unsloth {version('unsloth')} in TRL {version('trl')}"


def settings(folder: Path, rows: int, length: int) -> dict[str, Any]:
    """The arguments of SFTConfig for a few steps on rows of tokens; the others keep their defaults."""
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": 1,  # Unsloth's default is 2
        "max_steps": bench.WARM + bench.MEASURED,
        "max_length": length,
        "learning_rate": 2e-4,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def random_rows(vocabulary: int, rows: int, length: int, labels: bool = False) -> Any:
    """A Dataset of `length` random tokens a row, enough for all steps. labels: with a column that repeats the tokens.

    The columns come from lists, not from Dataset.map: datasets pickles the mapped function with dill to hash it, which
    failed on Python 3.12 with pyarrow 26 and dill 0.4.1 ("Can't pickle MonthDayNano").
    """
    from datasets import Dataset

    count = rows * (bench.WARM + bench.MEASURED)
    tokens = torch.randint(
        3, vocabulary, (count, length), generator=torch.Generator().manual_seed(0)
    )
    columns = {"input_ids": tokens.tolist()}
    return Dataset.from_dict({**columns, "labels": columns["input_ids"]} if labels else columns)


def tokenizer_of(vocabulary: int) -> Any:
    """A tokenizer with that vocabulary size. Trainers only read its padding and end token and its size."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<end>", "<unknown>"])}
    words |= {f"w{i}": i for i in range(len(words), vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "<unknown>")),
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<end>' }}{% endif %}",
    )
