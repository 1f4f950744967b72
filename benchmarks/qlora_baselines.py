"""The trainers that benchmarks/qlora.py compares: TRL as it comes, TRL with Liger's kernels, Unsloth, and ours in TRL.

    python -m benchmarks.qlora --model 32b                      # all that are installed
    python -m benchmarks.qlora --model 32b --with trl liger     # these only
    python -m benchmarks.qlora --model 32b --unsloth-path DIR   # Unsloth finds its TRL in DIR

All train the same random model on the same random rows with SFTTrainer, each in a process of its own, because Liger
and Unsloth patch transformers. Needs the packages trl and datasets, and liger-kernel and unsloth for theirs; what is
missing is said in the table. Unsloth 2026.10 wants datasets below 5 and a TRL of 1.15 at most, which may lie in DIR:

    pip install --no-deps --target DIR trl==1.15.0

As they come: SFTConfig's defaults, of which Unsloth replaces some (AdamW in 8 bits, adapters in float32). Its attention
is PyTorch's where neither xformers nor flash-attn is installed.
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

# What each needs beside PEFT and bitsandbytes, and the batch it is measured at.
NEEDS = {
    "trl": ("trl", "datasets"),
    "liger": ("trl", "datasets", "liger_kernel"),
    "unsloth": ("trl", "datasets", "unsloth"),
    "ours": ("trl", "datasets"),
}
BATCH = {
    "32b": {"trl": 4, "liger": 8, "unsloth": 4},
    "70b": {"trl": 4, "liger": 4, "unsloth": 4},
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def table(kinds: list[str], arguments: list[str], limit: float) -> None:
    """Runs each kind as the same command in a fresh process, for at most `limit` seconds, and prints their rows."""
    rows = []
    for kind in kinds:
        command = [sys.executable, "-m", "benchmarks.qlora", *arguments, "--with", kind]
        print(f"--- {kind}", flush=True)
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as seen:
            try:
                code = subprocess.run(
                    command, stdout=seen, stderr=subprocess.STDOUT, timeout=limit
                ).returncode
                ended = f"exit status {code}"
            except subprocess.TimeoutExpired:
                ended = f"no result after {limit:.0f} s"
            seen.seek(0)
            lines = seen.read().splitlines()
        found = [line for line in lines if line.startswith("| ")]
        # What a trainer says matters where it did not get through.
        print("\n".join(lines[-12:] if found else lines[-60:]), flush=True)
        print(f"--- {kind}: {time.monotonic() - started:.0f} s", flush=True)
        rows.append(found[-1] if found else f"| | {kind}: {ended} | | | | |")
    print("\n".join(["", bench.HEAD, "|---" * bench.HEAD.count(" |") + "|", *rows]), flush=True)


def run(
    kind: str, name: str, layers: int | None, rows: int, length: int, keep: int, offload: bool
) -> None:
    """Trains by one kind, and prints its row of the table."""
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
            if kind == "ours":
                trainer.layers.keep_layers(-1 if offload else keep)
                label += f", {keep} layers kept" + (", offload" if offload else "")
        print(
            f"{torch.cuda.get_device_name()}: built in {time.monotonic() - started:.0f} s",
            flush=True,
        )
        timer = add_timer(trainer)
        trainer.train()
    print(
        bench.row(name, label, rows, length, timer.seconds, timer.peak, timer.reserved), flush=True
    )


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def version(package: str) -> str:
    return importlib.metadata.version(package)


def add_timer(trainer: Any) -> Any:
    """Has the trainer keep the seconds of a step, all that is between two steps included, and its peak memory."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        steps = 0
        seconds = peak = reserved = 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps += 1
            # Between the steps that are measured nobody waits for the GPU, as in training.
            if self.steps == bench.WARM:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                self.begun = time.perf_counter()
            if self.steps == bench.WARM + bench.MEASURED:
                torch.cuda.synchronize()
                self.seconds = (time.perf_counter() - self.begun) / bench.MEASURED
                self.peak = torch.cuda.max_memory_allocated() / 2**30
                self.reserved = torch.cuda.max_memory_reserved() / 2**30

    timer = Timer()
    trainer.add_callback(timer)
    return timer


def by_trl(
    folder: Path, kind: str, name: str, layers: int | None, rows: int, length: int
) -> tuple[Any, str]:
    """SFTTrainer around the model, with its defaults, which run every layer again in the backward pass."""
    from peft import get_peft_model
    from trl import SFTConfig, SFTTrainer

    from student.training.micro_batches import MicroBatchTrainer

    chosen: dict[str, Any] = {}
    label = f"TRL {version('trl')} as it comes"
    if kind == "liger":
        chosen["use_liger_kernel"] = True
        label = f"TRL {version('trl')} with Liger {version('liger_kernel')}"
    model = bench.quantised(name, layers)
    if kind == "ours":
        model = get_peft_model(model, bench.lora())
        fused_layers = qlora.install(model)
        data = random_rows(model.config.vocab_size, rows, length)
        trainer: Any = MicroBatchTrainer(
            model=model,
            args=SFTConfig(
                **settings(folder, rows, length),
                gradient_checkpointing=False,
                logging_nan_inf_filter=False,
            ),
            train_dataset=data.map(lambda row: {"labels": row["input_ids"]}),
            processing_class=tokeniser(model.config.vocab_size),
            limit=rows * length,
            fused=True,
            packed=True,
        )
        trainer.layers = fused_layers
        return trainer, f"TRL {version('trl')} with the fused layers"
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings(folder, rows, length), **chosen),
        train_dataset=random_rows(model.config.vocab_size, rows, length),
        processing_class=tokeniser(model.config.vocab_size),
        peft_config=bench.lora(),
    )
    return trainer, label


def by_unsloth(
    folder: Path, name: str, layers: int | None, rows: int, length: int
) -> tuple[Any, str]:
    """Unsloth's loading, adapters and trainer, as its examples have them, with our model in the checkpoint's place."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(folder / "compiled")
    from unsloth import FastLanguageModel  # isort: skip  (before trl, which it patches)
    import unsloth.models.llama as loading
    from trl import SFTConfig, SFTTrainer

    config = bench.config_of(name, layers)
    config.save_pretrained(folder / "model")
    tokeniser(config.vocab_size).save_pretrained(folder / "model")

    class Ours:
        """Stands in for the class that reads a checkpoint; the classes it builds from are Unsloth's by then."""

        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> Any:
            model = bench.quantised(name, layers)
            model.config._name_or_path = model.name_or_path = str(folder / "model")
            return model

    kept, loading.AutoModelForCausalLM = loading.AutoModelForCausalLM, Ours
    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            str(folder / "model"),
            max_seq_length=length,
            dtype=torch.bfloat16,
            load_in_4bit=True,
            use_exact_model_name=True,
        )
    finally:
        loading.AutoModelForCausalLM = kept
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
    """What has to be said for a few steps on rows of tokens; all else is SFTConfig's default."""
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


def random_rows(vocabulary: int, rows: int, length: int) -> Any:
    from datasets import Dataset

    count = rows * (bench.WARM + bench.MEASURED)
    tokens = torch.randint(
        3, vocabulary, (count, length), generator=torch.Generator().manual_seed(0)
    )
    return Dataset.from_dict({"input_ids": tokens.tolist()})


def tokeniser(vocabulary: int) -> Any:
    """A tokenizer with so many words. Trainers ask it for ids of padding and end, and its size."""
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
