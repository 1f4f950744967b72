"""Supervised fine-tuning of a student with TRL and PEFT, on token ids and labels that student/rendering/examples.py made.

The run resumes from its last checkpoint; its log has one JSON line a logged step.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.errors import InputError, StageError
from schemas.files import read_json
from student.models.base import has_vision
from student.rendering.examples import Example
from student.training import vision
from teacher.inference.llamacpp import Progress
from teacher.planning import hardware
from teacher.scenes.images import ImageStore

# Bytes left alone on a GPU: the logits of a few rows, workspaces, what the allocator cannot use.
_MARGIN = 2 * hardware.GIB


def train(
    directory: Path,
    student: dict[str, Any],
    examples: list[Example],
    held_out: list[Example],
    settings: Any,
    work: Path,
    say: Progress = print,
    album: ImageStore | None = None,
) -> dict[str, Any]:
    """Trains a student and leaves the adapter (or, with method full, the weights) in `work`/adapter.

    Args:
        directory: the untrained student (student/models/base.py). settings: the recipe's `train` section.
        examples, held_out: what is learned, and what only its loss is measured on.
        work: gets checkpoints/, log.jsonl and adapter/. album: the pictures of the examples of a student that sees.

    Returns:
        {"steps", "kept_step", "tokens", "seconds", "loss", "eval_loss"}: optimiser steps, the step whose weights are
        kept (the last, or with patience that of the lowest held-out loss), tokens passed through in all epochs, loss
        of the last logged step, and of the held-out examples at the kept step.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, PrinterCallback, TrainerState, set_seed
    from trl import SFTConfig

    from student.training import memory, quantized_base
    from student.training.micro_batches import MicroBatchTrainer, padded

    set_seed(settings.seed)
    gpu = torch.cuda.is_available()
    settings = memory.for_machine(settings, gpu)
    if not gpu:
        _keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    sees = has_vision(student)
    model = quantized_base.load(directory, settings, sees, say)
    if settings.method != "full":
        lora = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=student["lora_targets"],
            exclude_modules=vision.TOWER if sees else None,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
    fused = _fused(model, settings, say)
    packed = fused is not None and not any(e.image_names for e in (*examples, *held_out))
    longest = max(len(e.input_ids) for e in examples)
    tokens, before = _batches(model, fused, settings, longest, say)
    config = SFTConfig(
        output_dir=str(work / "checkpoints"),
        use_cpu=not gpu,
        bf16=gpu and settings.dtype == "bfloat16",
        num_train_epochs=settings.epochs,
        # All examples of a step; student/training/micro_batches.py divides them by what memory holds.
        per_device_train_batch_size=settings.batch_size * settings.accumulation,
        gradient_checkpointing=gpu and fused is None,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_ratio,
        max_grad_norm=1.0,
        # Where rows are padded, neighbours in length share a step.
        train_sampling_strategy="random" if packed else "group_by_length",
        max_length=None,  # nothing is cut: what is too long was rejected by name before
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=not sees,  # the collator reads the pictures' names
        eval_strategy=("steps" if settings.patience else "epoch") if held_out else "no",
        eval_steps=settings.save_steps if settings.patience else None,
        load_best_model_at_end=bool(settings.patience),
        metric_for_best_model="eval_loss" if settings.patience else None,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,  # it waits for the GPU at each step, and would hide what went wrong
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=gpu,
    )
    trainer = MicroBatchTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([vars(e) for e in examples]),
        eval_dataset=Dataset.from_list([vars(e) for e in held_out]) if held_out else None,
        processing_class=tokenizer,
        callbacks=[_Log(work / "log.jsonl", say, settings.patience)],
        limit=tokens,
        fused=fused is not None,
        packed=packed,
        pad=vision.Collator(directory, album) if sees else padded,
        before=before,
    )
    trainer.remove_callback(PrinterCallback)  # `say` tells it; standard output is the command's
    checkpoint = _last_checkpoint(work / "checkpoints")
    if checkpoint:
        say(f"continuing from {checkpoint.name}")
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    started = time.monotonic()
    if settings.patience and _out_of_patience(trainer.state.log_history, settings.patience):
        # It was killed after it had stopped. Asked to go on, the trainer would take another step.
        best = work / "checkpoints" / f"checkpoint-{trainer.state.best_global_step}"
        trainer._load_from_checkpoint(str(best))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(work / "adapter"))
    state = trainer.state
    measured = [row for row in state.log_history if "eval_loss" in row]
    kept = (state.best_global_step if settings.patience else None) or state.global_step
    if kept != state.global_step:
        say(f"kept the weights of step {kept}, whose held-out loss is the lowest")
    return {
        "steps": state.global_step,
        "kept_step": kept,
        "tokens": int(sum(len(e.input_ids) for e in examples) * (state.epoch or 0)),
        "seconds": round(time.monotonic() - started, 1),
        "loss": next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None),
        "eval_loss": next(
            (row["eval_loss"] for row in reversed(measured) if row["step"] <= kept), None
        ),
    }


def _out_of_patience(history: list[dict[str, Any]], patience: int) -> bool:
    """Whether the held-out loss has not been lower for `patience` evaluations; read from the trainer's history, so
    that a run that is continued decides as one that was not interrupted."""
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def _last_checkpoint(directory: Path) -> Path | None:
    """The newest whole checkpoint: its state is written last, so one that a kill cut short has none, or half of one."""
    states = directory.glob("checkpoint-*/trainer_state.json")
    whole = [state.parent for state in states if _is_json(state)]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except InputError:
        return False
    return True


def _fused(model: Any, settings: Any, say: Progress) -> Any:
    """The model's fused layers (student/kernels/fused_layers.py), or None where it trains as it comes, which is said."""
    from student.kernels import fused_layers

    if settings.method == "full":
        return None
    try:
        return fused_layers.install(model)
    except ValueError as error:
        say(f"training without fused layers: {error}")
        return None


def _batches(
    model: Any, fused: Any, settings: Any, longest: int, say: Progress
) -> tuple[int, Callable[[int], None]]:
    """How many tokens are computed at once, and what to do before each micro-batch: with fused layers, as many of them
    keep their activations as there is memory for (student/training/memory.py)."""
    import torch

    from student.models.introspect import shape_of
    from student.training import memory

    if fused is None:
        return settings.micro_batch or settings.batch_size * longest, lambda tokens: None
    shape, element = shape_of(model.config.get_text_config()), model.dtype.itemsize
    free = _free_memory(model)
    gpu = hardware.find().gpu if torch.cuda.is_available() else None
    tokens = settings.micro_batch
    if tokens is None:
        read = memory.bytes_read(settings)
        tokens = memory.choose_batch(shape, settings.rank, free, gpu, read, element)

    def before(tokens: int) -> None:
        fused.keep_layers(memory.layers_to_keep(shape, tokens, free, settings.rank, element))

    batch = memory.batch_of(shape, settings.rank, free, tokens, longest, element)
    said = memory.batch_said(batch, shape["layers"])
    say(f"fused layers: {said} ({free / hardware.GIB:.1f} GiB free for activations)")
    return tokens, before


def _free_memory(model: Any) -> int:
    """Bytes of the GPU, or of the host where there is none, that are left for activations once the adapter has
    gradients and the optimiser its state."""
    import psutil
    import torch

    states = 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    if not torch.cuda.is_available():
        return int(0.8 * psutil.virtual_memory().available) - states
    free, _ = torch.cuda.mem_get_info()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free + unused - states - _MARGIN


def _keep_freed_memory() -> None:
    """Has glibc keep large freed blocks instead of giving them back to the kernel.

    Each step frees and takes again the same large tensors; without this a quarter of the time goes into page faults
    (145 against 188 tokens/s on two cores, benchmarks/README.md). No effect where the C library is another.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD of malloc.h: below this, take from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not shrink the heap


def _Log(path: Path, say: Progress, patience: int | None) -> Any:
    """A callback that writes each logged step to `path`, says it with the time that is left, and ends the training
    when the held-out loss has not been better for `patience` evaluations."""
    import torch
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun, self.first = time.monotonic(), state.global_step
            # What was logged after the checkpoint that is continued from is logged again.
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            rows = [line for line in lines if line.endswith("}")]  # a kill may cut the last short
            kept = [row for row in rows if json.loads(row)["step"] <= state.global_step]
            path.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")

        def on_epoch_begin(
            self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
        ) -> None:
            # The order is drawn from torch's global state otherwise, which a run that is continued within an epoch
            # has lost: it would learn some examples twice and others never.
            order = torch.Generator().manual_seed(args.seed + int(state.epoch or 0))
            train_dataloader.batch_sampler.sampler.generator = order

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if patience and _out_of_patience(state.log_history, patience):
                say(
                    f"stopped at step {state.global_step}: no better held-out loss in {patience} evaluations"
                )
                control.should_training_stop = True

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if not logs or not {"loss", "eval_loss"} & set(logs):
                return
            if not math.isfinite(logs.get("loss", 0)):
                raise StageError(
                    f"step {state.global_step}: the loss is {logs['loss']}: a lower train.learning_rate may help"
                )
            row = {"step": state.global_step, "epoch": round(state.epoch or 0, 3), **logs}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            done = state.global_step - self.first
            if "loss" in logs and done:
                left = (
                    (time.monotonic() - self.begun) / done * (state.max_steps - state.global_step)
                )
                say(
                    f"step {state.global_step} of {state.max_steps}, loss {logs['loss']:.3f},"
                    f" {logs['tokens_s']:,.0f} tokens/s, {logs['memory_gib']:.1f} GiB, {left / 60:.0f} min left"
                )
            elif "eval_loss" in logs:
                say(f"held-out loss {logs['eval_loss']:.3f}")

    return Log()
